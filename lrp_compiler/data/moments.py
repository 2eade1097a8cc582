"""Means with intervals, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Z = 1.96
"""Standard errors on either side of a mean that make a 95 % interval, by the normal distribution."""


@dataclass
class Moments:
    """Of arrays of one shape, each place by itself.

    Args:
        count: values at a place, `[places]`.
        total: their sum.
        squares: the sum of their squares.
    """

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, places: int) -> Moments:
        """None yet."""
        return cls(*(np.zeros(places) for _ in range(3)))

    def add(self, values: np.ndarray) -> None:
        """Add `[rows, places]`."""
        values = values.astype(np.float64)
        self.count += len(values)
        self.total += values.sum(0)
        self.squares += (values**2).sum(0)

    def add_at(self, places: np.ndarray, values: np.ndarray) -> None:
        """Add a value at each of these places, `[values]`; new places are made."""
        more = int(places.max(initial=-1)) + 1 - len(self.count)
        if more > 0:
            for name in ("count", "total", "squares"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more)]))
        values, size = values.astype(np.float64), len(self.count)
        self.count += np.bincount(places, minlength=size)
        self.total += np.bincount(places, values, size)
        self.squares += np.bincount(places, values**2, size)

    @property
    def mean(self) -> np.ndarray:
        """0 where there is nothing."""
        return self.total / np.maximum(self.count, 1)

    @property
    def margin(self) -> np.ndarray:
        """Half of the mean's 95 % interval; infinite where there are fewer than two values."""
        several = np.maximum(self.count - 1, 1)
        variance = np.maximum(self.squares - self.count * self.mean**2, 0) / several
        return np.where(self.count > 1, Z * np.sqrt(variance / np.maximum(self.count, 1)), np.inf)
