"""Cuts: keep rows by one number each, their score, above a value or within the top of the pool."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter, FractionOf, ShardFilter, inside, require
from dcexp.filters.examples import Scored
from dcexp.filters.rows import Mask, Rows, View, unless_damaged
from dcexp.filters.score import Numbers, Score
from dcexp.filters.selection import Decision, select
from dcexp.filters.threshold import Cutoff, top
from dcexp.stage import Step

Counted = Literal["metadata", "available"]


@dataclass(frozen=True, kw_only=True)
class Cut(Filter):
    """A filter that looks at one score per row. A row whose score is null or NaN is missing and never kept."""

    def by(self) -> Score:
        """The score that is looked at."""
        raise NotImplementedError(f"{type(self).__name__} has no by()")

    def extra(self, pool: Step) -> dict[str, Any]:
        """The score, where it has to be made."""
        return self.by().inputs(pool)


@dataclass(frozen=True, kw_only=True)
class ThresholdCut(Cut, ShardFilter):
    """Keeps rows whose score is ``threshold`` or higher (the code's rule; the paper's text says "exceed")."""

    threshold: float

    effort = 0

    def needs(self) -> tuple[str, ...]:
        """The column, where the score is one."""
        return self.by().reads()

    def keep(self, rows: Rows, **extra: Any) -> Mask:
        """True where the threshold is reached."""
        mask: Mask = self.by().read(rows, extra.get("scores")) >= self.threshold
        return mask

    def scored(self, **extra: Any) -> Scored:
        """The score."""
        return partial(_shown, self.by(), extra.get("scores"))


@dataclass(frozen=True, kw_only=True)
class FractionCut(Cut):
    """Keeps the top ``fraction`` of the pool, 0 to 1, without the very top, ``skip``.

    With N rows and n = int(N * fraction), the threshold is the score at index n in descending order, counted from
    0, and ``ties="include"`` keeps all scores that reach it: n + 1 rows, or more when scores are equal. That is
    upstream's rule. ``ties="exact"`` keeps n rows; of equal scores the first in the pool's own order. Missing
    scores count in N and come last. ``fraction=1`` keeps every row that has a score. ``skip`` leaves out what the
    same rule would keep for that fraction (the paper's "CLIP score 1 % to 30 %").

    ``pool="metadata"`` counts every row in N, as upstream does; ``pool="available"`` counts and keeps only samples
    that the pool's shards hold.
    """

    fraction: float
    skip: float = 0.0
    ties: Literal["include", "exact"] = "include"
    pool: Counted = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction)
        if not 0 <= self.skip < self.fraction:
            raise ValueError(f"filter.skip={self.skip}: wanted 0 or more and less than fraction={self.fraction}")

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """See :meth:`Filter.step`."""
        return with_fraction_of(super().step(pool, within), fraction_of)

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        scores: Scores | None = None,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
    ) -> Summary:
        """Find the threshold over all rows that may be kept, then cut every part at it."""
        score = self.by()
        require(self, pool, score.reads())
        lists = {**available(self, pool, self.pool), **inside(within)}
        view = View(columns=score.reads(), within=lists, scores=scores, skip_corrupt=pool.skip_corrupt)
        total = counted(engine, pool, self.pool, within if fraction_of == "input" else None)
        read, exact = partial(_values, score, scores, view), self.ties == "exact"
        low = top(engine, pool.parts, read, int(total * self.fraction), exact=exact)
        high = top(engine, pool.parts, read, int(total * self.skip), exact=exact) if self.skip else None
        decide = partial(_cut, score, scores, low, high)
        facts = {"threshold": low.value if np.isfinite(low.value) else None, "fraction_of": total}
        return select(
            self, out, engine, pool=pool, view=view, decide=decide, scored=partial(_shown, score, scores), facts=facts
        )


@dataclass(frozen=True, kw_only=True)
class Threshold(ThresholdCut):
    """Keeps rows whose ``score`` is ``threshold`` or higher."""

    score: Score

    def by(self) -> Score:
        """The score given."""
        return self.score


@dataclass(frozen=True, kw_only=True)
class TopFraction(FractionCut):
    """Keeps the top ``fraction`` of the pool by ``score``."""

    score: Score

    def by(self) -> Score:
        """The score given."""
        return self.score


def check_fraction(fraction: float) -> None:
    """Raise ValueError for a fraction outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"filter.fraction={fraction}: wanted more than 0 and at most 1 (0.3 is 30 %)")


def with_fraction_of(step: Step, fraction_of: FractionOf) -> Step:
    """Put into a step of what its fraction is one, where that can differ."""
    return Step(step.stage, {**step.inputs, "fraction_of": fraction_of}) if "within" in step.inputs else step


def available(stage: Filter, pool: Pool, counted: Counted) -> dict[str, Path]:
    """The list of samples that are really there, when only these are to be counted."""
    if counted == "metadata":
        return {}
    if pool.available is None:
        raise ValueError(
            f"{stage.label}: pool=available, but the pool at {pool.root} has no shards, so it is not known which "
            "samples are there; download them, or count the metadata: filter.pool=metadata"
        )
    return {"not in the shards": pool.available_uids} if pool.available_uids else {}


def counted(engine: Engine, pool: Pool, what: Counted, within: Subset | None) -> int:
    """The number of rows that fractions are fractions of."""
    lists = {
        **({"there": pool.available_uids} if what == "available" and pool.available_uids else {}),
        **inside(within),
    }
    if not lists:
        return pool.rows
    view = View(within=lists, skip_corrupt=pool.skip_corrupt)
    return sum(engine.map(partial(_count, view), list(enumerate(pool.parts)), what="count"))


def _count(view: View, item: tuple[int, Part]) -> int:
    return unless_damaged(view.skip_corrupt, lambda: len(view.rows(*item)[0]), 0)


def _values(score: Score, scores: Scores | None, view: View, item: tuple[int, Part]) -> Numbers:
    return unless_damaged(view.skip_corrupt, lambda: score.read(view.rows(*item, uids=False)[0], scores), np.empty(0))


def _cut(score: Score, scores: Scores | None, low: Cutoff, high: Cutoff | None, rows: Rows, _: Any) -> Decision:
    """Take the rows that reach ``low`` and not ``high``."""
    values = score.read(rows, scores)
    mask = low.mask(values, rows.number)
    if high is None:
        return Decision(times=mask)
    skipped = high.mask(values, rows.number)
    kept = mask & ~skipped
    return Decision(times=kept, dropped={"": int((~mask).sum()), "skip": int(skipped.sum())})


def _shown(score: Score, scores: Scores | None, number: int, part: Part) -> Numbers:
    """The scores of all rows of a part, for examples; NaN where there is none."""
    rows, _ = View(columns=score.reads(), scores=scores).rows(number, part, uids=False)
    values = np.full(part.rows, np.nan)
    values[rows.where] = score.read(rows, scores)
    return values
