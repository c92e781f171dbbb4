"""FairFace and UTKFace: four questions about every face, by groups of people. Reported, in no average."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcexp.artifacts.evalset import ClassSet
from dcexp.artifacts.result import Metrics
from dcexp.tasks.base import Task
from dcexp.tasks.metrics import HEADS, face_metrics

if TYPE_CHECKING:
    from dcexp.tasks.clip import Clip


@dataclass(frozen=True, kw_only=True)
class Faces(Task):
    """Race, gender, age and slurs, each with class names and templates of its own: lines of ``objective:value``."""

    metric: str = ""

    def measure(self, clip: "Clip", evalset: ClassSet, threads: int) -> Metrics:
        """See :meth:`Task.measure`."""
        from dcexp.tasks.classifier import answers, class_columns
        from dcexp.tasks.crops import image_features

        classnames, templates = (by_objective(lines) for lines in (evalset.classnames, evalset.templates))
        columns = {head: class_columns(clip, classnames[head], templates[head], self.name) for head in HEADS}
        features = image_features(
            clip, evalset, rgb_first=True, half=False, threads=threads, what=self.name, kept=self.crops
        )
        predicted = {head: answers(features, columns[head]).predicted for head in HEADS}
        return face_metrics(predicted, evalset.metadata)


def by_objective(lines: list[str]) -> dict[str, list[str]]:
    """The values of lines ``objective:value`` by objective. Raises ValueError where one of the four has none."""
    found: dict[str, list[str]] = {head: [] for head in HEADS}
    for line in lines:
        objective, colon, value = line.partition(":")
        if not colon or objective not in found:
            raise ValueError(f"line {line!r}: wanted one of {', '.join(HEADS)}, a colon, and a class name or template")
        found[objective].append(value)
    if empty := [head for head, values in found.items() if not values]:
        raise ValueError(f"no line begins with {empty[0]}: ; wanted class names and templates of {', '.join(HEADS)}")
    return found
