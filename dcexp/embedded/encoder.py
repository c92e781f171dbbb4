"""Two small dual encoders that play CLIP's part: they give the pool its features and similarity scores.

Each is a regularised canonical correlation analysis (Hotelling 1936) between image and caption features, fitted in
closed form on the clean split drawn many times with matching English captions. What they know of a sample is its
pixels and its text, never how the sample was made.
"""

import io
import re
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dcexp.embedded import captions
from dcexp.embedded.rendering import draw_look, encode, render
from dcexp.embedded.scans import scans

Matrix = NDArray[np.float64]

FIT_SEED = 17


@dataclass(frozen=True, kw_only=True)
class Design:
    """What an encoder looks at. `scale` sets how many of `dim` feature dimensions say "a picture" / "a text" only."""

    dim: int
    grid: int
    frequencies: int
    buckets: int
    renderings: int
    gap: float


B32 = Design(dim=32, grid=8, frequencies=0, buckets=96, renderings=4, gap=0.22)
L14 = Design(dim=64, grid=12, frequencies=512, buckets=1024, renderings=12, gap=0.15)


@dataclass(frozen=True)
class DualEncoder:
    """A fitted design: means and projections [inputs, dim - 2] of the two towers."""

    design: Design
    image_mean: Matrix
    image_projection: Matrix
    text_mean: Matrix
    text_projection: Matrix

    def images(self, files: list[bytes]) -> Matrix:
        """Features [n, dim] of length 1 of image files (JPEG or PNG bytes)."""
        inputs = _image_inputs(files, self.design) - self.image_mean
        return _unit(inputs @ self.image_projection, (1.0, 0.0))

    def texts(self, texts: list[str]) -> Matrix:
        """Features [n, dim] of length 1 of captions."""
        inputs = _text_inputs(texts, self.design) - self.text_mean
        return _unit(inputs @ self.text_projection, (self.design.gap, np.sqrt(1 - self.design.gap**2)))


@cache
def fitted(design: Design) -> DualEncoder:
    """The encoder of a design, fitted on the clean split; the same at every call."""
    rng, clean = np.random.default_rng(FIT_SEED), scans("clean")
    files, texts = [], []
    for ink, digit in zip(np.tile(clean.ink, (design.renderings, 1, 1)), np.tile(clean.digits, design.renderings)):
        look = draw_look(rng)
        files.append(encode(render(ink, look), format="JPEG", quality=look.quality))
        texts.append(captions.english(int(digit), rng))
    image, text = _image_inputs(files, design), _text_inputs(texts, design)
    image_mean, text_mean = image.mean(0), text.mean(0)
    image_projection, text_projection = _correlated(image - image_mean, text - text_mean, design.dim - 2)
    return DualEncoder(design, image_mean, image_projection, text_mean, text_projection)


def _image_inputs(files: list[bytes], design: Design) -> Matrix:
    """Contrast to the paper on a grid, then (where the design has any) random Fourier features of it."""
    grids = np.stack([_grid(file, design.grid) for file in files])
    if not design.frequencies:
        return grids
    rng = np.random.default_rng(FIT_SEED)
    frequencies = rng.standard_normal((grids.shape[1], design.frequencies)) / np.sqrt(grids.shape[1])
    angles = grids @ frequencies + rng.uniform(0, 2 * np.pi, design.frequencies)
    return np.hstack([grids, np.cos(angles)])


def _grid(file: bytes, side: int) -> Matrix:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        small = image.convert("L").resize((side, side), Image.Resampling.BOX)
    values = np.asarray(small, np.float64).ravel()
    contrast = np.abs(values - np.median(values))
    return (contrast - contrast.mean()) / (contrast.std() + 1e-3)


def _text_inputs(texts: list[str], design: Design) -> Matrix:
    """Hashed bag of words, [n, buckets]; two words may share a bucket."""
    counts = np.zeros((len(texts), design.buckets))
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            counts[row, zlib.crc32(word.encode()) % design.buckets] = 1.0
    return counts


def _correlated(image: Matrix, text: Matrix, dim: int) -> tuple[Matrix, Matrix]:
    """Projections [inputs, dim] onto the directions of highest correlation, weighted by it."""
    image_whitening, text_whitening = _whitening(image), _whitening(text)
    left, strength, right = np.linalg.svd(image_whitening.T @ (image.T @ text / len(image)) @ text_whitening)
    weight = strength[:dim]
    return image_whitening @ left[:, :dim] * weight / 2, text_whitening @ right.T[:, :dim] * weight / 2


def _whitening(inputs: Matrix, ridge: float = 0.05) -> Matrix:
    """W with W' (C + ridge) W = 1, for C the covariance of centred `inputs`."""
    covariance = inputs.T @ inputs / len(inputs)
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(values + ridge * values.mean())


def _unit(directions: Matrix, constant: tuple[float, float]) -> Matrix:
    """Append the two constant dimensions that hold pictures and texts apart, and scale to length 1."""
    both = np.hstack([directions, np.tile(constant, (len(directions), 1))])
    return both / np.linalg.norm(both, axis=1, keepdims=True)
