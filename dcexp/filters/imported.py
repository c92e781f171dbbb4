"""Scores that others have made, joined to the pool by uid: HYPE, DFN, T-MARS and M-FLYT's columns come this way."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.pool import DamagedError, Pool
from dcexp.artifacts.scores import Scores
from dcexp.engines.base import Engine
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.filters.table_columns import TableColumn, write_column
from dcexp.filters.table_files import require_column
from dcexp.filters.table_order import AGAIN
from dcexp.filters.table_rows import TableRow, digests, files_of, require_unchanged
from dcexp.stage import Step

FOLDER = "column"  # the numbers in the order of the table; gone with the last score


@dataclass(frozen=True, kw_only=True)
class ImportedScore(Score):
    """The numbers in ``column`` of a ``table`` keyed by uid; rows of the pool that it does not have, have no score.

    The table is a .parquet, .csv, .npz or .npy, or a folder of them, and known by its content: it may lie anywhere.
    Uids are 32 hexadecimal digits, or ``u8,u8``. Uids that the pool lacks are counted. A uid may stand there twice
    with the same score, for a pool, and so what is made of it, may hold it twice; two different scores are refused.
    So is a table in which fewer than ``coverage`` (0 to 1) of the pool's readable rows have a number.

    Where the pool's samples stand in the table is found once for all its columns
    (:class:`~dcexp.filters.table_rows.TableRow`); then a column is read once and its numbers are picked. Memory, for n
    rows in the largest part: 80 MB and 60 n bytes in a worker. The column takes 8 bytes a row of the table on the disk
    meanwhile, which the workers map. Equal scores in equal tables give equal bytes, in any order of rows.
    """

    table: str = field(compare=False)
    column: str = "score"
    coverage: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage={self.coverage}: wanted 0 to 1, the share of the pool that must have a score")

    def extra(self, pool: Step) -> dict[str, Any]:
        """Where the samples stand in the table, and the digests of its files."""
        return {"places": TableRow(table=self.table).step(pool), "files": digests(self.table)}

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise ValueError when the table lacks the column. (That there is a table, TableRow sees to.)"""
        for path in files_of(self.table):
            require_column(path, self.column)

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """Read the column, pick every row's number, and count. Raises ValueError for numbers that will not do."""
        self.check(engine)
        require_unchanged(self.table, extra["files"])
        places: Scores = extra["places"]
        rows = places.summary["table"]["rows"]
        table = {**places.summary["table"], "rows": sum(rows)}
        (folder := out / FOLDER).mkdir(exist_ok=True)
        files = files_of(self.table)
        write_column(folder, engine, files, self.column, rows)
        numbers = TableColumn(folder)
        numbers.require_agreement(places.path / AGAIN, files)
        summary = super().run(out, engine, pool=pool, places=places, numbers=numbers)
        self._judge(summary, table)
        remove_folder(folder)
        return replace(summary, facts={**summary.facts, "table": table, "coverage": _coverage(summary)})

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The numbers, float64."""
        places, numbers = extra["places"], extra["numbers"]
        assert isinstance(places, Scores) and isinstance(numbers, TableColumn)
        if places.is_damaged(rows.number):
            raise DamagedError(f"{rows.part.parquet} could not be read when its uids were looked up")
        return numbers.at(rows.of_part(places.of_part(rows.number)))

    def _judge(self, summary: Summary, table: dict[str, Any]) -> None:
        kept, total = summary.counts.kept, summary.counts.total - summary.counts.corrupt
        if kept == 0 or _coverage(summary) < self.coverage:
            another = "Is it a table for another pool? If not, " if table["unknown"] else "To go by it all the same, "
            remedy = f"{another}lower coverage" if kept else "Nothing can be chosen by it"
            raise ValueError(
                f"table={self.table}: column {self.column!r} has a score for {kept:,} of the pool's {total:,} samples "
                f"({_coverage(summary):.1%}), wanted coverage={self.coverage:.0%}; {table['unknown']:,} of the table's "
                f"{table['distinct']:,} uids are not in the pool. {remedy}"
            )


def _coverage(summary: Summary) -> float:
    return summary.counts.kept / max(summary.counts.total - summary.counts.corrupt, 1)
