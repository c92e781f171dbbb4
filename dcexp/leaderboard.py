"""The leaderboard: every result in a store, side by side where a comparison is fair.

A board holds the runs of one scale, one pool and one set of tasks; runs that differ only by seed are one row. Runs
that mix other sources with the pool (the track "bring your own data") are on a board of their own. Where all 38 tasks
are there, rows whose averages seeds alone could have set apart from the best one are marked.
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

from dcexp.artifacts.lineage import Node, ancestor, but_for_seeds, choice, label, mixture
from dcexp.artifacts.results import Run, samples_behind, stored_runs
from dcexp.scale import PUBLISHED
from dcexp.store import Store
from dcexp.tasks.datacomp import AVERAGE, NOISE_BAND, SCORED, shown
from dcexp.typecheck import check_types

if TYPE_CHECKING:
    from rich.table import Table

MARK = "≈"
NOTE = f"{MARK} averages within {NOISE_BAND} of the best: seeds alone move them by as much; do not rank these rows"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean over seeds, a fraction; ``std`` is the sample standard deviation (n - 1), None for one seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One filter or mixture. ``samples``: how many it has; None when seeds differ in that or it left the store.

    ``tied``: its average over all 38 tasks and that of another row are too close to the best to be ranked.
    """

    filter: str
    samples: int | None
    seeds: int
    scores: tuple[Score, ...]
    tied: bool = False

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

    @property
    def note(self) -> str:
        """What the mark says; empty where no row has it."""
        return NOTE if any(row.tied for row in self.rows) else ""

    def cells(self) -> list[list[str]]:
        """The rows as text, ranks first."""
        return [[f"{MARK} " * row.tied + str(rank), *row.cells()] for rank, row in enumerate(self.rows, start=1)]

    def table(self) -> "Table":
        """For the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", caption=Text(self.note) if self.note else None)
        table.caption_justify = "left"
        for name in self.header:
            table.add_column(Text(name), justify="left" if name == "filter" else "right")
        for cells in self.cells():
            table.add_row(*map(Text, cells))
        return table

    def markdown(self) -> str:
        """For a report: a heading, a table and what its mark says."""
        ruler = ["---" if name == "filter" else "---:" for name in self.header]
        escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (self.header, ruler, *self.cells())]
        lines = [f"## {self.title}", "", *(f"| {' | '.join(cells)} |" for cells in escaped)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"

    def csv(self) -> str:
        """For programs: full precision, mean and standard deviation in columns of their own, and so is the mark."""
        marks = AVERAGE in self.columns
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [f"{column}{end}" for column in self.columns for end in ("", " std")]
        writer.writerow(["board", *self.header[:4], *names, *["tied"] * marks])
        for rank, row in enumerate(self.rows, start=1):
            numbers = [number for score in row.scores for number in (score.mean, score.std)]
            writer.writerow([self.title, rank, row.filter, row.samples, row.seeds, *numbers, *[row.tied] * marks])
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
        raise ValueError(
            f"no results below {Path(root).absolute()} that make a board (main metrics of models trained here); "
            "run something first, for example: python -m dcexp"
        )
    made = [_board(runs, Path(root)) for runs in comparable.values()]
    return sorted(made, key=lambda board: board.title)


def _board(runs: list[Run], root: Path) -> Board:
    checkpoint, names = _checkpoint(runs[0]), {key: result.name for key, result in sorted(runs[0].items())}
    columns, n = shown(names), len(names)
    by_seed: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_seed[but_for_seeds(_checkpoint(run))].append(run)
    rows = _told_apart([(_checkpoint(seeds[0]), _row(seeds, columns, root)) for seeds in by_seed.values()])
    rows.sort(key=lambda row: (-row.scores[-1].mean, row.filter))
    scale, pool = checkpoint["values"]["scale"], ancestor(checkpoint, "pool")
    title = [
        f"scale {scale['name']}" + _remark(scale),
        f"source {label(pool)} ({pool['key']})" + " mixed with others (BYOD track)" * bool(mixture(checkpoint)),
        f"{n} of {len(SCORED)} tasks" if names.keys() <= SCORED else f"{n} task{'s' * (n > 1)}",
    ]
    rows = _tied(rows) if AVERAGE in columns else rows
    return Board(title=", ".join(title), columns=tuple(columns), rows=tuple(rows))


def _tied(rows: list[Row]) -> list[Row]:
    """``rows``, best first, with the mark on those too close to the best, unless it stands alone."""
    best = rows[0].scores[-1].mean
    near = sum(best - row.scores[-1].mean <= NOISE_BAND + 1e-9 for row in rows)  # rounding is no difference
    return [replace(row, tied=True) for row in rows[:near]] + rows[near:] if near > 1 else rows


def _remark(scale: Mapping[str, Any]) -> str:
    if scale != {"name": scale["name"], **PUBLISHED.get(scale["name"], {})}:
        return " (with other values than dcexp has for it now)"
    return "" if scale["competition"] else " (not a competition scale)"


def _row(seeds: list[Run], columns: Mapping[str, tuple[str, ...]], root: Path) -> Row:
    checkpoint = _checkpoint(seeds[0])
    sizes = {samples_behind(root, _checkpoint(run)) for run in seeds}
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


def _checkpoint(run: Run) -> Node:
    return next(iter(run.values())).checkpoint
