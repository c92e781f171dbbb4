"""Zero-shot classification: name the class of every test image from the class names alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.artifacts.evalset import EvalSet
from dcexp.artifacts.result import write_result
from dcexp.engines.base import Engine
from dcexp.stage import Step
from dcexp.tasks.base import EvalSource, Task
from dcexp.tasks.examples import examples
from dcexp.tasks.metrics import classification_metrics

if TYPE_CHECKING:
    from dcexp.tasks.classifier import Clip

TOPS = {"top1": "acc1", "top5": "acc5"}  # open_clip's names while training, and CLIP benchmark's


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Task):
    """A classification task of upstream (``evaluate.py``, CLIP benchmark 1.4.0).

    ``classes`` is checked like ``size``; ``metric`` is the one that enters averages; ``data`` makes the evaluation
    set: :class:`dcexp.tasks.evalsets.LocalEvalSet` or :class:`dcexp.tasks.digits.DigitsTestSet`. It is a step of its
    own, whose key is in this one's; so it is not compared.
    """

    classes: int
    metric: Literal["acc1", "mean_per_class_recall"] = "acc1"
    data: EvalSource = field(compare=False)

    def step(self, checkpoint: Step) -> Step:
        return Step(self, {"checkpoint": checkpoint, "evalset": self.data.step()})

    def run(self, out: Path, engine: Engine, *, checkpoint: Checkpoint, evalset: EvalSet) -> Summary:
        """Evaluate ``checkpoint`` on ``evalset`` and write the result into ``out``."""
        metrics = self.metrics(checkpoint, evalset, engine)
        main = metrics[self.metric]
        write_result(out, self.key, self.name, metrics, main)
        facts = {"task": self.key, "main_metric": main, "random": self.random}
        return Summary(counts=Counts(total=self.size, kept=self.size), facts=facts)

    def metrics(self, checkpoint: Checkpoint, evalset: EvalSet, engine: Engine) -> Mapping[str, float | None]:
        """``acc1``, ``acc5`` and ``mean_per_class_recall``, all of them whatever the main metric is."""
        from dcexp.tasks.classifier import load_clip

        self._assert_published(evalset)
        model = checkpoint.scale["recipe"]["model"]
        clip = load_clip(str(checkpoint.weights), checkpoint.manifest["digest"], model)
        return self._measured(clip, evalset, engine.workers)

    def scores(self, model: str, evalset: EvalSet, threads: int, weights: Path) -> Mapping[str, float]:
        """``top1`` and ``top5`` (with five classes or more) of a file of weights whose training goes on.

        What it needed of memory is free again afterwards. ``threads`` prepare images; 0: one per core.
        """
        from dcexp.tasks.classifier import load_clip

        self._assert_published(evalset)
        try:
            metrics = self._measured(load_clip(str(weights), "", model), evalset, threads)
        finally:
            load_clip.cache_clear()
        return {top: value for top, acc in TOPS.items() if (value := metrics[acc]) is not None}

    def _measured(self, clip: "Clip", evalset: EvalSet, threads: int) -> Mapping[str, float | None]:
        from dcexp.tasks.classifier import class_columns, classify, prepared, shown

        columns = class_columns(clip, evalset.classnames, evalset.templates)
        found = chain.from_iterable(examples(tar, self.classes) for tar in evalset.tars)
        images = prepared(clip, shown(found, self.name, self.size), threads)
        answers = classify(clip, columns, images)
        assert len(answers.labels) == self.size, f"{len(answers.labels)} answers for {self.size} images"
        return classification_metrics(answers.top, answers.predicted, answers.labels)

    def _assert_published(self, evalset: EvalSet) -> None:
        evalset.assert_unchanged()
        found = (evalset.samples, len(evalset.classnames), bool(evalset.templates))
        if found != (self.size, self.classes, True):
            raise ValueError(
                f"{evalset.root} holds {evalset.samples:,} test images, {len(evalset.classnames)} classes and "
                f"{len(evalset.templates)} templates; task {self.key} has {self.size:,} images, {self.classes} "
                "classes and at least one template. Nothing was evaluated: is the download complete?"
            )
