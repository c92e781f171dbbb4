"""Examples of what a selection kept and dropped, to look at: uid, text, score."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.artifacts.subset import EXAMPLES
from dcexp.artifacts.uid import UID, Indices, Uids, format_uid
from dcexp.engines.base import Engine
from dcexp.filters.rows import plain

EACH = 20  # examples of kept, and of dropped samples
VISITED, LOOKED_AT = 4, 4096  # parts they are taken from, and first rows of each among which they are found

Scored = Callable[[int, Part], npt.NDArray[Any] | None]  # the numbers that decided about the rows of a part


def no_scores(number: int, part: Part) -> None:
    """For filters that do not decide by a number."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The first rows of one part: what they are, before it is known whether they are kept."""

    uids: Uids
    texts: list[str | None]
    scores: npt.NDArray[Any] | None

    def example(self, row: int, times: int) -> dict[str, Any]:
        """One line of ``examples.parquet``."""
        score = None if self.scores is None or np.isnan(self.scores[row]) else float(self.scores[row])
        uid = format_uid(self.uids[row])
        return {"kept": times > 0, "uid": uid, "text": self.texts[row], "score": score, "times": times}


def look(engine: Engine, pool: Pool, scored: Scored) -> list[Looked]:
    """Look at the first rows of parts that lie far apart."""
    order = sorted(range(len(pool.parts)), key=lambda number: int(f"{number:032b}"[::-1], 2))
    visited = [(number, pool.parts[number]) for number in order if pool.parts[number].rows][:VISITED]
    return list(engine.map(partial(_look, scored, "text" in pool.columns), visited, what="look at examples"))


def _look(scored: Scored, has_text: bool, item: tuple[int, Part]) -> Looked:
    number, part = item
    try:
        table = plain(part.head(["uid", *(["text"] * has_text)], LOOKED_AT))
        scores = scored(number, part)
    except DamagedError:
        return Looked(uids=np.empty(0, UID), texts=[], scores=None)
    texts: list[str | None] = [_readable(text) for text in table["text"]] if has_text else [None] * table.num_rows
    return Looked(uids=part.uids_in(table), texts=texts, scores=scores)


def write_examples(out: Path, looked: list[Looked], times: Indices) -> None:
    """Write some kept and some dropped samples, of every part about as many.

    ``times`` says how often each of the samples looked at is taken, shape (all their uids,).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    of_part = np.split(times, np.cumsum([len(part.uids) for part in looked])[:-1])
    lines: list[dict[str, Any]] = []
    for kept in (True, False):
        lacking = EACH
        for left, part, counts in zip(range(len(looked), 0, -1), looked, of_part, strict=True):
            rows = _spread(np.flatnonzero((counts > 0) == kept), -(-lacking // left))
            lines += [part.example(row, int(counts[row])) for row in rows]
            lacking -= len(rows)
    columns = {"kept": pa.bool_(), "uid": pa.string(), "text": pa.string(), "score": pa.float64(), "times": pa.int64()}
    with whole_file(out / EXAMPLES) as file:
        pq.write_table(pa.Table.from_pylist(lines, pa.schema(columns)), file)


def _spread(rows: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    wanted = min(wanted, len(rows))
    return rows[np.linspace(0, len(rows) - 1, wanted).astype(np.int64)] if wanted else rows[:0]


def _readable(text: Any) -> str | None:
    """A pyarrow scalar as text; bytes that are no UTF-8 are shown as such."""
    raw = text.as_buffer() if hasattr(text, "as_buffer") else None
    return None if raw is None else raw.to_pybytes().decode(errors="replace")
