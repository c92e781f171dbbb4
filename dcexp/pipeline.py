"""The page that shows everything: what a run is, its steps, and how they are carried out."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.evalset import ClassSet
from dcexp.artifacts.lineage import choice
from dcexp.artifacts.result import numbers_of
from dcexp.assets import Assets
from dcexp.checks import check_all, rebuilt
from dcexp.engines.base import Engine
from dcexp.evaluation import TasksFailedError, results
from dcexp.filters.base import BESIDE, Filter
from dcexp.part import Part
from dcexp.reshard.base import Reshard
from dcexp.reshard.mixture import Mixture
from dcexp.scale import RULE, Scale
from dcexp.sources.base import Source
from dcexp.stage import Step, all_fields, canonical
from dcexp.store import Store
from dcexp.tasks.base import Mode, Task
from dcexp.tasks.zeroshot import ZeroShot
from dcexp.tracker import Story, Tracker
from dcexp.training.train import Train
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)

KINDS = ("pool", "subset", "locations", "shards", "checkpoint", "evalset", "result", *BESIDE)
Until = Literal["pool", "subset", "shards", "checkpoint", "results"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a user chooses. ``scale`` and ``train`` are the benchmark's own and cannot be replaced.

    ``mixture`` holds further sources, by name; ``weight`` is that of the shards of ``source`` among theirs. ``monitor``
    holds zero-shot tasks that watch the training, by the name they have in its curve; they change nothing.
    """

    scale: Scale
    source: Source
    filter: Filter
    tasks: dict[str, Task]
    engine: Engine
    tracker: Tracker
    store: Store
    reshard: Reshard
    train: Train
    mixture: dict[str, Part] = field(default_factory=dict)
    weight: float = 1.0
    monitor: dict[str, ZeroShot] = field(default_factory=dict)
    assets: Assets = field(default_factory=Assets)
    seed: int = 0
    until: Until = "results"
    rebuild: str | list[str] = field(default_factory=list)
    evalsets: str = "data/evalsets"
    evaluation: Mode = "parity"
    crops: str = ""
    folder: str = "outputs/runs"

    def __post_init__(self) -> None:
        check_types(self)
        if self.until == "results" and not self.tasks:
            raise ValueError("no tasks, nothing to evaluate: choose tasks=…, or stop before: until=checkpoint")
        if type(self.scale) is not Scale or type(self.train) is not Train:
            raise ValueError(
                f"scale is a {type(self.scale).__qualname__} and train a {type(self.train).__qualname__}; "
                f"published are dcexp's own Scale and Train. {RULE}"
            )
        self.scale.check()
        if self.mixture:
            self.mix()
        elif self.weight != 1:
            raise ValueError(
                f"weight={self.weight:g} is for the shards of the source in a mixture, and there is no mixture. "
                "Leave it out, or add another source: +part@mixture.NAME=webdataset"
            )
        rebuilt(self.rebuild, KINDS)

    @property
    def rebuild_kinds(self) -> frozenset[str]:
        """The kinds of artifacts to make anew."""
        return rebuilt(self.rebuild, KINDS)

    def mix(self) -> Mixture:
        """The stage that mixes ``source`` with the parts. Raises ValueError for names and weights that cannot be."""
        return Mixture(weight=self.weight, weights={name: part.weight for name, part in self.mixture.items()})


def plan(run: Run) -> dict[str, list[Step]]:
    """Every step of the run, in order, without running any. Parts of a mixture are upstream of its shards."""
    if type(run) is not Run:
        raise ValueError(f"a run is a {type(run).__qualname__}; published is dcexp's own Run. {RULE}")
    pool = run.source.step()
    subset = run.filter.step(pool)
    shards = run.reshard.step(pool, subset)
    if run.mixture:
        shards = run.mix().step(shards, {name: part.step() for name, part in run.mixture.items()})
    checkpoint = _watched(run).step(shards, run.scale, run.seed)
    results = [task.step(checkpoint) for task in run.tasks.values()]
    return {
        "pool": [pool],
        "subset": [subset],
        "shards": [shards],
        "monitor": list(_watching(run).values()),
        "checkpoint": [checkpoint],
        "results": results,
    }


