"""The second moment of a set of features: what the sum of squared cosines with all of them is made of."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file

_MOMENT = "moment.npy"


class Moment(Artifact):
    """``moment.npy``: the sum of the outer products of features of length 1, shape (width, width), float64."""

    kind = "moment"

    def matrix(self) -> npt.NDArray[np.float64]:
        """The sum."""
        matrix: npt.NDArray[np.float64] = np.load(self.path / _MOMENT, allow_pickle=False)
        return matrix


def write_moment(out: Path, matrix: npt.NDArray[np.float64]) -> None:
    """Write ``moment.npy``, whole or not at all."""
    with whole_file(out / _MOMENT) as file:
        np.save(file, matrix)
