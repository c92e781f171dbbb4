"""Zero-shot classification: name the class of every test image from the class names alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dcexp.artifacts.evalset import TEMPLATES, ClassSet, EvalSet
from dcexp.artifacts.pictures import Ints
from dcexp.artifacts.result import Metrics
from dcexp.tasks import metrics as measures
from dcexp.tasks.base import Task
from dcexp.tasks.prompts import filled

if TYPE_CHECKING:
    from dcexp.tasks.classifier import Answers
    from dcexp.tasks.clip import Clip

TOPS = {"top1": "acc1", "top5": "acc5"}  # open_clip's names while training, and CLIP benchmark's
PLAIN = frozenset({"acc1", "mean_per_class_recall"})


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Task):
    """A classification task of upstream (``evaluate.py``, CLIP benchmark 1.4.0). ``classes`` is checked like ``size``.

    Every one has ``acc1``, ``acc5`` and ``mean_per_class_recall``; subclasses add their own in ``further``.
    """

    metrics: ClassVar[frozenset[str]] = PLAIN

    classes: int
    metric: str = "acc1"

    def measure(self, clip: "Clip", evalset: ClassSet, threads: int) -> Metrics:
        """See :meth:`Task.measure`."""
        from dcexp.tasks.classifier import answers, class_columns

        prompts = filled(evalset.root / TEMPLATES, evalset.templates, evalset.classnames)
        columns = class_columns(clip, prompts, self.name)
        features = self.image_features(clip, evalset, threads)
        found = answers(features, columns)
        labels = evalset.labels
        assert len(found.predicted) == self.size, f"{len(found.predicted)} answers for {self.size} images"
        plain = measures.classification_metrics(found.top, found.predicted, labels)
        return {**plain, **self.further(found, labels, evalset)}

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        """Metrics beside those of every classification task."""
        return {}

    def facts(self, evalset: ClassSet | None) -> Mapping[str, int]:
        """See :meth:`Task.facts`."""
        classes = len(evalset.classnames) if evalset else self.classes
        return {**super().facts(evalset), "classes": classes}

    def assert_published(self, evalset: EvalSet) -> None:
        """See :meth:`Task.assert_published`."""
        super().assert_published(evalset)
        assert isinstance(evalset, ClassSet)
        filled(evalset.root / TEMPLATES, evalset.templates, evalset.classnames)

    def scores(self, model: str, evalset: ClassSet, threads: int, weights: Path) -> Mapping[str, float]:
        """``top1`` and ``top5`` (with five classes or more) of a file of weights whose training goes on.

        What it needed of memory is free again afterwards. ``threads`` prepare images; 0: one per core.
        """
        from dcexp.tasks.clip import Clip

        self.assert_published(evalset)
        found = self.measure(Clip(weights, model, self.mode), evalset, threads)
        return {top: value for top, acc in TOPS.items() if (value := found[acc]) is not None}


@dataclass(frozen=True, kw_only=True)
class IWildCam(ZeroShot):
    """Animals in camera traps (WILDS): F1 over the classes that occur."""

    metrics: ClassVar[frozenset[str]] = PLAIN | {"F1-macro_all"}

    metric: str = "F1-macro_all"

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        return measures.iwildcam_metrics(found.predicted, labels)


@dataclass(frozen=True, kw_only=True)
class Camelyon17(ZeroShot):
    """Tumours in tissue of another hospital (WILDS), also by slide."""

    metrics: ClassVar[frozenset[str]] = PLAIN | {"acc_wg"}

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        return measures.camelyon17_metrics(found.predicted, labels, evalset.metadata)


@dataclass(frozen=True, kw_only=True)
class FMoW(ZeroShot):
    """Use of land seen from above (WILDS): the worst region, that of four images included, as upstream has it."""

    metrics: ClassVar[frozenset[str]] = PLAIN | {"acc_worst_region", "acc_worst_region_without_other"}

    metric: str = "acc_worst_region"

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        return measures.fmow_metrics(found.predicted, labels, evalset.metadata)


@dataclass(frozen=True, kw_only=True)
class DollarStreet(ZeroShot):
    """Things in homes of all incomes: the income group in which the label is least often among the best five."""

    metrics: ClassVar[frozenset[str]] = PLAIN | {"acc_top5_wg"}

    metric: str = "acc_top5_wg"

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        return measures.dollar_street_metrics(found.top, labels, evalset.metadata)


@dataclass(frozen=True, kw_only=True)
class GeoDE(ZeroShot):
    """Things from all over the world: the region with the lowest accuracy."""

    metrics: ClassVar[frozenset[str]] = PLAIN | {"acc_wg"}

    metric: str = "acc_wg"

    def further(self, found: "Answers", labels: Ints, evalset: ClassSet) -> Metrics:
        return measures.geode_metrics(found.predicted, labels, evalset.metadata)