def _watching(run: Run) -> dict[str, Step]:
    """The evaluation sets of the monitor: made before the checkpoint where there is one to make, and no part of it."""
    return {name: task.data.step() for name, task in run.monitor.items()}


def _watched(run: Run) -> Train:
    """The training, with what its monitor does with a file of weights."""
    model, threads, sets = run.scale.recipe.model, run.engine.workers, _watching(run)
    places = {name: ClassSet(run.store.path(step).resolve()) for name, step in sets.items()}
    watch = {n: partial(run.monitor[n].scores, model, evalset, threads) for n, evalset in places.items()}
    return run.train.watched(watch)


def execute(run: Run) -> list[Artifact]:
    """Make what ``run.until`` names, inputs first; what is there already is used."""
    steps = plan(run)
    to_make = list(missing(run, steps[run.until]))
    reached = {s.key: s for t in to_make for s in (t.upstream() if run.rebuild else [t])}  # a rebuild goes on upwards
    check_all(reached.values(), run.engine, run.store)
    if not to_make:
        log.info("nothing to make: every artifact is there already")
        return _made(run, steps)
    with run.tracker.session(story(run, steps)) as session:
        for evalset in [step for step in steps["monitor"] if step.key in reached]:
            run.store.build(evalset, run.engine, run.rebuild_kinds)
        try:
            made = _made(run, steps)
        except TasksFailedError as error:
            session.results(numbers_of(error.made))
            raise
        session.results(numbers_of(made))
    return made


def _made(run: Run, steps: dict[str, list[Step]]) -> list[Artifact]:
    store, engine, rebuild = run.store, run.engine, run.rebuild_kinds
    if run.until == "results":
        return results(store, engine, steps["results"], rebuild, Path(run.folder))
    return [store.build(step, engine, rebuild) for step in steps[run.until]]


def missing(run: Run, steps: Iterable[Step]) -> Iterator[Step]:
    """The steps that ``execute`` would make, inputs first, each once."""
    seen: set[str] = set()

    def visit(step: Step) -> Iterator[Step]:
        anew = run.rebuild_kinds & {s.kind for s in step.upstream()}
        if step.key in seen or (run.store.find(step) and not anew):
            return
        seen.add(step.key)
        for source in step.steps.values():
            yield from visit(source)
        for evalset in _watching(run).values() if step.kind == "checkpoint" else []:
            yield from visit(evalset)
        if run.store.find(step) is None or step.kind in anew:
            yield step

    for step in steps:
        yield from visit(step)


def story(run: Run, steps: dict[str, list[Step]]) -> Story:
    """What a tracker is told: the checkpoint's key is the id, so the same run is the same W&B run."""
    (checkpoint,), (subset,) = steps["checkpoint"], steps["subset"]
    path, lineage = run.store.path(checkpoint), checkpoint.lineage()
    name = f"{run.scale.name}-{choice(lineage) if run.mixture else subset.stage.label}"
    return Story(
        id=checkpoint.key,
        name=f"{name}-seed_{run.seed}",
        group=name,
        folder=Path(run.folder),
        config={
            "scale": lineage["values"]["scale"],
            "recipe_digest": run.scale.digest,
            "seed": run.seed,
            **{part: all_fields(getattr(run, part)) for part in ("source", "filter", "reshard", "train")},
            "mixture": canonical(run.mixture),
            "weight": canonical(run.weight),
            "tasks": sorted(run.tasks),
            "lineage": lineage,
        },
        curves=[path / "metrics.jsonl", path.with_name(f"{path.name}.partial") / "metrics.jsonl"],
    )
