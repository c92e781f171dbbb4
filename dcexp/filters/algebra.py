"""Filters of filters: what is kept when several have a say.

Intersection, union and difference are operations on sets: a uid is kept once, however often a part takes it. Sum and
repetition count: a uid that two parts take is taken twice. In all of these every part sees the whole pool, so
fractions are of the pool, and order does not matter. In a sequence it does: see :mod:`dcexp.filters.sequence`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.lookup import count_in
from dcexp.artifacts.merge import joined
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.artifacts.uid import Uids, firsts
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter, FractionOf
from dcexp.filters.outcome import conclude
from dcexp.filters.selection import once
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class Combination(Filter):
    """Combines what other filters keep, range by range of the uids.

    Every part is a step of its own, made once and shared with any other run that has it. What the parts are is in
    the keys of these steps, so the fields that hold them are not compared.
    """

    def parts(self) -> list[Filter]:
        """The filters that are combined."""
        raise NotImplementedError(f"{type(self).__name__} has no parts()")

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """The pool, and the parts' subsets as ``part_0``, ``part_1`` …"""
        steps = [part.step(pool, within, fraction_of) for part in self.parts()]
        return Step(self, {"pool": pool, **{f"part_{i}": step for i, step in enumerate(self.ordered(steps))}})

    def ordered(self, steps: list[Step]) -> list[Step]:
        """The parts' steps in the order that counts; that of their keys where none does."""
        return sorted(steps, key=lambda step: step.key)

    @property
    def label(self) -> str:
        return "-".join([super().label, *sorted(part.label for part in self.parts())])

    def combine(self, slices: list[Uids]) -> Uids:
        """What to take of one range of uids, sorted; ``slices`` is what the parts take of it, each sorted."""
        raise NotImplementedError(f"{type(self).__name__} has no combine()")

    def run(self, out: Path, engine: Engine, *, pool: Pool, **parts: Subset) -> Summary:
        """Combine the parts' subsets. Raises ValueError when nothing is left."""
        sizes = {f"{name} {subset.path.name}": len(subset.uids()) for name, subset in parts.items()}
        files = [subset.path / SUBSET for subset in parts.values()]
        return conclude(self, out, engine, pool, files, self.combine, facts={"parts": sizes})


@dataclass(frozen=True, kw_only=True)
class Several(Combination):
    """Combines the filters ``of``, two or more; the names given to them are for people only.

    ``name`` is what the combination is called in tables and folders, when it has a name of its own.
    """

    of: dict[str, Filter] = field(compare=False)
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.of) < 2:
            name, label = type(self).__name__, type(self).__name__.lower()
            raise ValueError(
                f"{name} needs two filters or more, given: {', '.join(self.of) or 'none'}. For example: filter={label} "
                "+filter@filter.of.a=clip_score +filter@filter.of.b=random"
            )

    def parts(self) -> list[Filter]:
        """The values of ``of``."""
        return list(self.of.values())

    @property
    def label(self) -> str:
        if not self.name:
            return super().label
        settings = sorted(part.label.partition("-")[2] for part in self.parts())
        return "-".join([self.name, *filter(None, settings)])


@dataclass(frozen=True, kw_only=True)
class Union(Several):
    """Keeps the uids that any part keeps, each once."""

    def combine(self, slices: list[Uids]) -> Uids:
        """The distinct uids of all."""
        return once(slices)


@dataclass(frozen=True, kw_only=True)
class Sum(Several):
    """Takes a uid as often as all parts together take it (the multiset sum)."""

    def combine(self, slices: list[Uids]) -> Uids:
        """All uids of all."""
        return joined(slices)


@dataclass(frozen=True, kw_only=True)
class Difference(Combination):
    """Keeps the uids that ``this`` keeps and ``without`` does not, each once."""

    this: Filter = field(compare=False)
    without: Filter = field(compare=False)

    def parts(self) -> list[Filter]:
        """Both."""
        return [self.this, self.without]

    def ordered(self, steps: list[Step]) -> list[Step]:
        """As they stand."""
        return steps

    @property
    def label(self) -> str:
        return f"{self.this.label}-without-{self.without.label}"

    def combine(self, slices: list[Uids]) -> Uids:
        """The distinct uids of the first that are not in the second."""
        this, without = slices
        return this[firsts(this) & (count_in(without, this) == 0)]


@dataclass(frozen=True, kw_only=True)
class Repeat(Combination):
    """Takes every uid ``times`` as often as the filter ``of`` takes it."""

    of: Filter = field(compare=False)
    times: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1:
            raise ValueError(f"filter.times={self.times}: wanted 1 or more")

    def parts(self) -> list[Filter]:
        """The one."""
        return [self.of]

    def combine(self, slices: list[Uids]) -> Uids:
        """Each uid so many times."""
        return np.repeat(slices[0], self.times)


def named(prefix: str, inputs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The inputs whose names begin with ``prefix``, without it."""
    return ((name.removeprefix(prefix), value) for name, value in inputs.items() if name.startswith(prefix))
