"""Filters of filters: sets of what other filters keep.

Each part sees the whole pool, so fractions and thresholds are of the pool, and order does not matter. These are
operations on sets: a uid is kept once, however often a part takes it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset, write_subset
from dcexp.artifacts.uid import Indices, Uids, firsts, sort_uids
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class Combination(Filter):
    """Combines the filters ``of``; the names given to them are for people only.

    Every part is a step of its own, made once and shared with any other run that has it. What the parts are is in
    the keys of these steps, so ``of`` is not compared: other names for the same parts are the same combination.
    """

    of: dict[str, Filter] = field(compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.of) < 2:
            name, label = type(self).__name__, type(self).__name__.lower()
            raise ValueError(
                f"{name} needs two filters or more, given: {', '.join(self.of) or 'none'}. For example: filter={label} "
                "+filter@filter.of.a=clip_score +filter@filter.of.b=random"
            )

    def step(self, pool: Step) -> Step:
        """The pool, and the parts' subsets as ``part_0``, ``part_1`` … in the order of their keys."""
        parts = sorted((part.step(pool) for part in self.of.values()), key=lambda step: step.key)
        return Step(self, {"pool": pool, **{f"part_{i}": step for i, step in enumerate(parts)}})

    @property
    def label(self) -> str:
        return "-".join([super().label, *sorted(part.label for part in self.of.values())])

    def choose(self, uids: Uids, times: Indices) -> Uids:
        """The uids to keep, of all ``uids`` that any part keeps; ``times`` counts the parts that keep each."""
        raise NotImplementedError(f"{type(self).__name__} has no choose()")

    def run(self, out: Path, engine: Engine, *, pool: Pool, **parts: Subset) -> Summary:
        """Combine the parts' subsets. Raises ValueError when nothing is left."""
        sizes = {}
        sets = []
        for subset in parts.values():
            uids = subset.uids()
            sets.append(uids[firsts(uids)])
            sizes[subset.path.name] = len(sets[-1])
        kept = self.choose(*_tallied(sets))
        if len(kept) == 0:
            listed = ", ".join(f"{name} keeps {size:,}" for name, size in sizes.items())
            raise ValueError(f"{type(self).__name__} kept 0 of {pool.rows:,} samples: {listed}, and none is in all")
        write_subset(out, kept)
        counts = Counts(total=pool.rows, kept=len(kept), dropped=pool.rows - len(kept))
        return Summary(counts=counts, facts={"taken": len(kept), "parts": sizes})


@dataclass(frozen=True, kw_only=True)
class Intersection(Combination):
    """Keeps the uids that every part keeps."""

    def choose(self, uids: Uids, times: Indices) -> Uids:
        return uids[times == len(self.of)]


@dataclass(frozen=True, kw_only=True)
class Union(Combination):
    """Keeps the uids that any part keeps."""

    def choose(self, uids: Uids, times: Indices) -> Uids:
        return uids


def _tallied(sets: list[Uids]) -> tuple[Uids, Indices]:
    """All uids of some sets, each once, sorted; and in how many of the sets each is."""
    joined = sort_uids(np.concatenate(sets))
    starts = np.flatnonzero(firsts(joined))
    return joined[starts], np.diff(np.append(starts, len(joined)))
