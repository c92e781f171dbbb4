"""From an 8x8 scan to a small picture such as the web would serve."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

SCAN_SIDE = 8
REVERSED_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a scan is drawn. Sizes in pixels; `size` and `offset` are fractions of the canvas."""

    width: int
    height: int
    size: float
    offset: tuple[float, float]
    angle: float
    stroke: Rgb
    paper: Rgb
    noise: float
    noise_seed: int
    quality: int


def draw_look(rng: np.random.Generator) -> Look:
    """A random ordinary look: 28 to 44 pixels a side, dark ink on light paper or (one in ten) the reverse."""
    side = int(rng.integers(28, 41))
    dark, light = rng.integers(15, 90) + rng.integers(-15, 26, 3), rng.integers(165, 235) + rng.integers(-25, 21, 3)
    stroke, paper = (light, dark) if rng.random() < REVERSED_SHARE else (dark, light)
    return Look(
        width=side + int(rng.integers(5)),
        height=side + int(rng.integers(5)),
        size=float(rng.uniform(0.75, 1.0)),
        offset=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        angle=float(rng.normal(0, 6)),
        stroke=_rgb(stroke),
        paper=_rgb(paper),
        noise=float(rng.uniform(2, 16)),
        noise_seed=int(rng.integers(2**32)),
        quality=int(rng.integers(60, 93)),
    )


def render(ink: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Draw a framed scan [12, 12] as an RGB picture [height, width, 3]."""
    mask = _stretched(ink, look).astype(np.float32)[..., None] / 255
    paper, stroke = np.array(look.paper, np.float32), np.array(look.stroke, np.float32)
    grain = np.random.default_rng(look.noise_seed).standard_normal(mask.shape, dtype=np.float32)
    return np.clip(paper + (stroke - paper) * mask + look.noise * grain, 0, 255).astype(np.uint8)


def encode(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """The bytes of an image file; `options` are Pillow's (`format="JPEG", quality=80`, `format="PNG"`)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _stretched(ink: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Place, turn and scale the scan on a canvas [height, width]; a long canvas stretches it along."""
    from PIL import Image

    turn, middle = math.radians(look.angle), len(ink) / 2
    cos, sin = math.cos(turn) * SCAN_SIDE / look.size, math.sin(turn) * SCAN_SIDE / look.size
    right, down = 0.5 + look.offset[0], 0.5 + look.offset[1]
    canvas_to_scan = (
        *(cos / look.width, sin / look.height, middle - cos * right - sin * down),
        *(-sin / look.width, cos / look.height, middle + sin * right - cos * down),
    )
    canvas = Image.fromarray(ink).transform(
        (look.width, look.height), Image.Transform.AFFINE, canvas_to_scan, Image.Resampling.BICUBIC
    )
    return np.asarray(canvas)


def _rgb(values: NDArray[np.int64]) -> Rgb:
    red, green, blue = (int(v) for v in values)
    return red, green, blue
