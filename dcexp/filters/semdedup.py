"""SemDeDup: of images of one cluster that are all but the same, the first stays."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.clustered import ClusteredScore, Keep
from dcexp.filters.clustering import ByClusters
from dcexp.filters.cut import Apart
from dcexp.filters.features import Features, whole_features
from dcexp.filters.grouped import Members
from dcexp.filters.groups import Arrays
from dcexp.filters.nearest import BLOCKS, blocks_of, compute_device
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers
from dcexp.fp32 import full_fp32

log = logging.getLogger(__name__)

LARGE = 100_000  # rows of a cluster from which on a warning is given


@dataclass(frozen=True, kw_only=True)
class SemanticDistance(ClusteredScore):
    """1 minus the highest cosine of a row with any that comes before it in its cluster; infinity for the first.

    SemDeDup, arXiv:2303.09540. Memory in a worker: about ``together`` rows of features, or one cluster's where that is
    larger, and once more one cluster's in float32; products are made in blocks. Time grows with the square of a
    cluster's rows.
    """

    arrays: ClassVar[tuple[str, ...]] = ("uids", "order", "features")
    together = 1 << 17

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is clustered."""
        return (self.clustering.feature,)

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """See :meth:`GroupedScore.run`. Raises ValueError for a cluster that does not fit into memory."""
        largest = int(extra["assigned"].summary["largest"])
        _fits(largest, pool.features[self.clustering.feature])
        if largest > LARGE:
            log.warning(
                "the largest of the clusters has %s rows, each of which is compared with all before it; more clusters "
                "are faster: filter.clustering.clusters=…", f"{largest:,}",
            )  # fmt: skip
        return super().run(out, engine, pool=pool, within=within, **extra)

    def members(self, rows: Rows, **extra: Any) -> Members:
        """Those of a cluster, with their features."""
        members = super().members(rows, **extra)
        return replace(members, arrays={**members.arrays, "features": whole_features(rows, self.clustering.feature)})

    def judge(self, keys: Uids, arrays: Arrays) -> Numbers:
        """The distances, float32."""
        order, new = self.ordered(keys, arrays)
        distances = np.empty(len(keys), np.float32)
        for cluster in np.split(order, np.flatnonzero(new)[1:]):
            distances[cluster] = to_earlier(arrays["features"][cluster])
        return distances


def _fits(rows: int, width: int) -> None:
    import psutil

    wanted, there = 8 * rows * width, psutil.virtual_memory().available
    if wanted > there:
        raise ValueError(
            f"the largest of the clusters has {rows:,} rows, whose features take {wanted / 1e9:,.1f} GB of memory; "
            f"there are {there / 1e9:,.1f}. Make more clusters, which are smaller: filter.clustering.clusters=…"
        )


def to_earlier(features: Features) -> npt.NDArray[np.float32]:
    """1 minus the highest cosine of each row with any before it, 0 or more, infinity for the first, shape (n,).

    ``features`` has shape (n, width) and any floating type. Products are taken in float32 and in blocks.
    """
    import torch

    device = compute_device()
    _, size, _ = BLOCKS[device.type]
    with torch.inference_mode(), full_fp32():
        rows = torch.cat([block for _, block in blocks_of(features, size, device, True)])
        highest = torch.full((len(rows),), -torch.inf, device=device)
        for start in range(0, len(rows), size):
            block, best = rows[start : start + size], highest[start : start + size]
            for first in range(0, start, size):
                torch.maximum(best, (block @ rows[first : first + size].T).amax(dim=1), out=best)
            own = (block @ block.T).masked_fill_(torch.ones(len(block), len(block), device=device).triu_().bool(), -2)
            torch.maximum(best, own.amax(dim=1), out=best)
        highest[:1] = -torch.inf
        distances: npt.NDArray[np.float32] = (1 - highest).clamp_(min=0).cpu().numpy()
    return distances


@dataclass(frozen=True, kw_only=True)
class SemDedup(ByClusters, Apart):
    """Drops every image that is nearer than ``epsilon`` to one that comes before it in its cluster (arXiv:2303.09540).

    The distance is 1 minus the cosine. An image that is dropped itself still drops others, so of a chain of images,
    each like the next, only the first stays, however far apart the ends are; and which come first decides what is
    left: see :class:`~dcexp.filters.clustered.ClusteredScore`. The distances are made once for all values of
    ``epsilon``, for which nothing is published as a default. After another filter only what that has kept is clustered
    and compared.
    """

    epsilon: float = 0.05
    keep: Keep = "hard"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < 2:
            raise ValueError(f"filter.epsilon={self.epsilon}: wanted a cosine distance, above 0 and below 2")

    def by(self) -> SemanticDistance:
        """The distance to the nearest image before."""
        return SemanticDistance(clustering=self.clustering, keep=self.keep, seed=self.seed)

    def least(self) -> float:
        """Epsilon."""
        return self.epsilon
