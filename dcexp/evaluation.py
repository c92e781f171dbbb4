"""Evaluation: many tasks of one checkpoint, spread over devices; and of models that were not trained here."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import write_json
from dcexp.artifacts.result import Result, results_in, write_results
from dcexp.checks import check_all, rebuilt
from dcexp.engines.base import Engine
from dcexp.stage import Step
from dcexp.store import Store
from dcexp.tasks.base import Mode, Task
from dcexp.tasks.datacomp import Aggregates, aggregate
from dcexp.tasks.pretrained import Model
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)

KINDS = ("pretrained", "evalset", "result")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the verb ``evaluate`` is asked: ``tasks`` of a ``checkpoint``, a file or a tag, of open_clip's ``model``."""

    checkpoint: str
    model: str
    tasks: dict[str, Task]
    engine: Engine
    store: Store
    evalsets: str = "data/evalsets"
    evaluation: Mode = "parity"
    crops: str = ""
    rebuild: str | list[str] = field(default_factory=list)
    folder: str = "outputs/runs"

    def __post_init__(self) -> None:
        check_types(self)
        if not self.tasks:
            raise ValueError("no tasks, so there is nothing to evaluate: choose tasks=…")
        rebuilt(self.rebuild, KINDS)


def evaluate(request: Request) -> list[Artifact]:
    """The results of a model that was not trained here. What is wrong is said before the first task starts."""
    model = Model(checkpoint=request.checkpoint, model=request.model).step()
    steps = [task.step(model) for task in request.tasks.values()]
    check_all({part.key: part for step in steps for part in step.upstream()}.values(), request.engine)
    made = results(request.store, request.engine, steps, rebuilt(request.rebuild, KINDS))
    write_report(Path(request.folder), made)
    return made


def write_report(folder: Path, made: Sequence[Artifact]) -> None:
    """Write ``eval_results.jsonl``, as upstream has it, and the aggregates as ``aggregates.json``; nothing for none."""
    if found := results_in(made):
        write_results(folder / "eval_results.jsonl", found)
        write_json(folder / "aggregates.json", aggregates(found).as_dict())


def aggregates(found: Iterable[Result]) -> Aggregates:
    """DataComp's means over the main metrics of some results."""
    return aggregate({result.line["key"]: result.main_metric for result in found})


def results(store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str]) -> list[Artifact]:
    """Make the results of ``steps``, tasks of one checkpoint; with several devices, several tasks at once.

    A task that fails does not keep the others from being evaluated; then its error is raised, a ValueError.
    """
    for step in steps:
        for source in step.steps.values():
            store.build(source, engine, rebuild)
    to_make = [step for step in steps if store.find(step) is None or rebuild]
    if engine.devices > 1 and len(to_make) > 1:
        engine.gang(_evaluate_share, store, engine, shares(to_make, engine.devices), rebuild)
        rebuild -= {"result"}  # done; what failed, or is of other inputs than before, is not there yet
    return _one_by_one(store, engine, steps, rebuild)


def shares(steps: Sequence[Step], count: int) -> list[list[Step]]:
    """``steps`` in ``count`` shares of about as many test samples: the largest first, to whoever has least."""
    found: list[list[Step]] = [[] for _ in range(count)]
    for step in sorted(steps, key=_size, reverse=True):
        min(found, key=lambda share: sum(map(_size, share))).append(step)
    return found


def _evaluate_share(store: Store, engine: Engine, shares: list[list[Step]], rebuild: frozenset[str]) -> None:
    """One rank's share, on its own device. What fails is left to whoever started the ranks."""
    import torch

    cores = max((os.cpu_count() or 1) // engine.devices, 1)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    else:
        torch.set_num_threads(cores)
    alone = replace(engine, devices=1, workers=max(engine.workers // engine.devices, 1) if engine.workers else cores)
    for step in shares[int(os.environ["RANK"])]:
        try:
            store.build(step, alone, rebuild)
        except (ValueError, OSError) as error:
            log.warning("%s: %s", step.name, error)


def _one_by_one(store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str]) -> list[Artifact]:
    made: list[Artifact] = []
    failed: dict[str, str] = {}
    with _progress(sum(map(_size, steps))) as advance:
        for step in steps:
            try:
                made.append(store.build(step, engine, rebuild))
            except ValueError as error:
                if str(error) in failed.values():  # it is the model, not the task
                    raise
                failed[step.stage.label] = str(error)
                log.error("%s failed, the others go on: %s", step.stage.label, error)
            advance(_size(step))
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(steps)} tasks failed; the results of the others are kept:\n"
            + "\n".join(f"  {name}: {message}" for name, message in failed.items())
        )
    return made


def _size(step: Step) -> int:
    assert isinstance(step.stage, Task)
    return step.stage.size


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar over all test samples of all tasks, with the time that is left."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("evaluate", total=total)
        yield lambda size: progress.advance(bar, size)
