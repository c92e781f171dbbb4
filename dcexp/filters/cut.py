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
from dcexp.filters.share import Counted, Share, check_fraction, tell_of_idle, tell_of_ties
from dcexp.filters.threshold import Cutoff, top
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class Cut(Filter):
    """A filter that looks at one score per row. A row whose score is null or NaN is missing and never kept."""

    def by(self) -> Score:
        """The score that is looked at."""
        raise NotImplementedError(f"{type(self).__name__} has no by()")

    def extra(self, pool: Step) -> dict[str, Any]:
        """The score, where it has to be made."""
        return self.by().inputs(pool)

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks the column, where the score is one."""
        require(self, pool, self.by().reads())

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """See :meth:`Filter.step`; a relative score is that of what ``within`` has kept."""
        step = super().step(pool, within, fraction_of)
        return Step(self, {**step.inputs, **self.by().inputs(pool, within)})


@dataclass(frozen=True, kw_only=True)
class Apart(Cut):
    """Keeps rows that are far enough from others: by a relative score, a distance of ``least`` or more."""

    def least(self) -> float:
        """The distance that is enough."""
        raise NotImplementedError(f"{type(self).__name__} has no least()")

    def run(
        self, out: Path, engine: Engine, *, pool: Pool, scores: Scores, within: Subset | None = None, **inputs: Any
    ) -> Summary:
        """Keep what is far enough."""
        score = self.by()
        view = View(within=inside(within), scores=scores)
        decide = partial(_far, score, scores, self.least())
        return select(self, out, engine, pool=pool, view=view, decide=decide, scored=partial(_shown, score, scores))


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
class FractionCut(Cut, Share):
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
        self.check_pool(pool)
        lists, total = self.share(engine, pool, within, fraction_of)
        view = View(columns=score.reads(), within=lists, scores=scores, skip_corrupt=pool.skip_corrupt)
        read, exact = partial(_values, score, scores, view), self.ties == "exact"
        places, above = int(total * self.fraction), int(total * self.skip)
        low = top(engine, pool.parts, read, places, exact=exact)
        high = top(engine, pool.parts, read, above, exact=exact) if self.skip else None
        decide = partial(_cut, score, scores, low, high)
        facts = {"threshold": low.value if np.isfinite(low.value) else None, "fraction_of": total}
        summary = select(
            self, out, engine, pool=pool, view=view, decide=decide, scored=partial(_shown, score, scores), facts=facts
        )
        tell_of_ties(self.label, summary, places - above)
        if self.fraction < 1 and self.label not in summary.facts["funnel"] and summary.counts.kept <= places + 1:
            tell_of_idle(self.label, summary.counts.kept, places + (not exact))
        return summary


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


def _far(score: Score, scores: Scores, least: float, rows: Rows, _: Any) -> Decision:
    return Decision(times=score.read(rows, scores) >= least)


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
