"""Two small dual encoders that play CLIP's part: they give the pool its features and similarity scores.

Each is a regularised canonical correlation analysis (Hotelling 1936) between picture and caption, fitted in closed
form on the clean split drawn several times with matching English captions. All they learn of a sample is its pixels
and its text, never how the sample was made.
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
RENDERINGS = 6
THUMBNAIL_SIDE = 24
RIDGE = 0.05
WEIGHT_DECIMALS = 6  # coarse enough to hide in which order a BLAS adds, so that every machine has the same weights


@dataclass(frozen=True, kw_only=True)
class Design:
    """What an encoder can see: a `grid` of cells a side, random Fourier `frequencies` of it, word `buckets`.

    `dim` is the length of its features. `gap` is the cosine between a picture and a text of which the encoder knows
    nothing; `certainty` is the length of what it knows against that constant part.
    """

    dim: int
    grid: int
    frequencies: int
    buckets: int
    gap: float
    certainty: float


B32 = Design(dim=32, grid=8, frequencies=0, buckets=128, gap=0.22, certainty=0.3)
L14 = Design(dim=64, grid=12, frequencies=512, buckets=1024, gap=0.16, certainty=0.22)


@dataclass(frozen=True)
class DualEncoder:
    """A fitted design: the mean input and the projection [inputs, dim - 2] of each tower."""

    design: Design
    image_mean: Matrix
    image_projection: Matrix
    text_mean: Matrix
    text_projection: Matrix

    def images(self, thumbnails: Matrix) -> Matrix:
        """Features [n, dim], of length 1, of thumbnails [n, 24, 24]."""
        known = (_image_inputs(thumbnails, self.design) - self.image_mean) @ self.image_projection
        return _unit(known * self.design.certainty, (1.0, 0.0))

    def texts(self, texts: list[str]) -> Matrix:
        """Features [n, dim], of length 1, of captions."""
        known = (_text_inputs(texts, self.design) - self.text_mean) @ self.text_projection
        return _unit(known * self.design.certainty, (self.design.gap, np.sqrt(1 - self.design.gap**2)))


def thumbnails(files: list[bytes]) -> Matrix:
    """Grey thumbnails [n, 24, 24] of image files (JPEG or PNG bytes): all the encoders see of them."""
    from PIL import Image

    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    greys = (Image.open(io.BytesIO(file)).convert("L").resize(side, Image.Resampling.BOX) for file in files)
    return np.stack([np.asarray(grey, np.float64) for grey in greys])


@cache
def fitted(design: Design) -> DualEncoder:
    """The encoder of a design, fitted on the clean split; the same at every call."""
    pictures, texts = _clean_pairs()
    image, text = _image_inputs(pictures, design), _text_inputs(texts, design)
    image_mean, text_mean = image.mean(0), text.mean(0)
    projections = _correlated(image - image_mean, text - text_mean, design.dim - 2)
    return DualEncoder(design, image_mean, projections[0], text_mean, projections[1])


@cache
def _clean_pairs() -> tuple[Matrix, list[str]]:
    rng, clean = np.random.default_rng(FIT_SEED), scans("clean")
    files, texts = [], []
    for row in np.tile(np.arange(len(clean)), RENDERINGS):
        look = draw_look(rng)
        files.append(encode(render(clean.ink[row], look), format="JPEG", quality=look.quality))
        texts.append(captions.english(int(clean.digits[row]), rng))
    return thumbnails(files), texts


def _image_inputs(pictures: Matrix, design: Design) -> Matrix:
    """Contrast to the paper in each cell of the grid, then (where the design has any) random Fourier features of it."""
    cell = THUMBNAIL_SIDE // design.grid
    cells = pictures.reshape(len(pictures), design.grid, cell, design.grid, cell).mean(axis=(2, 4))
    values = cells.reshape(len(pictures), -1)
    contrast: Matrix = np.abs(values - np.median(values, axis=1, keepdims=True))
    contrast -= contrast.mean(1, keepdims=True)
    contrast /= contrast.std(1, keepdims=True) + 1e-3
    if not design.frequencies:
        return contrast
    rng, inputs = np.random.default_rng(FIT_SEED), contrast.shape[1]
    frequencies = rng.standard_normal((inputs, design.frequencies)) / np.sqrt(inputs)
    phases = rng.uniform(0, 2 * np.pi, design.frequencies)
    return np.hstack([contrast, np.cos(contrast @ frequencies + phases)])


def _text_inputs(texts: list[str], design: Design) -> Matrix:
    """Hashed bag of words, [n, buckets]; two words may share a bucket."""
    bags = np.zeros((len(texts), design.buckets))
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            bags[row, zlib.crc32(word.encode()) % design.buckets] = 1.0
    return bags


def _correlated(image: Matrix, text: Matrix, dim: int) -> tuple[Matrix, Matrix]:
    """Projections [inputs, dim] of centred inputs onto their most correlated directions, weighted by it."""
    used = np.flatnonzero(text.any(axis=0))
    image_whitening, text_whitening = _whitening(image), _whitening(text[:, used])
    across = image_whitening @ (image.T @ text[:, used] / len(image)) @ text_whitening
    left, strength, right = np.linalg.svd(across, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    left, right, known = left * signs, right * signs[:, None], min(dim, len(strength))
    image_projection, text_projection = np.zeros((image.shape[1], dim)), np.zeros((text.shape[1], dim))
    image_projection[:, :known] = image_whitening @ (left * strength)[:, :known]
    text_projection[used, :known] = text_whitening @ (right.T * strength)[:, :known]
    return image_projection.round(WEIGHT_DECIMALS), text_projection.round(WEIGHT_DECIMALS)


def _whitening(inputs: Matrix) -> Matrix:
    """The symmetric W with W (C + ridge) W = 1, for C the covariance of centred `inputs`."""
    values, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    whitening: Matrix = (vectors / np.sqrt(values + RIDGE * values.mean())) @ vectors.T
    return whitening


def _unit(known: Matrix, constant: tuple[float, float]) -> Matrix:
    """Append the constant part that holds pictures and texts apart, and scale to length 1."""
    both: Matrix = np.hstack([known, np.tile(constant, (len(known), 1))])
    lengths: Matrix = np.sqrt((both**2).sum(axis=1, keepdims=True))
    return both / lengths
