"""A checkpoint as a zero-shot classifier: one column per class made of prompts, and the best classes of each image.

The numbers are those of CLIP benchmark 1.4.0, which upstream evaluates with: on a GPU the text tower runs in fp16
autocast and the image tower in fp32 without TF32 matrix products; on a CPU all is fp32.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

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


def class_columns(clip: Clip, classnames: Sequence[str], templates: Sequence[str], what: str) -> "Tensor":
    """The classifier, fp32 [width, classes]: the mean over templates of the normalised prompts, normalised again."""
    import torch
    from torch.nn.functional import normalize

    prompts = [_filled(template, classname) for classname in classnames for template in templates]
    features = []
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=clip.device == "cuda"):
        for texts in _shown(_chunks(prompts, PROMPTS), f"{what}: prompts", -(-len(prompts) // PROMPTS)):
            features.append(clip.model.encode_text(clip.tokenize(texts).to(clip.device)).float())
    with torch.inference_mode():
        each = normalize(torch.cat(features), dim=-1).unflatten(0, (len(classnames), len(templates)))
        mean = each.mean(dim=1)
        return (mean / mean.norm(dim=1, keepdim=True)).T


def classify(
    clip: Clip, columns: "Tensor", examples: Iterable[Example], total: int, threads: int, what: str
) -> Answers:
    """Put every example to the classifier ``columns`` [width, classes]. Raises ValueError naming a bad example."""
    import torch

    classes = columns.shape[1]
    rows: list[tuple[Any, ...]] = []
    pixels = _pixels(clip, examples, classes, threads)
    with torch.inference_mode(), _full_fp32():
        for batch in _chunks(_shown(pixels, f"{what}: images", total), IMAGES):
            images = torch.stack([image for image, _ in batch]).to(clip.device, non_blocking=True)
            logits = (SHARPNESS * torch.nn.functional.normalize(clip.model.encode_image(images), dim=-1)) @ columns
            logits = logits.float().cpu()
            top = logits.topk(5 if classes >= 5 else 1, dim=1).indices
            rows.append((top.numpy(), logits.argmax(dim=1).numpy(), np.array([label for _, label in batch])))
    columns_of_answers = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Answers(**dict(zip(("top", "predicted", "labels"), columns_of_answers, strict=True)))


def _filled(template: str, classname: str) -> str:
    try:
        return template.format(c=classname)
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            f"template {template!r}: wanted {{c}} where the class name goes, and no other braces"
        ) from None


def _pixels(clip: Clip, examples: Iterable[Example], classes: int, threads: int) -> Iterator[tuple["Tensor", int]]:
    """Decode and transform in threads (Pillow and torch let go of the interpreter), in order, little ahead."""

    def prepare(example: Example) -> tuple["Tensor", int]:
        if example.label >= classes:
            raise ValueError(f"{example.place}.cls: label {example.label}, but there are {classes} classes")
        return clip.transform(example.decode()), example.label

    waiting: deque[Future[tuple[Tensor, int]]] = deque()
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for example in examples:
            waiting.append(pool.submit(prepare, example))
            if len(waiting) > 2 * IMAGES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _full_fp32() -> Iterator[None]:
    """Whatever a training before has set: matrix products in full fp32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _shown(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(items, description=what, total=total, transient=True, console=console, disable=hidden)
