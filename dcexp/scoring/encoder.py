"""Features of images and captions: files are decoded, cropped and tokenised by threads, and the device is kept busy.

An image goes through open_clip's transform for evaluation as open_clip's own loader gives it: decoded, not turned by
what EXIF says, and converted to RGB before it is resized. A caption goes through the model's tokenizer.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcexp.fp32 import full_fp32
from dcexp.scoring.samples import TOGETHER, Raw
from dcexp.tasks.ahead import ahead, chunks, lone_threads
from dcexp.tasks.clip import Clip
from dcexp.tasks.crops import rgb

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Prepared(NamedTuple):
    """A piece as the model takes it. ``pictured`` and ``captioned`` say of its samples which have a crop and tokens."""

    crops: npt.NDArray[np.uint8]  # [images, height, width, 3]
    tokens: "Tensor"  # int64 [captions, context length]
    pictured: Mask
    captioned: Mask
    broken: Mask  # there is an image, and it cannot be decoded


class Features(NamedTuple):
    """Normalised features of some samples, fp32 [n, width], a row of NaN where there is nothing to encode."""

    images: Floats
    texts: Floats
    broken: Mask

    @property
    def scores(self) -> Floats:
        """Cosines of image and caption [n], NaN where one of them is missing."""
        cosines: Floats = np.einsum("ij,ij->i", self.images, self.texts, dtype=np.float64).astype(np.float32)
        return cosines


class Encoder:
    """A model that is asked for features, of pieces of ``together`` samples. On a GPU ``batch`` go through it at once.

    On a CPU every thread takes the ``TOGETHER`` samples that it has prepared through the model by itself, with one
    thread in each matrix product: so features do not depend on the number of threads. Memory: the model; and for each
    thread some ``3 * TOGETHER`` samples, crops and files, with one forward pass on a CPU; on a GPU ``batch`` samples.
    """

    def __init__(self, weights: Path, model: str, half: bool, batch: int) -> None:
        import torch

        self._clip, self._half, self._lock = Clip(weights, model, "parity"), half, Lock()
        self._pieces = max(batch // TOGETHER, 1) if self._clip.device == "cuda" else 0
        self.together = min(batch, TOGETHER) if self._pieces else TOGETHER
        blank = np.zeros((1, *self._clip.crop_shape), np.uint8)
        self.width = int(self._clip.images(torch.from_numpy(blank), half).shape[1])

    def features(self, pieces: Iterable[Sequence[Raw]], threads: int) -> Iterator[Features]:
        """The features of the pieces, in order. Raises ValueError where they are not finite numbers."""
        with lone_threads(threads) as pool, full_fp32():
            if self._pieces:
                for some in chunks(ahead(pool, self.prepare, pieces, 2 * threads + self._pieces), self._pieces):
                    yield self.encode(some)
            else:
                yield from ahead(pool, lambda piece: self.encode([self.prepare(piece)]), pieces, 2 * threads)

    def prepared(self, pieces: Iterable[Sequence[Raw]], threads: int) -> Iterator[Prepared]:
        """What the model would be given: the loader alone."""
        with lone_threads(threads) as pool:
            yield from ahead(pool, self.prepare, pieces, 2 * threads)

    def prepare(self, piece: Sequence[Raw]) -> Prepared:
        """Decode, crop and tokenise; any thread may ask."""
        import torch

        crops = [None if raw.image is None else self._crop(raw.image) for raw in piece]
        good = [crop for crop in crops if crop is not None]
        texts = [raw.text for raw in piece if raw.text is not None]
        with self._lock:  # fast tokenizers refuse to be used by two at once
            tokens = self._clip.tokens(texts) if texts else torch.zeros((0, 0), dtype=torch.int64)
        pictured = np.array([crop is not None for crop in crops], np.bool_)
        return Prepared(
            crops=np.stack(good) if good else np.empty((0, *self._clip.crop_shape), np.uint8),
            tokens=tokens,
            pictured=pictured,
            captioned=np.array([raw.text is not None for raw in piece], np.bool_),
            broken=np.array([raw.image is not None for raw in piece], np.bool_) & ~pictured,
        )

    def encode(self, pieces: Sequence[Prepared]) -> Features:
        """The features of some pieces in one forward pass of each tower."""
        import torch

        pictured = np.concatenate([piece.pictured for piece in pieces])
        captioned = np.concatenate([piece.captioned for piece in pieces])
        images, texts = (np.full((len(pictured), self.width), np.nan, np.float32) for _ in range(2))
        if pictured.any():
            crops = torch.from_numpy(np.concatenate([piece.crops for piece in pieces]))
            images[pictured] = self._clip.images(crops, self._half).cpu().numpy()
        if captioned.any():
            tokens = torch.cat([piece.tokens for piece in pieces if len(piece.tokens)])
            texts[captioned] = self._clip.captions(tokens, self._half).cpu().numpy()
        return Features(images, texts, np.concatenate([piece.broken for piece in pieces]))

    def _crop(self, content: bytes) -> npt.NDArray[np.uint8] | None:
        """What the model looks at of an image; None for one that cannot be decoded."""
        from PIL import Image

        try:
            image: Any = Image.open(io.BytesIO(content))
            if self._is_bomb(image.size):
                return None
            image.load()
            crop: npt.NDArray[np.uint8] = self._clip.crop(rgb(image))
            return crop
        except Exception:  # Pillow raises anything from OSError to SyntaxError, by format and damage
            return None

    def _is_bomb(self, size: tuple[int, int]) -> bool:
        """Whether an image, resized so that the crop fits into it, has more pixels than Pillow would open."""
        from PIL import Image

        height, width, _ = self._clip.crop_shape
        return max(size) * height * width > 2 * (Image.MAX_IMAGE_PIXELS or math.inf) * min(size)
