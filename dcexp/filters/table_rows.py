"""Where the samples of a pool stand in a table that others have made: found once, for all of its columns."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.files import content_digest, remove_folder, whole_file, write_json
from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.filters.table_files import require_column, table_files
from dcexp.filters.table_formats import FORMATS, UID_NAME, uids_beside
from dcexp.filters.table_order import AGAIN, ROWS, UIDS, sort_table
from dcexp.stage import Step

FOLDER = "sorted"  # the uids of the table in order; gone when every sample is found
NOTE = "table.json"


@dataclass(frozen=True, kw_only=True)
class TableRow(Score):
    """The row of a ``table`` in which each sample's uid stands, counted from 0 through all its files; else none.

    See :class:`~dcexp.filters.imported.ImportedScore`. Where a uid stands in several rows, it is the first of them,
    and ``again.npy`` in the artifact pairs every later one with it, shape (n, 2). The summary's ``table`` says how
    many ``rows`` each file has, how many ``distinct`` uids, and how many of these are ``unknown`` to the pool.

    Memory, for T rows in the table and n in the largest part: in a worker 140 MB to sort, 200 n bytes to look up; in
    the parent about 100 bytes for each of the rows merged together (T / 4096, at least 0.5 million), and T in the end.
    Meanwhile 56 T bytes lie on the disk, of which 24 T are mapped.
    """

    table: str = field(compare=False)

    columns = (UID_NAME,)

    def extra(self, pool: Step) -> dict[str, Any]:
        """The digests of the table's files."""
        return {"files": digests(self.table)}

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when the table is not there, ValueError when it is none."""
        if not (files := files_of(self.table)):
            raise FileNotFoundError(f"table={self.table}: no such file, or a folder without tables. Wanted {FORMATS}")
        for path in files:
            require_column(path, UID_NAME)

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """Sort the table's uids, look every sample up, and count. Raises ValueError for a table that will not do."""
        self.check(engine)
        require_unchanged(self.table, extra["files"])
        (folder := out / FOLDER).mkdir(exist_ok=True)
        if (note := out / NOTE).is_file():  # all was done but to end
            summary = super().run(out, engine, pool=pool)
        else:
            rows = sort_table(folder, engine, files_of(self.table))
            table = SortedTable(folder)
            summary = super().run(out, engine, pool=pool, table=table)
            with whole_file(out / AGAIN) as file:
                np.save(file, table.again())
            write_json(note, {"rows": rows, **table.counts()})
        remove_folder(folder)
        return replace(summary, facts={"table": json.loads(note.read_text())})

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The row of the table, float64 (exact up to 2 ** 53)."""
        table = extra["table"]
        assert isinstance(table, SortedTable)
        return table.look_up(rows.uids(), rows.number)


class SortedTable(Artifact):
    """What :func:`sort_table` writes; ``found-*.npy`` say which of its uids a part of the pool has."""

    kind = "table"

    def look_up(self, uids: Uids, number: int) -> npt.NDArray[np.float64]:
        """The row of each uid, NaN where there is none, shape (len(uids),); notes which uids part ``number`` has."""
        at, count = find_in(self._array(UIDS), uids)
        there = count > 0
        rows = np.full(len(uids), np.nan)
        rows[there] = self._array(ROWS)[at[there]]
        with whole_file(self.path / f"found-{number:08d}.npy") as file:
            np.save(file, at[there])
        return rows

    def again(self) -> npt.NDArray[np.int64]:
        """Pairs of rows with the same uid: a later one, and the first."""
        return self._array(AGAIN)

    def counts(self) -> dict[str, int]:
        """How many different uids there are, and how many of them no part of the pool has."""
        found = np.zeros(len(self._array(UIDS)), dtype=bool)
        for path in self.path.glob("found-*.npy"):
            found[np.load(path, allow_pickle=False)] = True
        return {"distinct": len(found), "unknown": len(found) - int(found.sum())}

    def _array(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        return array


def files_of(table: str) -> tuple[Path, ...]:
    """The files of the table that a field names."""
    return table_files(Path(table).expanduser().resolve())


def digests(table: str) -> list[str]:
    """The sha256 of every file of a table, those with the uids of .npy files last."""
    files = files_of(table)
    beside = [uids_beside(path) for path in files if path.suffix == ".npy"]
    return [content_digest(path) for path in (*files, *beside) if path.is_file()] or ["missing"]


def require_unchanged(table: str, before: list[str]) -> None:
    """Raise ValueError when the files of a table are not those that the run was planned with."""
    if before != digests(table):
        raise ValueError(f"table={table} was changed while the run was going; give the same command again")
