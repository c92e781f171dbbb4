"""Filters that take a share of the pool: of which samples it is one, and how many these are."""

import logging
from pathlib import Path
from typing import Literal

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter, FractionOf, inside
from dcexp.filters.rows import View, count_rows
from dcexp.stage import Step

log = logging.getLogger(__name__)

Counted = Literal["metadata", "available"]


class Share(Filter):
    """A filter that takes a share; it has a field ``pool`` that says what counts.

    ``pool="metadata"`` counts every row, as upstream does; ``pool="available"`` counts, and keeps, only samples that
    the pool's shards hold.
    """

    pool: Counted

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """See :meth:`Filter.step`; ``fraction_of`` is put into the step where it can make a difference."""
        step = super().step(pool, within)
        return Step(self, {**step.inputs, "fraction_of": fraction_of}) if within else step

    def share(
        self, engine: Engine, pool: Pool, within: Subset | None, fraction_of: FractionOf
    ) -> tuple[dict[str, Path], int]:
        """The lists that a kept row has to be in, as :class:`View` wants them; and of how many rows it is a share.

        Raises ValueError when only available samples are to count, and the pool has no shards.
        """
        there = self._there(pool)
        counted = {**there, **(inside(within) if fraction_of == "input" else {})}
        total = pool.rows
        if counted:
            total = count_rows(engine, pool.parts, View(within=counted, skip_corrupt=pool.skip_corrupt))
        return {**there, **inside(within)}, total

    def _there(self, pool: Pool) -> dict[str, Path]:
        if self.pool == "metadata":
            return {}
        if pool.available is None:
            raise ValueError(
                f"{self.label}: pool=available, but the pool at {pool.root} has no shards, so it is not known which "
                "samples are there; download them, or count the metadata: filter.pool=metadata"
            )
        return {"not in the shards": pool.available_uids} if pool.available_uids else {}


def check_fraction(fraction: float) -> None:
    """Raise ValueError for a fraction outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"filter.fraction={fraction}: wanted more than 0 and at most 1 (0.3 is 30 %)")


def tell_of_idle(label: str, candidates: int, places: int) -> None:
    """Warn when a share has decided nothing, for there are no more candidates than places."""
    if candidates <= places:
        log.warning("%s: there are only %s candidates for %s places; all stay", label, f"{candidates:,}", f"{places:,}")


def tell_of_ties(label: str, summary: Summary, asked: int) -> None:
    """Warn when samples of equal scores make a subset more than a tenth larger than the ``asked`` samples."""
    if (kept := summary.counts.kept) > asked + 1 + asked // 10:
        log.warning(
            "%s: %s samples are kept where %s were asked for, for many have the same score; filter.ties=exact keeps "
            "no more than asked for", label, f"{kept:,}", f"{asked:,}",
        )  # fmt: skip
