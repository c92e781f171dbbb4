"""A task: one number (or several) that says how good a checkpoint is."""

from dataclasses import dataclass, field
from typing import ClassVar

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.evalset import EvalSet
from dcexp.artifacts.result import Result
from dcexp.stage import Stage, Step, Value


@dataclass(frozen=True, kw_only=True)
class EvalSource(Stage):
    """Where the data of a task come from: makes an evaluation set. Subclass it and write ``run``."""

    makes: ClassVar[type[Artifact]] = EvalSet

    def step(self) -> Step:
        """This source as a step. One whose files may change adds a digest of them here."""
        return Step(self, {})


@dataclass(frozen=True, kw_only=True)
class Task(Stage):
    """A task is a stage from a checkpoint to a result. Subclass it and write ``step`` and ``run``.

    ``key`` and ``name`` are upstream's key and display name of the task, ``size`` its number of test samples (a set
    with another number is refused) and ``random`` what guessing scores on the main metric (0 where unknown).
    """

    makes: ClassVar[type[Artifact]] = Result
    key: str
    name: str
    size: int
    random: float = field(default=0.0, compare=False)

    @property
    def label(self) -> str:
        """The task's key: the other fields follow from it."""
        return self.key

    def step(self, checkpoint: Step) -> Step:
        """This task applied to a checkpoint."""
        raise NotImplementedError(f"{type(self).__name__} has no step()")

    def cost(self, **values: Value) -> str:
        return f"{self.size:,} test samples"
