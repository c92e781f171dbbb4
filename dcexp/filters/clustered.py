"""Scores that a row has within its cluster, where some rows come before others: its place there."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dcexp.artifacts.pool import DamagedError, Pool
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import UID, Uids
from dcexp.filters.assignment import CentreDistance
from dcexp.filters.clustering import ByClusters
from dcexp.filters.grouped import GroupedScore, Members
from dcexp.filters.groups import Arrays, Indices, in_order, places
from dcexp.filters.random import hashed, mixed
from dcexp.filters.rows import Mask, Rows, View
from dcexp.filters.score import Numbers
from dcexp.stage import Step

Keep = Literal["hard", "easy", "random"]


@dataclass(frozen=True, kw_only=True)
class ClusteredScore(ByClusters, GroupedScore):
    """A score among the rows of a cluster of ``clustering``, of which those to ``keep`` come first.

    ``hard``: the rows that are furthest from the centre; ``easy``: the nearest; ``random``: any, by ``seed``. Of equal
    ones the lower uid comes first. Rows without a direction are in no cluster and have no score.
    """

    keep: Keep = "hard"
    seed: int = 0

    arrays: ClassVar[tuple[str, ...]] = ("uids", "order")

    def step(self, pool: Step, within: Step | None = None) -> Step:
        """See :meth:`Score.step`; with the clusters."""
        step, assigned = super().step(pool, within), CentreDistance(clustering=self.clustering)
        return Step(self, {**step.inputs, "assigned": assigned.step(pool, within)})

    def view(self, pool: Pool, within: Subset | None, **extra: Any) -> View:
        """The rows that are in a cluster."""
        return View(scores=extra["assigned"], skip_corrupt=pool.skip_corrupt)

    def members(self, rows: Rows, **extra: Any) -> Members:
        """All of them, with what decides which come first."""
        assigned, uids = extra["assigned"], rows.uids()
        if assigned.is_damaged(rows.number):
            raise DamagedError(f"{rows.part.npz} could not be read when its rows were put into clusters")
        keys = np.zeros(len(rows), UID)
        keys["f0"] = rows.of_part(assigned.clusters(rows.number))
        distances = rows.of_part(assigned.of_part(rows.number))
        if self.keep == "random":
            order = mixed(hashed(uids, self.seed))
        else:
            order = -distances if self.keep == "hard" else distances
        return Members(keys=keys, arrays={"uids": uids, "order": order})

    def ordered(self, keys: Uids, arrays: Arrays) -> tuple[Indices, Mask]:
        """The order of rows, cluster by cluster; and where in it clusters begin."""
        return in_order(keys, arrays["order"], arrays["uids"]["f0"], arrays["uids"]["f1"])


@dataclass(frozen=True, kw_only=True)
class ClusterPlace(ClusteredScore):
    """How many rows of its cluster come before a row."""

    def judge(self, keys: Uids, arrays: Arrays) -> Numbers:
        """The numbers, from 0."""
        return places(*self.ordered(keys, arrays)).astype(np.float64)
