"""A checkpoint as a zero-shot classifier: one column per class made of prompts, and the best classes of each image.

The numbers are those of CLIP benchmark 1.4.0, which upstream evaluates with: on a GPU the text tower runs in fp16
autocast and the image tower in fp32 without TF32 matrix products; on a CPU all is fp32.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dcexp.fp32 import full_fp32
from dcexp.model import load_model, tokenizer
from dcexp.tasks.examples import Example
from dcexp.tasks.metrics import Labels

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = 512  # in one forward pass of the text tower
IMAGES = 256  # in one forward pass of the image tower
SHARPNESS = 100.0  # upstream's fixed factor; the model's own logit scale is not used

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A model ready to evaluate: on ``device``, with its image transform and its tokenizer."""

    model: Any
    transform: Callable[[Any], "Tensor"]
    tokenize: Callable[[list[str]], "Tensor"]
    device: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The ``top`` [n, k] classes of each image, best first, the argmax ``predicted`` [n], the truth ``labels`` [n]."""

    top: Labels
    predicted: Labels
    labels: Labels


@lru_cache(maxsize=1)
def load_clip(weights: str, digest: str, name: str) -> Clip:
    """The model of the file ``weights``; loaded once for all tasks of a run (``digest`` is its content's)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, transform = load_model(weights, name)
    return Clip(model=model.to(device), transform=transform, tokenize=tokenizer(name), device=device)


def class_columns(clip: Clip, classnames: Sequence[str], templates: Sequence[str]) -> "Tensor":
    """The classifier, fp32 [width, classes]: the mean over templates of the normalised prompts, normalised again."""
    import torch
    from torch.nn.functional import normalize

    prompts = [_filled(template, classname) for classname in classnames for template in templates]
    features = []
    half = torch.autocast("cuda", torch.float16, enabled=clip.device == "cuda")
    with torch.inference_mode(), full_fp32():
        for texts in _chunks(shown(prompts, "prompts", len(prompts)), PROMPTS):
            with half:
                features.append(clip.model.encode_text(clip.tokenize(texts).to(clip.device)).float())
        each = normalize(torch.cat(features), dim=-1).unflatten(0, (len(classnames), len(templates)))
        mean = each.mean(dim=1)
        return (mean / mean.norm(dim=1, keepdim=True)).T


def classify(clip: Clip, columns: "Tensor", images: Iterable[tuple["Tensor", int]]) -> Answers:
    """Put ``images`` (pixels and label, from :func:`prepared`) to the classifier ``columns`` [width, classes]."""
    import torch

    parts = []
    with torch.inference_mode(), full_fp32():
        for batch in _chunks(images, IMAGES):
            pixels = torch.stack([image for image, _ in batch]).to(clip.device)
            features = torch.nn.functional.normalize(clip.model.encode_image(pixels), dim=-1)
            logits = ((SHARPNESS * features) @ columns).cpu()
            top = logits.topk(5 if logits.shape[1] >= 5 else 1, dim=1).indices.numpy()
            parts.append((top, logits.argmax(dim=1).numpy(), np.array([label for _, label in batch])))
    top, predicted, labels = map(np.concatenate, zip(*parts, strict=True))
    return Answers(top=top, predicted=predicted, labels=labels)


def prepared(clip: Clip, examples: Iterable[Example], threads: int) -> Iterator[tuple["Tensor", int]]:
    """Pixels and label of each example, in order; 0 ``threads``: one per core. Reads only little ahead.

    Threads do, since Pillow and torch let go of the interpreter. Raises ValueError naming an unreadable image.
    """

    def prepare(example: Example) -> tuple["Tensor", int]:
        return clip.transform(example.decode()), example.label

    waiting: deque[Future[tuple[Tensor, int]]] = deque()
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for example in examples:
            waiting.append(pool.submit(prepare, example))
            if len(waiting) > 2 * IMAGES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def shown(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """``items``, with a progress bar where somebody is looking."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(items, description=what, total=total, transient=True, console=console, disable=hidden)


def _filled(template: str, classname: str) -> str:
    try:
        return template.format(c=classname)
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            f"template {template!r}: wanted {{c}} where the class name goes, and no other braces"
        ) from None


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
