"""WinoGAViL: which of five to twelve images do people associate with a word?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dcexp.artifacts.evalset import AssociationSet
from dcexp.artifacts.result import Metrics
from dcexp.fp32 import full_fp32
from dcexp.tasks.base import Task
from dcexp.tasks.retrieval_metrics import associated, association_metrics

if TYPE_CHECKING:
    from dcexp.tasks.clip import Clip


@dataclass(frozen=True, kw_only=True)
class Associations(Task):
    """The Jaccard index between the chosen images and as many nearest ones. Each image and cue is encoded once."""

    metrics: ClassVar[frozenset[str]] = frozenset({"jaccard_score_10-12", "jaccard_score_5-6", "avg_jaccard_score"})
    of_captions: ClassVar[bool] = True

    metric: str = "jaccard_score_10-12"

    def measure(self, clip: "Clip", evalset: AssociationSet, threads: int) -> Metrics:
        """See :meth:`Task.measure`."""
        import torch

        cues = clip.texts([prompt(cue) for cue in evalset.cues], self.name)
        images = self.image_features(clip, evalset, threads)
        if clip.device == "cuda":  # upstream's product is within autocast: fp16, whose ties count
            cues, images = cues.half(), images.half()
        predicted = []
        with torch.inference_mode(), full_fp32():
            for cue, positions, chosen in zip(cues, evalset.candidates, evalset.chosen, strict=True):
                similarities = (images[positions] @ cue).cpu().numpy()
                predicted.append(associated(similarities, int(np.count_nonzero(chosen))))
        return association_metrics(predicted, evalset.chosen)


def prompt(cue: str) -> str:
    """``An`` or ``A`` and the cue in lower case."""
    return f"{'An' if cue.lower()[:1] in set('aeiou') else 'A'} {cue.lower()}"
