"""Evaluation: many tasks of one checkpoint, spread over devices; and of models that were not trained here."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.evalset import EvalSet
from dcexp.artifacts.files import write_json
from dcexp.artifacts.result import Result, results_in, write_results
from dcexp.checks import check_all, rebuilt
from dcexp.engines.base import Engine
from dcexp.model import BrokenModelError
from dcexp.stage import Step
from dcexp.store import Store
from dcexp.tasks.base import Mode, Task
from dcexp.tasks.clip import forget
from dcexp.tasks.datacomp import Aggregates, aggregate
from dcexp.tasks.pretrained import Model
from dcexp.tasks.shares import FAILURES, on_devices, size
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


class TasksFailedError(ValueError):
    """Some tasks failed; the others were evaluated, and ``made`` holds their results."""

    def __init__(self, made: list[Artifact], failed: Mapping[str, str]) -> None:
        self.made = made
        super().__init__(
            f"{len(failed)} of {len(made) + len(failed)} tasks failed; the results of the others are kept:\n"
            + "\n".join(f"  {name}: {message}" for name, message in failed.items())
        )


def evaluate(request: Request) -> list[Artifact]:
    """The results of a model that was not trained here. What is wrong is said before the first task starts."""
    model = Model(checkpoint=request.checkpoint, model=request.model).step()
    steps = [task.step(model) for task in request.tasks.values()]
    check_all({part.key: part for step in steps for part in step.upstream()}.values(), request.engine, request.store)
    return results(request.store, request.engine, steps, rebuilt(request.rebuild, KINDS), Path(request.folder))


def results(
    store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str], folder: Path
) -> list[Artifact]:
    """Make the results of ``steps``, tasks of one checkpoint; with several devices, several tasks at once.

    Sets come first: one that is not its task's is a ValueError before a model is trained or loaded. A task that fails
    later keeps no other from being evaluated; then TasksFailedError is raised. The reports go into ``folder``.
    """
    to_make = [s for s in steps if store.find(s) is None or rebuild & {source.kind for source in s.upstream()}]
    _make_sets(store, engine, to_make, rebuild)
    for source in {source.key: source for step in to_make for source in step.steps.values()}.values():
        store.build(source, engine, rebuild)
    failed: dict[str, str] = {}
    if engine.devices > 1 and len(to_make) > 1:
        failed = on_devices(store, engine, to_make, rebuild)
        rebuild -= {"result"}  # what did not fail is made
    try:
        made = _one_by_one(store, engine, [step for step in steps if step.key not in failed], rebuild)
    except TasksFailedError as error:
        write_report(folder, error.made)
        raise
    finally:
        forget()
    write_report(folder, made)
    if failed:
        raise TasksFailedError(made, {step.stage.label: failed[step.key] for step in steps if step.key in failed})
    return made


def write_report(folder: Path, made: Sequence[Artifact]) -> None:
    """Write ``eval_results.jsonl``, as upstream has it, and the aggregates as ``aggregates.json``; nothing for none."""
    if found := results_in(made):
        write_results(folder / "eval_results.jsonl", found)
        write_json(folder / "aggregates.json", {**aggregates(found).as_dict(), "evaluation": modes(found)})


def aggregates(found: Iterable[Result]) -> Aggregates:
    """DataComp's means over the main metrics of some results."""
    return aggregate({result.line["key"]: result.main_metric for result in found})


def modes(found: Iterable[Result]) -> str:
    """How they were evaluated: parity, fast, or both."""
    stages = [result.manifest["lineage"]["stage"]["fields"] for result in found]
    return ", ".join(sorted({fields.get("mode", "parity") for fields in stages}))


def _make_sets(store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str]) -> None:
    """Index the sets of the tasks and compare them; raise ValueError with all that is wrong with any of them."""
    wrong = []
    for step in steps:
        assert isinstance(step.stage, Task)
        try:
            evalset = store.build(step.steps["evalset"], engine, rebuild)
            assert isinstance(evalset, EvalSet)
            step.stage.assert_published(evalset)
        except (ValueError, OSError) as error:
            wrong.append(f"{step.stage.label}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong) + "\nNothing was evaluated")


def _one_by_one(store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str]) -> list[Artifact]:
    made: list[Artifact] = []
    failed: dict[str, str] = {}
    with _progress(sum(map(size, steps))) as advance:
        for step in steps:
            try:
                made.append(store.build(step, engine, rebuild))
            except BrokenModelError:
                raise  # whatever the task
            except FAILURES as error:
                failed[step.stage.label] = str(error)
                log.error("%s failed, the others go on: %s", step.stage.label, error)
            advance(size(step))
    if failed:
        raise TasksFailedError(made, failed)
    return made


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar over all test samples of all tasks, with the time that is left."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("evaluate", total=total)
        yield lambda size: progress.advance(bar, size)
