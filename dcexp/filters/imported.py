"""Scores that others have made, joined to the pool by uid: HYPE, DFN, T-MARS and M-FLYT's columns come this way."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.files import content_digest, write_json
from dcexp.artifacts.pool import Pool
from dcexp.engines.base import Engine
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.filters.score_table import NOTE, ScoreTable, write_table
from dcexp.filters.table_files import FORMATS, table_files
from dcexp.stage import Step

FOLDER = "table"  # the table in the order of its uids; gone with the last score


@dataclass(frozen=True, kw_only=True)
class ImportedScore(Score):
    """The numbers in ``column`` of a ``table`` keyed by uid; rows of the pool that it does not have, have no score.

    The table is a .parquet, .csv, .npz or .npy, or a folder of them, and known by its content: it may lie anywhere.
    Uids are 32 hexadecimal digits, or ``u8,u8``. Uids that the pool lacks are counted. A uid may stand there twice
    with the same score, for a pool, and so what is made of it, may hold it twice; two different scores are refused.
    So is a table in which fewer than ``coverage`` (0 to 1) of the pool's readable rows have a number.

    Memory, for T rows in the table and n in the largest part: about 80 MB and 100 n bytes in a worker; in the parent
    about 100 bytes for each of the rows merged together (T / 4096, at least 0.5 million), and T in the end. The
    sorted table takes 48 T on the disk meanwhile. Equal scores in equal tables give equal bytes, in any order of rows.
    """

    table: str = field(compare=False)
    column: str = "score"
    coverage: float = 0.5

    columns = ("uid",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage={self.coverage}: wanted 0 to 1, the share of the pool that must have a score")

    def extra(self, pool: Step) -> dict[str, Any]:
        """The digests of the table's files."""
        return {"files": self._digests()}

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when the table is not there."""
        if not table_files(self._path):
            raise FileNotFoundError(
                f"table={self.table}: no such file, or a folder without tables ({self._path}). Wanted {FORMATS}"
            )

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """Sort the table, look every row up, and count. Raises ValueError for a table that will not do."""
        self.check(engine)
        if extra.get("files", self._digests()) != self._digests():
            raise ValueError(f"{self._path} was changed while the run was going; give the same command again")
        (folder := out / FOLDER).mkdir(exist_ok=True)
        if (out / NOTE).is_file():  # all was done but to end
            summary = super().run(out, engine, pool=pool)
            counts = ScoreTable(out).counts()
        else:
            counts = write_table(folder, engine, table_files(self._path), self.column)
            table = ScoreTable(folder)
            summary = super().run(out, engine, pool=pool, table=table)
            counts["unknown"] = table.unknown(counts["distinct"])
            self._judge(summary, counts)
            write_json(out / NOTE, counts)
        shutil.rmtree(folder)
        facts = {**summary.facts, "table": counts, "coverage": _coverage(summary)}
        return replace(summary, facts=facts)

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The numbers, float64."""
        table = extra["table"]
        assert isinstance(table, ScoreTable)
        return table.look_up(rows.uids(), rows.number)

    @property
    def _path(self) -> Path:
        return Path(self.table).expanduser().resolve()

    def _digests(self) -> list[str]:
        beside = [p.with_name(f"{p.stem}.uids.npy") for p in table_files(self._path) if p.suffix == ".npy"]
        found = [*table_files(self._path), *(p for p in beside if p.is_file())]
        return [content_digest(path) for path in found] or ["missing"]

    def _judge(self, summary: Summary, counts: dict[str, int]) -> None:
        kept, total = summary.counts.kept, summary.counts.total - summary.counts.corrupt
        if kept == 0 or _coverage(summary) < self.coverage:
            raise ValueError(
                f"{self._path}: column {self.column!r} has a score for {kept:,} of the pool's {total:,} samples "
                f"({_coverage(summary):.1%}), wanted coverage={self.coverage:.0%}; {counts['unknown']:,} of the "
                f"table's {counts['distinct']:,} uids are not in the pool. Is it a table for another pool? If not, "
                "lower coverage"
            )


def _coverage(summary: Summary) -> float:
    return summary.counts.kept / max(summary.counts.total - summary.counts.corrupt, 1)
