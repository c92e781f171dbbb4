"""Zero-shot classification: one column per class made of prompts, and the best classes of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcexp.artifacts.pictures import Ints
from dcexp.fp32 import full_fp32
from dcexp.tasks.clip import Clip

if TYPE_CHECKING:
    from torch import Tensor

SHARPNESS = 100.0  # upstream's fixed factor; the model's own logit scale is not used
ROWS = 4096  # images whose logits are in memory at once


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The ``top`` [n, k] classes of each image, best first, k = 5 or, with fewer than five classes, 1; and the argmax.

    ``predicted`` [n] differs from ``top[:, 0]`` on exact ties only.
    """

    top: Ints
    predicted: Ints


def class_columns(clip: Clip, prompts: Sequence[Sequence[str]], what: str) -> "Tensor":
    """The classifier, fp32 [width, classes]: the mean over a class's normalised ``prompts``, normalised again."""
    import torch

    features = clip.texts([text for texts in prompts for text in texts], what)
    with torch.inference_mode():
        mean = features.unflatten(0, (len(prompts), -1)).mean(dim=1)
        return (mean / mean.norm(dim=1, keepdim=True)).T


def answers(features: "Tensor", columns: "Tensor") -> Answers:
    """The answers of the classifier ``columns`` [width, classes] about images of ``features`` [n, width]."""
    import torch

    top, predicted = [], []
    with torch.inference_mode(), full_fp32():
        for some in features.split(ROWS):
            logits = ((SHARPNESS * some) @ columns).cpu()
            top.append(logits.topk(5 if logits.shape[1] >= 5 else 1, dim=1).indices)
            predicted.append(logits.argmax(dim=1))
    return Answers(top=torch.cat(top).numpy(), predicted=torch.cat(predicted).numpy())
