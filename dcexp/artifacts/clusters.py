"""Clusters of a pool: their centroids; and which of them a set of target images falls into."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file

_CENTROIDS, _COUNTS = "centroids.npy", "counts.npy"


class Centroids(Artifact):
    """``centroids.npy``: one row per cluster, shape (clusters, width), as published (not normalised)."""

    kind = "centroids"

    def rows(self) -> npt.NDArray[np.floating]:
        """The centroids, memory-mapped (in private: torch wants arrays it could write into)."""
        centroids: npt.NDArray[np.floating] = np.load(self.file, mmap_mode="c", allow_pickle=False)
        return centroids

    @property
    def file(self) -> Path:
        """Where they are."""
        return self.path / _CENTROIDS


class Clusters(Artifact):
    """``counts.npy``: how many target images are nearest to each centroid, shape (clusters,), int64."""

    kind = "clusters"

    def counts(self) -> npt.NDArray[np.int64]:
        """The counts; a cluster is one of the target's where its count is above zero."""
        counts: npt.NDArray[np.int64] = np.load(self.path / _COUNTS, allow_pickle=False)
        return counts


def write_centroids(out: Path, rows: npt.NDArray[np.floating]) -> None:
    """Write ``centroids.npy``, whole or not at all."""
    _write(out / _CENTROIDS, rows)


def write_counts(out: Path, counts: npt.NDArray[np.int64]) -> None:
    """Write ``counts.npy``, whole or not at all."""
    _write(out / _COUNTS, counts)


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    with whole_file(path) as file:
        np.save(file, array)
