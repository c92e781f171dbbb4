"""Density-based pruning: how many images of a cluster stay depends on how crowded the clusters are."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.clusters import Centroids
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Assigned, Scores
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.assignment import CentreDistance, measured
from dcexp.filters.base import FractionOf
from dcexp.filters.clustered import ClusterPlace, Keep
from dcexp.filters.clustering import ByClusters
from dcexp.filters.rows import Rows, View
from dcexp.filters.score import Numbers
from dcexp.filters.selection import Decision, select
from dcexp.filters.share import Counted, Share, check_fraction, tell_of_idle
from dcexp.stage import Step

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DensityPruning(ByClusters, Share):
    """About int(N * ``fraction``) images: more of clusters that are wide and lie apart (DBP, arXiv:2401.04578).

    With d_intra the mean cosine distance of a cluster's rows to its centre, and d_inter that of its centre to the
    ``neighbours`` nearest other centres, its share is P = softmax(d_intra d_inter / ``temperature``). The sizes x are
    those nearest to P N' in the sum of squares that add up to N' = int(N * fraction), each between
    ``balance`` N' / clusters (1 where ``balance`` is 0) and the cluster's own size; then they are rounded. (A cluster
    need not give its last row to reach the lower bound, as in the authors' code.) Of each cluster the first x in the
    order of ``keep`` stay (see :class:`~dcexp.filters.clustered.ClusteredScore`), published: the hard ones.

    The published method clusters features of a DINOv2 network; on CLIP's, which CommonPool ships, it is not that, and
    its published results are not this filter's. It comes after SemDeDup there, and N is what that has left
    (``fraction_of=input`` in a sequence). Rows without a direction are missing.
    """

    fraction: float = 0.8
    temperature: float = 0.5
    balance: float = 0.5
    neighbours: int = 20
    keep: Keep = "hard"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction)
        if self.temperature <= 0 or not 0 <= self.balance <= 1 or self.neighbours < 1:
            raise ValueError(
                f"filter.temperature={self.temperature} filter.balance={self.balance} filter.neighbours="
                f"{self.neighbours}: wanted a temperature above 0, a balance of 0 to 1, and 1 neighbour or more"
            )

    @property
    def pool(self) -> Counted:  # type: ignore[override]
        """All rows count: clusters are those of the metadata."""
        return "metadata"

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """See :meth:`Filter.step`; with the clusters, and the places of rows in them."""
        step, clustering = super().step(pool, within, fraction_of), self.clustering
        steps = {
            "centroids": clustering.step(pool, within),
            "scores": CentreDistance(clustering=clustering).step(pool, within),
            "places": ClusterPlace(clustering=clustering, keep=self.keep, seed=self.seed).step(pool, within),
        }
        return Step(self, {**step.inputs, **steps})

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        centroids: Centroids,
        scores: Assigned,
        places: Scores,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
    ) -> Summary:
        """Measure the clusters, share the places out, and take the first rows of each."""
        lists, total = self.share(engine, pool, within, fraction_of)
        centres, wanted = centroids.rows(), int(total * self.fraction)
        sizes, distances = measured(engine, pool, scores, len(centres))
        with np.errstate(invalid="ignore"):  # an empty cluster has no mean
            inner = distances / sizes
        if self.fraction < 1:
            tell_of_idle(self.label, int(sizes.sum()), wanted)
        shares = softmax(inner * to_neighbours(centres, self.neighbours) / self.temperature)
        budgets = shared_out(shares, sizes, wanted, self.balance)
        decide = partial(_first, scores, places, budgets)
        facts = {"fraction_of": total, "wanted": wanted, "whole_clusters": int((budgets >= sizes).sum())}
        view = View(within=lists, scores=scores, skip_corrupt=pool.skip_corrupt)
        return select(
            self, out, engine, pool=pool, view=view, decide=decide, scored=partial(_distances, scores), facts=facts
        )


def to_neighbours(centres: npt.NDArray[np.floating], neighbours: int) -> Numbers:
    """The mean of 1 - cosine of each centre with the nearest others, shape (clusters,); NaN for one alone."""
    found = np.full(len(centres), np.nan)
    count, rows = min(neighbours, len(centres) - 1), centres.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(rows) if count else 0, 1024):
        products = rows[start : start + 1024] @ rows.T
        products[np.arange(len(products)), start + np.arange(len(products))] = -np.inf
        found[start : start + 1024] = 1 - np.partition(products, -count, axis=1)[:, -count:].mean(axis=1)
    return found


def softmax(values: Numbers) -> Numbers:
    """exp(values), divided by their sum; NaN counts as the mean of the others."""
    values = np.where(np.isnan(values), np.nanmean(values) if not np.isnan(values).all() else 0.0, values)
    powers: Numbers = np.exp(values - values.max())
    return powers / powers.sum()


def shared_out(shares: Numbers, sizes: Sizes, wanted: int, balance: float) -> Sizes:
    """How many rows each cluster gives: see :class:`DensityPruning`; all of them when ``wanted`` is as many or more.

    The nearest point to ``shares * wanted`` with a given sum in a box is that point moved by the same number in every
    direction and clipped to the box; this number is found by halving.
    """
    if wanted >= sizes.sum():
        return sizes
    least = int(wanted / len(sizes) * balance) if balance else 1
    low = np.clip(np.minimum(least, sizes - 1), 0, None)
    aim = shares * wanted
    below, above = float((low - aim).min()), float((sizes - aim).max())
    for _ in range(200):
        middle = (below + above) / 2
        below, above = (middle, above) if np.clip(aim + middle, low, sizes).sum() < wanted else (below, middle)
    return np.rint(np.clip(aim + above, low, sizes)).astype(np.int64)


def _first(assigned: Assigned, places: Scores, budgets: Sizes, rows: Rows, _: Any) -> Decision:
    clusters = rows.of_part(assigned.clusters(rows.number))
    return Decision(times=rows.of_part(places.of_part(rows.number)) < budgets[clusters])


def _distances(assigned: Assigned, number: int, part: Part) -> Numbers:
    return assigned.of_part(number)
