"""Scores: a number for every row of a pool, kept so that many selections can share it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file


class Scores(Artifact):
    """``<number of the part>.npy``: one number per row of that part, in its order; NaN where there is none."""

    kind = "scores"

    def of_part(self, number: int) -> npt.NDArray[Any]:
        """The numbers of one part, memory-mapped, shape (rows of the part,)."""
        values: npt.NDArray[Any] = np.load(scores_file(self.path, number), mmap_mode="r", allow_pickle=False)
        return values

    def is_damaged(self, number: int) -> bool:
        """Whether a part has no numbers because its files could not be read."""
        return damaged_mark(self.path, number).is_file()


class Assigned(Scores):
    """The distance of every row to the centre of its cluster, and beside it which cluster that is."""

    def clusters(self, number: int) -> npt.NDArray[np.int32]:
        """The clusters of one part's rows, memory-mapped, shape (rows of the part,); -1 where there is none."""
        if self.is_damaged(number):
            return np.full(len(self.of_part(number)), -1, np.int32)
        ids: npt.NDArray[np.int32] = np.load(_clusters_file(self.path, number), mmap_mode="r", allow_pickle=False)
        return ids

    def write_clusters(self, number: int, ids: npt.NDArray[np.int32]) -> None:
        """Write the clusters of one part, whole or not at all."""
        with whole_file(_clusters_file(self.path, number)) as file:
            np.save(file, ids)


def _clusters_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.clusters.npy"


def damaged_mark(folder: Path, number: int) -> Path:
    """An empty file that says so."""
    return scores_file(folder, number).with_suffix(".damaged")


def scores_file(folder: Path, number: int) -> Path:
    """Where the numbers of one part lie."""
    return folder / f"{number:08d}.npy"


def write_scores(folder: Path, number: int, values: npt.NDArray[Any]) -> None:
    """Write the numbers of one part, whole or not at all."""
    with whole_file(scores_file(folder, number)) as file:
        np.save(file, values)
