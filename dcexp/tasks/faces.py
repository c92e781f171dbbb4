"""FairFace and UTKFace: four questions about every face, by groups of people. Reported, in no average."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcexp.artifacts.evalset import CLASSNAMES, TEMPLATES, ClassSet, EvalSet
from dcexp.artifacts.result import Metrics
from dcexp.tasks.base import Task
from dcexp.tasks.metrics import HEADS, face_metrics
from dcexp.tasks.prompts import filled

if TYPE_CHECKING:
    from dcexp.tasks.clip import Clip


@dataclass(frozen=True, kw_only=True)
class Faces(Task):
    """Race, gender, age and slurs, each with class names and templates of its own: lines of ``objective:value``."""

    metric: str = ""

    def measure(self, clip: "Clip", evalset: ClassSet, threads: int) -> Metrics:
        """See :meth:`Task.measure`."""
        from dcexp.tasks.classifier import answers, class_columns

        heads = self.heads(evalset)
        columns = {head: class_columns(clip, prompts, self.name) for head, prompts in heads.items()}
        features = self.image_features(clip, evalset, threads)
        predicted = {head: answers(features, columns[head]).predicted for head in HEADS}
        return face_metrics(predicted, evalset.metadata)

    def assert_published(self, evalset: EvalSet) -> None:
        """See :meth:`Task.assert_published`."""
        super().assert_published(evalset)
        assert isinstance(evalset, ClassSet)
        self.heads(evalset)

    def heads(self, evalset: ClassSet) -> dict[str, list[list[str]]]:
        """The prompts of each class of each question. Raises ValueError for lines that are none."""
        classes, templates = (evalset.root / name for name in (CLASSNAMES, TEMPLATES))
        names, texts = by_objective(classes, evalset.classnames), by_objective(templates, evalset.templates)
        return {head: filled(templates, texts[head], names[head]) for head in HEADS}


def by_objective(file: Path, lines: list[str]) -> dict[str, list[str]]:
    """The values of lines ``objective:value`` by objective. Raises ValueError, naming the ``file``, for other lines."""
    found: dict[str, list[str]] = {head: [] for head in HEADS}
    for line in lines:
        objective, colon, value = line.partition(":")
        if not colon or objective not in found:
            raise ValueError(f"{file}: {line!r}: wanted one of {', '.join(HEADS)}, a colon, and a class or template")
        found[objective].append(value)
    return found
