"""Rows of a pool brought together by a key: all of a key at once, a range of keys at a time, through the disk.

Every part's rows are sorted by key and copied; then ranges of keys are read out of all parts, and what is found about
each row is given back to its part. So memory is that of a part or a range, however large the pool.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.merge import Range, UidFile, ranges_of
from dcexp.artifacts.uid import Uids, begins, firsts

Arrays = dict[str, npt.NDArray[Any]]
Indices = npt.NDArray[np.int64]

KEYS, ROWS, VALUES, ENDS = "keys", "rows", "values", "ends"


class Groups(Artifact):
    """What is copied: ``<part>.<name>.npy``, in the order of its keys; and found: ``range-<number>.<name>.npy``."""

    kind = "groups"

    def has(self, part: int) -> bool:
        """Whether a part has been copied; its keys are written last."""
        return self._file(part, KEYS).is_file()

    def put(self, part: int, rows: Indices, keys: Uids, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy the ``rows`` of a part, their ``keys`` and some more ``arrays``, each with one entry per row."""
        order = np.lexsort((keys["f1"], keys["f0"]))
        for name, array in {**arrays, ROWS: rows, KEYS: keys}.items():
            self._save(f"{part:08d}", name, array[order])

    def ranges(self, parts: int, size: int) -> list[Range]:
        """Ranges of keys of about ``size`` rows; those of one key are never parted."""
        return ranges_of([UidFile(self._file(part, KEYS)) for part in range(parts)], size)

    def gathered(self, parts: int, edges: Range, names: Sequence[str]) -> tuple[Uids, Arrays, Indices]:
        """The keys of a range, the arrays of these ``names``, and where the rows of each part end among them."""
        spans = [UidFile(self._file(part, KEYS)).span(edges) for part in range(parts)]
        held = {name: self._gathered(name, spans) for name in (KEYS, *names)}
        return held.pop(KEYS), held, np.cumsum([last - first for first, last in spans])

    def has_found(self, number: int) -> bool:
        """Whether all of a range has been given back."""
        return self._file(number, ENDS, "range-").is_file()

    def give_back(self, number: int, values: npt.NDArray[Any], ends: Indices) -> None:
        """Write what was found in a range, in the order of :meth:`gathered`."""
        self._save(f"range-{number:08d}", VALUES, values)
        self._save(f"range-{number:08d}", ENDS, ends)

    def found(self, part: int, rows: int) -> npt.NDArray[np.floating]:
        """What was found about the ``rows`` of a part in all ranges, NaN for those that were not copied."""
        pieces = []
        for number in range(len(list(self.path.glob(f"range-*.{ENDS}.npy")))):
            ends = self._load(number, ENDS, "range-")
            first = int(ends[part - 1]) if part else 0
            pieces.append(self._load(number, VALUES, "range-")[first : int(ends[part])])
        values = np.full(rows, np.nan, np.result_type(*pieces))
        values[self._load(part, ROWS)] = np.concatenate(pieces)
        return values

    def _gathered(self, name: str, spans: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        own = [self._load(part, name)[first:last] for part, (first, last) in enumerate(spans) if first < last]
        return np.concatenate(own) if own else np.empty(0)

    def _file(self, number: int, name: str, prefix: str = "") -> Any:
        return self.path / f"{prefix}{number:08d}.{name}.npy"

    def _load(self, number: int, name: str, prefix: str = "") -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self._file(number, name, prefix), mmap_mode="r", allow_pickle=False)
        return array

    def _save(self, stem: str, name: str, array: npt.NDArray[Any]) -> None:
        with whole_file(self.path / f"{stem}.{name}.npy") as file:
            np.save(file, array)


def in_order(keys: Uids, *by: npt.NDArray[Any]) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """The order of rows by key, and within a key by ``by``, the most decisive first; and where in it keys begin."""
    order = np.lexsort((*reversed(by), keys["f1"], keys["f0"]))
    return order, firsts(keys[order])


def places(order: Indices, new: npt.NDArray[np.bool_]) -> Indices:
    """How many rows of the same key come before each row, by the outcome of :func:`in_order`, shape (rows,)."""
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - begins(new)
    return found
