"""Retrieval: find the image of a caption and the captions of an image (Flickr30k, MSCOCO)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dcexp.artifacts.evalset import CaptionSet
from dcexp.artifacts.pictures import Ints
from dcexp.artifacts.result import Metrics
from dcexp.fp32 import full_fp32
from dcexp.tasks.base import Task
from dcexp.tasks.retrieval_metrics import retrieval_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from dcexp.tasks.clip import Clip

RECALLS = frozenset(f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5, 10))
QUERIES = 1024  # whose similarities to all candidates are in memory at once


@dataclass(frozen=True, kw_only=True)
class Retrieval(Task):
    """Recall among the 1, 5 and 10 nearest, both ways (CLIP benchmark 1.4.0)."""

    metrics: ClassVar[frozenset[str]] = RECALLS | {"mean_recall@1"}
    of_captions: ClassVar[bool] = True

    metric: str = "mean_recall@1"

    def measure(self, clip: "Clip", evalset: CaptionSet, threads: int) -> Metrics:
        """See :meth:`Task.measure`."""
        texts = clip.texts(evalset.captions, self.name).cpu()
        images = self.image_features(clip, evalset, threads).cpu()
        return retrieval_metrics(nearest(texts, images), nearest(images, texts), evalset.owners)


def nearest(queries: "Tensor", candidates: "Tensor") -> Ints:
    """For each of ``queries`` [q, width] its 10 nearest ``candidates`` [c, width] (or all), nearest first: [q, 10]."""
    import torch

    with torch.inference_mode(), full_fp32():
        k = min(10, len(candidates))
        found = [(some @ candidates.T).topk(k, dim=1).indices for some in queries.split(QUERIES)]
        best: Ints = torch.cat(found).numpy()
        return best
