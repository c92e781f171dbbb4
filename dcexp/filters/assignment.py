"""Which cluster of a pool a row is in, and how far from its centre: what pruning by clusters goes by."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Assigned
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.clustering import ByClusters
from dcexp.filters.cut import FractionCut
from dcexp.filters.features import features_of, have_direction, operations
from dcexp.filters.nearest import best
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.stage import Step

DECIMALS = 12  # to which distances are alike, in whatever order they were added up


@dataclass(frozen=True, kw_only=True)
class CentreDistance(ByClusters, Score):
    """1 minus the cosine of a row with the centre of its cluster, float64; its artifact knows the clusters too.

    A row is in the cluster of the nearest centre: by cosine, or by Euclidean distance where the clustering is not
    spherical. Rows without a direction (NaN, infinity, all zeros) are in none. Memory: the features of a part and
    the centres in a worker, and that of :func:`~dcexp.filters.nearest.best`.
    """

    makes = Assigned

    relative = True

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is clustered."""
        return (self.clustering.feature,)

    def step(self, pool: Step, within: Step | None = None) -> Step:
        """See :meth:`Score.step`; the clusters, too, are those of what ``within`` has kept."""
        step = super().step(pool, within)
        return Step(self, {**step.inputs, "centroids": self.clustering.step(pool, within)})

    def cost(self, *, pool: Pool | None = None, **_: Any) -> str:
        """The products of every row with the centres."""
        if pool is None or self.clustering.feature not in pool.features:
            return ""
        return operations(2.0 * pool.rows * self.clustering.count(pool.rows) * pool.features[self.clustering.feature])

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """See :meth:`Score.run`; the facts say how large clusters are."""
        assigned = Assigned(out)
        summary = super().run(out, engine, pool=pool, within=within, assigned=assigned, **extra)
        sizes, _ = measured(engine, pool, assigned, len(extra["centroids"].rows()))
        facts = {"largest": int(sizes.max()), "median": int(np.median(sizes)), "empty": int((sizes == 0).sum())}
        return replace(summary, facts={**summary.facts, **facts})

    def score(self, rows: Rows, **extra: Any) -> Numbers:
        """The distances; the clusters are written beside."""
        centres = extra["centroids"].rows()
        features = features_of(rows, self.clustering.feature, centres.shape[1], "the centroids")
        whole = have_direction(features)
        _, ids = best(features, centres, "cosine" if self.clustering.spherical else "euclidean")
        distances, of_part = np.full(len(rows), np.nan), np.full(rows.part.rows, -1, np.int32)
        distances[whole] = _distances(features[whole], centres, ids[whole])
        of_part[rows.where] = np.where(whole, ids, -1)
        extra["assigned"].write_clusters(rows.number, of_part)
        return distances


def _distances(features: npt.NDArray[Any], centres: npt.NDArray[Any], ids: npt.NDArray[np.int64]) -> Numbers:
    """1 minus the cosine of each row with its centre, to as many decimals as no order of adding up changes."""
    distances = np.empty(len(features))
    for start in range(0, len(features), 4096):
        some = slice(start, start + 4096)
        rows, own = features[some].astype(np.float64), centres[ids[some]].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1) * np.maximum(np.linalg.norm(own, axis=1), 1e-12)
        distances[some] = 1 - np.einsum("ij,ij->i", rows, own) / lengths
    return distances.round(DECIMALS)


def measured(
    engine: Engine, pool: Pool, assigned: Assigned, clusters: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How many rows each cluster has, and the sum of their distances from its centre, shapes (clusters,)."""
    sizes, sums = np.zeros(clusters, np.int64), np.zeros(clusters)
    measure = partial(_measure, assigned, clusters)
    for own, distances in engine.map(measure, list(enumerate(pool.parts)), what="measure clusters"):
        sizes, sums = sizes + own, sums + distances
    return sizes, sums


def _measure(assigned: Assigned, clusters: int, item: tuple[int, Part]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    number, _ = item
    ids = assigned.clusters(number)
    there, distances = ids >= 0, assigned.of_part(number)
    return (
        np.bincount(ids[there], minlength=clusters),
        np.bincount(ids[there], weights=distances[there], minlength=clusters),
    )


@dataclass(frozen=True, kw_only=True)
class FarFromCentre(ByClusters, FractionCut):
    """Keeps the ``fraction`` of the pool that is furthest from the centres of its clusters: the least prototypical.

    Self-supervised prototypes (Sorscher et al., arXiv:2206.14486), and the second half of D4 (arXiv:2308.12284), which
    comes after SemDeDup: after another filter, what that has kept is clustered anew. Rows without a direction have no
    distance. The other fields are those of :class:`~dcexp.filters.cut.FractionCut`.
    """

    fraction: float = 0.5

    def by(self) -> CentreDistance:
        """The distance from the centre."""
        return CentreDistance(clustering=self.clustering)
