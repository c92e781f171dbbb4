"""The pass over a pool that every selection is: ask about each part, merge what is kept, tell what came out.

A worker holds one part, and writes the uids it keeps, sorted, to a file of its own; these files are merged a range
at a time. So memory does not grow with the pool, and what an interrupted attempt has decided is not decided again.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import remove_folder, whole_file, write_json
from dcexp.artifacts.merge import joined
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.uid import UID, Uids, count_short, firsts, sort_uids
from dcexp.engines.base import Engine
from dcexp.filters.examples import Scored, no_scores
from dcexp.filters.outcome import conclude
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.stage import Stage

log = logging.getLogger(__name__)

PIECES = "pieces"  # a folder for what single parts keep; gone when the subset is written


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a filter decides about some rows.

    ``times`` says how often each is taken (a mask, or counts), shape (len(rows),); ``dropped`` how many each reason
    has dropped, for the funnel, where there is more than one.
    """

    times: npt.NDArray[Any]
    dropped: Mapping[str, int] = field(default_factory=dict)


Decide = Callable[[Rows, Any], Decision]
Tally = dict[str, int]  # rows of a part that were not kept, by reason


def select(
    stage: Stage,
    out: Path,
    engine: Engine,
    *,
    pool: Pool,
    view: View,
    decide: Decide,
    given: Sequence[Any] = (),
    repeats: bool = False,
    scored: Scored = no_scores,
    facts: Mapping[str, Any] | None = None,
) -> Summary:
    """Write the subset of the rows in ``view`` that ``decide(rows, given[number of the part])`` keeps.

    A uid that the pool has in several rows is the same sample, and kept once; with ``repeats`` it is taken as often
    as all its rows together. Raises ValueError when nothing is kept.
    """
    (out / PIECES).mkdir(exist_ok=True)
    items = [(number, part, given[number] if given else None) for number, part in enumerate(pool.parts)]
    ask = partial(_ask, out / PIECES, view, decide, pool.skip_corrupt)
    tallies, unread = Counter[str](), list[str]()
    for part, tally in zip(pool.parts, engine.map(ask, items, what=f"filter: {stage.label}"), strict=True):
        tallies.update(tally)
        unread += [Path(part.parquet).name] if tally.get("corrupt") else []
    pieces = [_piece(out / PIECES, number) for number, _ in enumerate(pool.parts)]
    kept_rows, short = tallies.pop("kept"), tallies.pop("short", 0)
    if short:
        log.warning("%s uids have fewer than 32 digits; they are read with leading zeros", f"{short:,}")
    lost = {name: tallies.pop(name, 0) for name in ("missing", "corrupt")}
    if unread:
        log.warning("%s rows cannot be read and are left out, in %s", f"{lost['corrupt']:,}", _some(unread))
    summary = conclude(
        stage, out, engine, pool, pieces, joined if repeats else once,
        rows=0 if repeats else kept_rows, dropped=dict(tallies), scored=scored, facts=facts, **lost,
    )  # fmt: skip
    remove_folder(out / PIECES)
    return summary


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3:,} more files" * (len(names) > 3)


def once(slices: list[Uids]) -> Uids:
    """The distinct uids of all."""
    uids = joined(slices)
    new = firsts(uids)
    return uids if new.all() else uids[new]


def _piece(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.npy"


def _ask(folder: Path, view: View, decide: Decide, skip_corrupt: bool, item: tuple[int, Part, Any]) -> Tally:
    """Decide about one part and write the uids to take, unless an earlier attempt has."""
    number, part, given = item
    piece, note = _piece(folder, number), folder / f"{number:08d}.json"
    if note.is_file() and piece.is_file():
        left: Tally = json.loads(note.read_text())
        if left.pop("bytes") == piece.stat().st_size:  # else the machine crashed before the piece was on the disk
            return left
    nothing: tuple[Tally, Uids] = ({"kept": 0, "corrupt": part.rows}, np.empty(0, UID))
    tally, uids = unless_damaged(skip_corrupt, lambda: _decided(view, decide, number, part, given), nothing)
    with whole_file(piece, durable=False) as file:
        np.save(file, uids)
    write_json(note, {**tally, "bytes": piece.stat().st_size})
    return tally


def _decided(view: View, decide: Decide, number: int, part: Part, given: Any) -> tuple[Tally, Uids]:
    rows, others = view.rows(number, part)
    decision = decide(rows, given)
    times = decision.times
    kept = int(np.count_nonzero(times))
    uids, short = rows.uids(), count_short(rows.table["uid"])
    taken = (uids if times.all() else uids[times]) if times.dtype == bool else np.repeat(uids, times)
    dropped = dict(decision.dropped) or {"": len(rows) - kept}
    return {**others, **dropped, "kept": kept, "short": short}, sort_uids(taken)
