"""The leaderboard: every result in a store, side by side where a comparison is fair.

A board holds the runs of one scale, one pool and one set of tasks; runs that differ only by seed are one row. Runs
that mix other sources with the pool (the track "bring your own data") are on a board of their own.
"""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from dcexp.artifacts.lineage import Node, ancestor, but_for_seeds, choice, label, mixture, nearest
from dcexp.artifacts.results import Run, samples_kept, stored_runs
from dcexp.scale import PUBLISHED
from dcexp.store import Store
from dcexp.tasks.datacomp import GROUPS, SCORED
from dcexp.typecheck import check_types

if TYPE_CHECKING:
    from rich.table import Table

FEW = 6  # tasks that get a column each; more are shown as group means


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean over seeds, a fraction; ``std`` is the sample standard deviation (n - 1), None for one seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One filter or mixture. ``samples``: how many it has; None when seeds differ in that or it left the store."""

    filter: str
    samples: int | None
    seeds: int
    scores: tuple[Score, ...]

    def cells(self) -> list[str]:
        samples = "" if self.samples is None else f"{self.samples:,}"
        return [self.filter, samples, str(self.seeds), *map(str, self.scores)]


@dataclass(frozen=True, kw_only=True)
class Board:
    """Rows that may be compared; ``columns`` name their scores. Best first, by the last column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def header(self) -> list[str]:
        return ["rank", "filter", "samples", "seeds", *self.columns]

    def table(self) -> "Table":
        """For the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left")
        for name in self.header:
            table.add_column(Text(name), justify="left" if name == "filter" else "right")
        for rank, row in enumerate(self.rows, start=1):
            table.add_row(str(rank), *map(Text, row.cells()))
        return table

    def markdown(self) -> str:
        """For a report: a heading and a table."""
        rows = [[str(rank), *row.cells()] for rank, row in enumerate(self.rows, start=1)]
        ruler = ["---" if name == "filter" else "---:" for name in self.header]
        escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (self.header, ruler, *rows)]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(cells)} |" for cells in escaped)]) + "\n"

    def csv(self) -> str:
        """For programs: full precision, mean and standard deviation in columns of their own."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["board", *self.header[:4], *(f"{c}{end}" for c in self.columns for end in ("", " std"))])
        for rank, row in enumerate(self.rows, start=1):
            numbers = [number for score in row.scores for number in (score.mean, score.std)]
            writer.writerow([self.title, rank, row.filter, row.samples, row.seeds, *numbers])
        return text.getvalue()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the verb ``leaderboard`` is asked: which store, shown how."""

    store: Store
    format: Literal["table", "markdown", "csv"] = "table"

    def __post_init__(self) -> None:
        check_types(self)


def boards(root: str | Path) -> list[Board]:
    """The boards of the store below ``root``. Raises ValueError when it holds no result."""
    comparable: dict[Any, list[Run]] = defaultdict(list)
    for run in stored_runs(Path(root)):
        checkpoint, tasks = _checkpoint(run), frozenset(result.task for result in run.values())
        scale = json.dumps(checkpoint["values"]["scale"], sort_keys=True)
        comparable[scale, ancestor(checkpoint, "pool")["key"], bool(mixture(checkpoint)), tasks].append(run)
    if not comparable:
        raise ValueError(f"no results below {Path(root).absolute()}; run something first, for example: python -m dcexp")
    made = [_board(runs, Path(root)) for runs in comparable.values()]
    return sorted(made, key=lambda board: board.title)


def _board(runs: list[Run], root: Path) -> Board:
    checkpoint, names = _checkpoint(runs[0]), {key: result.name for key, result in sorted(runs[0].items())}
    columns = _columns(names)
    by_seed: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_seed[but_for_seeds(_checkpoint(run))].append(run)
    rows = _told_apart([(_checkpoint(seeds[0]), _row(seeds, columns, root)) for seeds in by_seed.values()])
    rows.sort(key=lambda row: (-row.scores[-1].mean, row.filter))
    scale, pool = checkpoint["values"]["scale"], ancestor(checkpoint, "pool")
    title = [
        f"scale {scale['name']}" + _remark(scale),
        f"source {label(pool)} ({pool['key']})" + " mixed with others (BYOD track)" * bool(mixture(checkpoint)),
        f"{len(names)} of {len(SCORED)} tasks"
        if names.keys() <= SCORED
        else f"{len(names)} task{'s' * (len(names) > 1)}",
    ]
    return Board(title=", ".join(title), columns=tuple(columns), rows=tuple(rows))


def _remark(scale: Mapping[str, Any]) -> str:
    if scale != {"name": scale["name"], **PUBLISHED.get(scale["name"], {})}:
        return " (with other values than dcexp has for it now)"
    return "" if scale["competition"] else " (not a competition scale)"


def _columns(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The task keys each column is the mean of. An average over an incomplete set says so."""
    shared = Counter(names.values())
    each: dict[str, tuple[str, ...]] = {
        name if shared[name] == 1 else f"{name} ({key})": (key,) for key, name in names.items()
    }
    if len(names) == 1:
        return each
    groups = {title: keys for title, keys in GROUPS.items() if names.keys() >= set(keys)}
    of = "" if names.keys() == SCORED else f" ({len(names)} of {len(SCORED)})"
    average = f"average{of}" if names.keys() <= SCORED else f"average of these {len(names)}"
    return {**(each if len(names) <= FEW else groups), average: tuple(names)}


def _row(seeds: list[Run], columns: Mapping[str, tuple[str, ...]], root: Path) -> Row:
    checkpoint = _checkpoint(seeds[0])
    sizes = {_samples(root, _checkpoint(run)) for run in seeds}
    means = [[fmean(run[key].score for key in keys) for run in seeds] for keys in columns.values()]
    return Row(
        filter=choice(checkpoint),
        samples=sizes.pop() if len(sizes) == 1 else None,
        seeds=len(seeds),
        scores=tuple(Score(mean=fmean(m), std=stdev(m) if len(m) > 1 else None) for m in means),
    )


def _told_apart(rows: list[tuple[Node, Row]]) -> list[Row]:
    """Rows of the same filter that differ further on (in precision, say) get more words."""
    shared = Counter(row.filter for _, row in rows)
    return [
        row
        if shared[row.filter] == 1
        else replace(row, filter=f"{row.filter} [{label(checkpoint)} {checkpoint['key']}]")
        for checkpoint, row in rows
    ]


def _samples(root: Path, checkpoint: Node) -> int | None:
    kinds = ("shards",) if mixture(checkpoint) else ("subset", "shards")  # a subset is of one source alone
    steps = (nearest(checkpoint, kind) for kind in kinds)
    sizes = (samples_kept(root, step) for step in steps if step)
    return next((size for size in sizes if size is not None), None)


def _checkpoint(run: Run) -> Node:
    return next(iter(run.values())).checkpoint
