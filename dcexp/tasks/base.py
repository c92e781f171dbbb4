"""A task: one number (or several) that says how good a checkpoint is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.artifacts.evalset import EvalSet
from dcexp.artifacts.result import Metrics, Result, write_result
from dcexp.engines.base import Engine
from dcexp.hub import Origin
from dcexp.stage import Stage, Step, Value

if TYPE_CHECKING:
    from torch import Tensor

    from dcexp.tasks.clip import Clip

Mode = Literal["parity", "fast"]


@dataclass(frozen=True, kw_only=True)
class EvalSource(Stage):
    """Where the data of a task come from: makes an evaluation set. Subclass it and write ``run``."""

    makes: ClassVar[type[Artifact]] = EvalSet

    def step(self) -> Step:
        """This source as a step. One whose files may change adds a digest of them here."""
        return Step(self, {})

    def origin(self) -> Origin | None:
        """Where its files are to be had; None for what needs no download or is nowhere to be had."""
        return None


@dataclass(frozen=True, kw_only=True)
class Task(Stage):
    """A task is a stage from a checkpoint to a result. Subclass it and write ``measure``.

    ``key`` and ``name`` are upstream's key and display name of the task, ``size`` its number of test samples (a set
    with another number is refused), ``metric`` the one that enters averages (empty: none), ``random`` what guessing
    scores on it (0 where unknown) and ``group`` the aggregate it is in beside the average. ``data`` makes the
    evaluation set; it is a step of its own, whose key is in this one's, so it is not compared.

    ``mode`` is ``parity`` for upstream's numbers, or ``fast``: bfloat16 and torch.compile, which round differently; the
    drift is in the result's summary. ``crops`` is a folder in which preprocessed images are kept for further
    checkpoints; empty: they are not.
    """

    makes: ClassVar[type[Artifact]] = Result
    metrics: ClassVar[frozenset[str]] = frozenset({""})
    of_captions: ClassVar[bool] = False

    key: str
    name: str
    size: int
    metric: str
    random: float = field(default=0.0, compare=False)
    group: str = field(default="", compare=False)
    mode: Mode = "parity"
    crops: str = field(default="", compare=False)
    data: EvalSource = field(compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in self.metrics:
            raise ValueError(f"task {self.key}: metric={self.metric!r}: wanted {', '.join(sorted(self.metrics))}")

    @property
    def label(self) -> str:
        """The task's key: the other fields follow from it."""
        return self.key + ("" if self.mode == "parity" else f"-{self.mode}")

    def step(self, checkpoint: Step) -> Step:
        """This task applied to a checkpoint."""
        return Step(self, {"checkpoint": checkpoint, "evalset": self.data.step()})

    def cost(self, **values: Value) -> str:
        return f"{self.size:,} test samples"

    def run(self, out: Path, engine: Engine, *, checkpoint: Checkpoint, evalset: EvalSet) -> Summary:
        """Evaluate ``checkpoint`` on ``evalset`` and write the result into ``out``."""
        from dcexp.tasks.clip import load_clip

        self.assert_published(evalset)
        clip = load_clip(checkpoint, self.mode)
        metrics = self.measure(clip, evalset, engine.workers)
        main = metrics[self.metric] if self.metric else None
        main = None if main is None or math.isnan(main) else main
        write_result(out, self.key, self.name, metrics, main)
        facts = {"task": self.key, "main_metric": main, "random": self.random, **clip.drift()}
        return Summary(counts=Counts(total=self.size, kept=self.size), facts=facts)

    def measure(self, clip: "Clip", evalset: Any, threads: int) -> Metrics:
        """All metrics of the task, by upstream's names; ``threads`` prepare images (0: one per core)."""
        raise NotImplementedError(f"{type(self).__name__} has no measure()")

    def image_features(self, clip: "Clip", evalset: EvalSet, threads: int) -> "Tensor":
        """Features of the pictures of the set, see :func:`dcexp.tasks.crops.image_features`.

        In upstream, images of sets in tars become RGB before they are resized and go through the model in fp32; those
        ``of_captions`` after, and on a GPU in fp16.
        """
        from dcexp.tasks.crops import image_features

        late = self.of_captions
        return image_features(
            clip, evalset, rgb_first=not late, half=late, threads=threads, what=self.name, kept=self.crops
        )

    def assert_published(self, evalset: EvalSet) -> None:
        """Raise ValueError for a set that is not this task's, before a model is loaded."""
        evalset.assert_unchanged()
        found, wanted = self.facts(evalset), self.facts(None)
        if found != wanted:
            lacks = "; ".join(f"{name}: {found[name]:,} for {n:,}" for name, n in wanted.items() if found[name] != n)
            raise ValueError(
                f"{evalset.root} is not the set of task {self.key}: {lacks}. "
                "Nothing was evaluated: is the download complete?"
            )

    def facts(self, evalset: Any) -> Mapping[str, int]:
        """Numbers by which the set is known: those found in ``evalset``, or those wanted where it is None."""
        return {"test samples": evalset.samples if evalset else self.size}
