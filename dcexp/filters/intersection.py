"""Intersection: what all of several filters keep, found in one pass over the pool."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.algebra import Several, named
from dcexp.filters.base import Filter, FractionOf, ShardFilter, inside, kept_rows
from dcexp.filters.rows import Rows, View
from dcexp.filters.selection import Decision, select
from dcexp.stage import Step, definition

Asked = list[tuple[ShardFilter, dict[str, Artifact]]]  # filters in the order they are asked, with what they need


@dataclass(frozen=True, kw_only=True)
class Intersection(Several):
    """Keeps the samples that every part keeps, each once.

    Parts that have to see the whole pool first (a fraction) are steps of their own. Parts that decide row by row are
    asked only about rows that all those have kept, the cheapest first; that changes the work and not the outcome.
    (Where a uid stands in several rows of a pool, the former judge the sample, and the latter each of its rows.)
    """

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """The pool; the subsets of some parts as ``part_0`` …; the others as ``row_0`` … with what these need."""
        flat = _flat(self)
        asked = {_identity(f, _needed(f, pool, within)): f for f in flat if isinstance(f, ShardFilter)}  # each once
        steps = [f.step(pool, within, fraction_of) for f in flat if not isinstance(f, ShardFilter)]
        steps = self.ordered(list({step.key: step for step in steps}.values()))
        inputs: dict[str, Any] = {"pool": pool, **{f"part_{i}": step for i, step in enumerate(steps)}}
        for i, (_, stage) in enumerate(sorted(asked.items(), key=lambda item: (item[1].effort, item[0]))):
            inputs[f"row_{i}"] = stage
            inputs |= {f"row_{i}.{name}": value for name, value in _needed(stage, pool, within).items()}
        if within and not steps:
            inputs["within"] = within
        return Step(self, inputs)

    def check(self, engine: Engine, **values: Any) -> None:
        """Let every part that decides row by row look for what it needs."""
        for stage, own in _asked(values):
            stage.check(engine, **own)

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """The same for what this machine has to have."""
        for stage, own in _asked(values):
            stage.check_machine(engine, **own)

    def check_pool(self, pool: Pool) -> None:
        """Let every part that decides row by row see whether the pool has what it needs."""
        for part in _flat(self):
            if isinstance(part, ShardFilter):
                part.check_pool(pool)

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **inputs: Any) -> Summary:
        """Ask about every row that the finished parts have kept. Raises ValueError when nothing is left."""
        asked = [(stage, {k: v for k, v in own.items() if isinstance(v, Artifact)}) for stage, own in _asked(inputs)]
        subsets = [part for name, part in inputs.items() if isinstance(part, Subset) and name.startswith("part_")]
        self.check_pool(pool)
        lists = {name: path for subset in [*subsets, within] if subset for name, path in inside(subset).items()}
        view = View(columns=tuple(dict.fromkeys(n for stage, _ in asked for n in stage.needs())), within=lists)
        sizes = {subset.path.name: len(subset.uids()) for subset in subsets}
        decide = partial(_ask_in_turn, asked)
        return select(self, out, engine, pool=pool, view=view, decide=decide, facts={"parts": sizes} if sizes else {})


def _flat(stage: Intersection) -> list[Filter]:
    """The parts, with those of intersections among them in their place."""
    return [f for part in stage.parts() for f in (_flat(part) if isinstance(part, Intersection) else [part])]


def _needed(stage: ShardFilter, pool: Step, within: Step | None) -> dict[str, Any]:
    """What a part that decides row by row is made with, besides the rows it is asked about."""
    inputs = stage.step(pool, within).inputs
    return {name: value for name, value in inputs.items() if name not in ("pool", "within")}


def _asked(inputs: dict[str, Any]) -> list[tuple[ShardFilter, dict[str, Any]]]:
    """The parts that decide row by row, each with its own inputs."""
    return [
        (stage, dict(named(f"{name}.", inputs))) for name, stage in inputs.items() if isinstance(stage, ShardFilter)
    ]


def _identity(stage: ShardFilter, extra: dict[str, Any]) -> str:
    """What makes two filters the same: their definition, and what they are made with."""
    return json.dumps([definition(stage), {k: v.key if isinstance(v, Step) else v for k, v in extra.items()}])


def _ask_in_turn(asked: Asked, rows: Rows, _: Any) -> Decision:
    """Ask one filter after the other, each about the rows that are left."""
    times, left = np.zeros(len(rows), dtype=bool), np.arange(len(rows))
    dropped: dict[str, int] = {}
    for stage, artifacts in asked:
        mask = kept_rows(stage, rows, artifacts)
        dropped[stage.label] = dropped.get(stage.label, 0) + int((~mask).sum())
        left, rows = left[mask], rows.those(mask)
    times[left] = True
    return Decision(times=times, dropped=dropped)
