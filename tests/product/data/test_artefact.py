"""A watermark that stands in for a class while a network is trained is a group of heatmaps of its own."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shown.artefact import CLASS, MARK, planted


@pytest.mark.heavy
def test_a_planted_watermark_is_a_group_of_its_own(tmp_path: Path) -> None:
    summary, bears = planted(tmp_path)

    spoilt = summary.classes[0]  # the report names it first
    assert spoilt.number == CLASS
    hits = [bears[np.array(group.ids, int)] for group in spoilt.groups]
    own = max(range(len(hits)), key=lambda number: hits[number].mean())
    assert hits[own].mean() > 0.95  # the group is of the mark
    assert hits[own].sum() > 0.95 * sum(hit.sum() for hit in hits)  # and holds all that bear it
    shares = [_share(group.mean) for group in spoilt.groups]
    area = 16 / 28**2
    assert shares[own] > 5 * area  # the picture of the group shows where
    assert max(share for number, share in enumerate(shares) if number != own) < area


def _share(mean: np.ndarray) -> float:
    """Of the relevance for the class, what lies on the mark."""
    positive = np.maximum(mean, 0)
    return float(positive[MARK].sum() / positive.sum())
