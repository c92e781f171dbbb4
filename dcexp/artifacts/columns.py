"""Columns of arrays in one .npz file: what is known of many samples, without an object for each."""

import io
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file

Column = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Subclasses have arrays as fields, and may have ``names``, a list of text of any number and length.

    Not ``durable``: such a file need not outlive a crash of the machine.
    """

    durable: ClassVar[bool] = False

    def save(self, path: Path) -> None:
        """Write all columns to ``path``."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        if "names" in columns:
            columns["names"] = np.array(json.dumps(columns["names"]))
        with whole_file(path, durable=self.durable) as file:
            np.savez(file, allow_pickle=False, **columns)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as npz:
            columns: dict[str, Any] = {f.name: npz[f.name] for f in fields(cls)}
        if "names" in columns:
            columns["names"] = json.loads(str(columns["names"]))
        return cls(**columns)


def ranges(starts: Column, counts: Column) -> Column:
    """``starts[i], starts[i] + 1, …``: ``counts[i]`` numbers for every i, one behind the other."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
