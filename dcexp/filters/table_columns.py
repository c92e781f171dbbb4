"""One column of a table, as it stands there: read once, so that any part of a pool can pick its numbers."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file
from dcexp.engines.base import Engine
from dcexp.filters.table_files import Numbers, number_pieces

BLOCK = 1 << 20  # pairs of rows that are compared together


class TableColumn(Artifact):
    """``00000.npy``, …: the numbers of the column in each file of the table, float64, NaN where there is none."""

    kind = "column"

    def at(self, rows: Numbers) -> Numbers:
        """The numbers in ``rows`` of the table, counted from 0 through all files; NaN for NaN, shape (len(rows),)."""
        files = self._files()
        ends = np.cumsum([len(numbers) for numbers in files])
        there = np.flatnonzero(~np.isnan(rows))
        wanted, found = rows[there].astype(np.int64), np.full(len(rows), np.nan)
        of_file = np.searchsorted(ends, wanted, side="right")
        for number in np.unique(of_file).tolist():
            here = of_file == number
            found[there[here]] = files[number][wanted[here] - (ends[number] - len(files[number]))]
        return found

    def require_agreement(self, again: Path, files: tuple[Path, ...]) -> None:
        """Raise ValueError when two rows that the file ``again`` pairs hold different numbers."""
        pairs = np.load(again, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(pairs), BLOCK):
            later, first = pairs[start : start + BLOCK].T.astype(np.float64)
            a, b = self.at(first), self.at(later)
            differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            if differ.any():
                i = int(differ.argmax())
                raise ValueError(
                    f"the table gives one uid two scores: {a[i]} in {self._place(first[i], files)} and {b[i]} in "
                    f"{self._place(later[i], files)}; leave one of them out"
                )

    def _files(self) -> list[npt.NDArray[Any]]:
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(self.path.glob("*.npy"))]

    def _place(self, row: float, files: tuple[Path, ...]) -> str:
        starts = np.cumsum([0, *map(len, self._files())])
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"row {int(row) - int(starts[number]):,} of {files[number]}"


def write_column(folder: Path, engine: Engine, files: tuple[Path, ...], column: str, rows: list[int]) -> None:
    """Write the numbers in ``column`` of every file, which must have that many ``rows``; those there are kept."""
    items = list(zip(range(len(files)), files, rows, strict=True))
    for _ in engine.map(partial(_write, folder, column), items, what=f"read {column}"):
        pass


def _write(folder: Path, column: str, item: tuple[int, Path, int]) -> None:
    number, path, rows = item
    out, count = folder / f"{number:05d}.npy", 0
    if out.is_file():
        return
    with whole_file(out) as file:
        header = np.lib.format.header_data_from_array_1_0(np.empty(0))
        np.lib.format.write_array_header_1_0(cast(Any, file), {**header, "shape": (rows,)})
        for numbers in number_pieces(path, column):
            file.write(numbers.data)
            count += len(numbers)
        if count != rows:
            raise ValueError(f"{path}: column {column!r} has {count:,} entries for {rows:,} uids")
