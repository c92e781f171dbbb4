"""Sampling with replacement: how often a sample is taken is drawn, in proportion to a weight."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.base import FractionOf, require
from dcexp.filters.draws import Weigh, draw, weigh_parts
from dcexp.filters.rows import Rows, View
from dcexp.filters.score import Score
from dcexp.filters.selection import Decision, select
from dcexp.filters.share import Counted, Share
from dcexp.stage import Step

FOLDER = "draws"  # weights and counts of single parts; gone when the subset is written


@dataclass(frozen=True, kw_only=True)
class Sampling(Share):
    """Takes int(N * ``draws``) samples with replacement, each at most ``cap`` times. Write ``view`` and ``weigher``.

    N is the size of the pool, or of what ``pool`` says (see :class:`~dcexp.filters.cut.FractionCut`). A draw of a
    sample that has been taken ``cap`` times already is made again. A uid that stands in several rows is drawn as
    several samples. :mod:`dcexp.filters.draws` says how this is done part by part.
    """

    draws: float = 1.0
    cap: int = 100
    seed: int = 0
    pool: Counted = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws <= 0 or self.cap < 1:
            raise ValueError(
                f"filter.draws={self.draws} filter.cap={self.cap}: wanted draws of more than 0 (1 is as many as the "
                "pool has samples), and a cap of 1 or more"
            )

    def view(self, pool: Pool, **inputs: Any) -> View:
        """What is looked at. Raises ValueError when the pool lacks it."""
        raise NotImplementedError(f"{type(self).__name__} has no view()")

    def weigher(self, folder: Path, engine: Engine, pool: Pool, view: View, **inputs: Any) -> Weigh:
        """What gives every row its weight; ``folder`` is for notes along the way."""
        raise NotImplementedError(f"{type(self).__name__} has no weigher()")

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
        **inputs: Any,
    ) -> Summary:
        """Weigh all rows, draw, and write the subset.

        Raises ValueError for weights that cannot be drawn by, and when there are too few rows for that many draws.
        """
        folder = out / FOLDER
        folder.mkdir(exist_ok=True)
        lists, total = self.share(engine, pool, within, fraction_of)
        view = replace(self.view(pool, **inputs), within=lists)
        draws = int(total * self.draws)
        totals, rows = weigh_parts(folder, engine, pool, view, self.weigher(folder, engine, pool, view, **inputs))
        if not 0 < draws <= rows * self.cap:
            raise ValueError(
                f"{self.label}: {draws:,} draws ({self.draws} x {total:,}) are to be made of {rows:,} samples with a "
                f"weight above 0, each {self.cap:,} times at most. Change filter.draws or filter.cap"
            )
        counts, rounds = draw(folder, engine, totals, draws, self.cap, self.seed)
        facts = {"draws": draws, "rounds": rounds, "fraction_of": total}
        summary = select(self, out, engine, pool=pool, view=view, decide=_take, given=counts, repeats=True, facts=facts)
        remove_folder(folder)
        return summary


def _take(rows: Rows, counts: str) -> Decision:
    times = np.load(counts, allow_pickle=False) if counts else np.zeros(len(rows), np.int64)
    return Decision(times=times)


@dataclass(frozen=True, kw_only=True)
class Sample(Sampling):
    """Samples in proportion to a ``score``, which must be 0 or more; rows without one are missing, never drawn."""

    score: Score

    def extra(self, pool: Step) -> dict[str, Any]:
        """The score, where it has to be made."""
        return self.score.inputs(pool)

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks the column, where the score is one."""
        require(self, pool, self.score.reads())

    def view(self, pool: Pool, **inputs: Any) -> View:
        """The score."""
        self.check_pool(pool)
        return View(columns=self.score.reads(), scores=inputs.get("scores"))

    def weigher(self, folder: Path, engine: Engine, pool: Pool, view: View, **inputs: Any) -> Weigh:
        """The score."""
        return partial(self.score.read, scores=inputs.get("scores"))
