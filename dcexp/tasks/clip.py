"""A model that is being evaluated: loaded once, asked for the features of texts and of images.

The numbers are those of CLIP benchmark 1.4.0, which upstream evaluates with: on a GPU the text tower runs in fp16
autocast and the image tower in fp32 without TF32 matrix products, or in fp16 where ``half`` is asked for; on a CPU all
is fp32. In the mode ``fast`` both towers run in bfloat16, compiled on a GPU.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.engines.base import watched
from dcexp.fp32 import full_fp32
from dcexp.model import BrokenModelError, load_model, tokenizer
from dcexp.tasks.ahead import ahead, chunks, lone_threads
from dcexp.tasks.base import Mode

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

log = logging.getLogger(__name__)

# In one forward pass of a tower. Prompts are always as many, so that a text's features do not depend on others.
PROMPTS = 128
IMAGES = {"cuda": 256, "cpu": 64}

T = TypeVar("T")
U = TypeVar("U")


class Clip:
    """A model on ``device``. ``crop`` is the first half of its image transform, to uint8; ``source`` names it."""

    def __init__(self, weights: Path, name: str, mode: Mode) -> None:
        import torch

        from dcexp.pixels import Normalize

        self.source, self.mode = f"{weights} ({name})", mode
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model, transform = load_model(weights, name)
        self._model, self._tokenize = model.to(self.device), tokenizer(name)
        compiled = torch.compile if mode == "fast" and self.device == "cuda" else _as_it_is
        self._encode_text, self._encode_image = compiled(model.encode_text), compiled(model.encode_image)
        *crop, to_tensor, normalize = transform.transforms  # type: ignore[attr-defined]  # torchvision's Compose
        assert (type(to_tensor).__name__, type(normalize).__name__) == ("MaybeToTensor", "Normalize"), transform
        self._crop, self._normalize = crop, Normalize(normalize.mean, normalize.std).to(self.device)
        self._rows: dict[str, int] = {}
        self._features: list[Tensor] = []
        self._drift: dict[str, float] = {}

    @property
    def batch(self) -> int:
        """Images in one forward pass; the last of a set are fewer."""
        return IMAGES[self.device]

    @cached_property
    def crop_shape(self) -> tuple[int, int, int]:
        """Height, width and 3."""
        from PIL import Image

        shape: tuple[int, int, int] = self.crop(Image.new("RGB", (8, 8))).shape
        return shape

    @property
    def preprocessing(self) -> str:
        """The first half of the image transform in words: equal words, equal crops."""
        return " ".join(map(repr, self._crop))

    def crop(self, image: "Image") -> Any:
        """The part of an image that the model looks at, resized, uint8 [height, width, 3]."""
        import numpy as np

        for stage in self._crop:
            image = stage(image)
        return np.asarray(image)

    def texts(self, prompts: Sequence[str], what: str) -> "Tensor":
        """Features of texts, normalised, fp32 [prompts, width] on the device. A text is encoded once, whoever asks.

        Raises ValueError for features that are not finite.
        """
        import torch

        new = [text for text in dict.fromkeys(prompts) if text not in self._rows]
        filled = chunks(new + new[-1:] * (-len(new) % PROMPTS), PROMPTS)
        with lone_threads(0) as pool:
            found = self.each(pool, partial(self.captions, half=True), map(self.tokens, filled))
            count = -(-len(new) // PROMPTS)
            features = torch.cat([*self._features, *watched(found, f"{what}: prompts", count)])
        self._rows.update({text: len(self._rows) + i for i, text in enumerate(new)})
        self._features = [features[: len(self._rows)]]
        return self._features[0][[self._rows[text] for text in prompts]]

    def tokens(self, texts: Sequence[str]) -> "Tensor":
        """The token ids of texts, int64 [texts, context length]."""
        return self._tokenize(list(texts))

    def captions(self, tokens: "Tensor", half: bool) -> "Tensor":
        """Features of tokenised texts in one forward pass; otherwise as :meth:`images`."""
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            with self._autocast(half):
                found = self._encode_text(tokens.to(self.device))
            return normalize(self._finite(found.float(), "texts"), dim=-1)

    def each(self, pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """``work`` of each item, in order: a GPU does one after the other, a CPU as many as ``pool`` has threads."""
        with full_fp32():
            if self.device == "cuda":
                yield from map(work, items)
            else:
                yield from ahead(pool, work, items, 2 * (os.cpu_count() or 1))

    def images(self, crops: "Tensor", half: bool) -> "Tensor":
        """Features of uint8 ``crops`` [n, height, width, 3], normalised, fp32 [n, width] on the device.

        ``half``: in fp16 on a GPU. Raises ValueError for features that are not finite.
        """
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            pixels = self._normalize(self._whole_batch(crops).to(self.device))
            with self._autocast(half):
                found = self._encode_image(pixels)[: len(crops)]
            features = normalize(self._finite(found.float(), "images"), dim=-1)
            if self.mode == "fast" and not self._drift:
                exact = normalize(self._model.encode_image(pixels)[: len(crops)].float(), dim=-1)
                self._drift = {"images": len(crops), "largest": float((1 - (exact * features).sum(dim=-1)).max())}
                log.info("evaluation=fast: features of images differ by %.2g from fp32 (1 - cosine, the largest of %d)",
                         self._drift["largest"], len(crops))  # fmt: skip
            return features

    def drift(self) -> dict[str, Any]:
        """In the mode ``fast``, once for each task: the largest 1 - cosine between features and those in fp32.

        It is over the first batch of images since this was asked before.
        """
        drift, self._drift = self._drift, {}
        return {"drift": drift} if drift else {}

    def _whole_batch(self, crops: "Tensor") -> "Tensor":
        """Where a batch of one size was compiled for, ``crops`` and so many repeats."""
        missing = self.batch - len(crops) if (self.mode, self.device) == ("fast", "cuda") else 0
        return crops[[*range(len(crops)), *[0] * missing]] if missing else crops

    def _autocast(self, half: bool) -> AbstractContextManager[Any]:
        import torch

        if self.mode == "fast":
            return torch.autocast(self.device, torch.bfloat16)
        return torch.autocast("cuda", torch.float16, enabled=half and self.device == "cuda")

    def _finite(self, features: "Tensor", what: str) -> "Tensor":
        if not features.isfinite().all():
            raise BrokenModelError(f"{self.source}: its features of {what} are not finite numbers")
        return features


@lru_cache(maxsize=1)
def _loaded(weights: str, digest: str, name: str, mode: Mode) -> Clip:
    return Clip(Path(weights), name, mode)


def load_clip(checkpoint: Checkpoint, mode: Mode) -> Clip:
    """The model of a checkpoint; loaded once for all tasks of a run."""
    return _loaded(str(checkpoint.weights), checkpoint.manifest["digest"], checkpoint.model, mode)


def _as_it_is(function: T) -> T:
    return function


def forget() -> None:
    """Let go of the model that was loaded, and of the memory it has."""
    _loaded.cache_clear()
