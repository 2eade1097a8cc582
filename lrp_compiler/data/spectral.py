"""Which heatmaps are alike: spectral relevance analysis (SpRAy; Lapuschkin et al., Nat. Commun. 10:1096, 2019).

Maps of one class are the nodes of a graph, each joined to its nearest neighbours; groups are read off the eigenvectors
of the graph's normalised Laplacian (Ng, Jordan and Weiss, NIPS 2001), and their number off the gap between its
eigenvalues. A strategy of its own, as a watermark
that stands in for the class, is a group of its own. Needs scikit-learn, by the extra `summary`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
LEAST = 4 * NEIGHBOURS
"""Maps below which nothing is grouped."""
MOST = 8
"""Groups of a class, at most."""
FAR = 1.5
"""Local outlier factor from which a map is one of no group."""


@dataclass(frozen=True)
class Groups:
    """Of the maps of one class.

    Args:
        labels: int `[maps]`, the group of each, the largest group first.
        eigenvalues: of the normalised Laplacian, ascending, `[at most MOST + 1]`; as many are near 0 as groups are
            cut off from each other.
        apart: mean silhouette of the maps, −1 to 1: how much nearer a map is to its own group than to the next one; 0
            where there is one group alone.
        outliers: places of maps that are far from all others, the farthest first.
    """

    labels: np.ndarray
    eigenvalues: np.ndarray
    apart: float
    outliers: list[int]


def groups(maps: np.ndarray, seed: int = 0) -> Groups:
    """Group heatmaps.

    Args:
        maps: float `[maps, places]`; each is taken by its direction, so that strength does not count.
        seed: of the places where k-means begins.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import LocalOutlierFactor, kneighbors_graph

    if len(maps) < LEAST:
        return Groups(np.zeros(len(maps), np.int64), np.zeros(0), 0.0, [])
    size = np.linalg.norm(maps.astype(np.float64), axis=1, keepdims=True)
    alike = maps / np.where(size > 0, size, 1)
    joined = kneighbors_graph(alike, NEIGHBOURS).toarray()
    joined = np.maximum(joined, joined.T)
    scale = 1 / np.sqrt(joined.sum(1))
    values, vectors = np.linalg.eigh(np.eye(len(maps)) - scale[:, None] * joined * scale)
    values = values[: MOST + 1]
    count = int(np.diff(values).argmax()) + 1
    places = vectors[:, :count] / np.maximum(np.linalg.norm(vectors[:, :count], axis=1, keepdims=True), 1e-12)
    labels = _largest_first(KMeans(count, n_init=10, random_state=seed).fit(places).labels_)
    apart = float(silhouette_score(alike, labels)) if len(set(labels.tolist())) > 1 else 0.0
    factors = -LocalOutlierFactor(NEIGHBOURS).fit(alike).negative_outlier_factor_
    far = [int(place) for place in np.argsort(-factors, kind="stable") if factors[place] > FAR]
    return Groups(labels, values, apart, far)


def _largest_first(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    found: np.ndarray = rank[labels]
    return found
