"""Faces blurred away, where their boxes are known: what DataComp's resharder offers.

A box is ``[x_min, y_min, x_max, y_max]`` relative to the image, 0 to 1. Every box is enlarged on each side by a tenth
of its longer side, in pixels; ``sigma`` is a tenth of the longest side of all boxes before that. A mask that is 1 in
the enlarged boxes and 0 elsewhere is blurred by a Gaussian of ``sigma`` (cut at 4 sigma, mirrored at the border), so is
the image, and ``image * (1 - mask) + blurred image * mask`` is the result: a blur with soft edges.

The definition and its way to whole pixels are those of img2dataset's ``BoundingBoxBlurrer`` (its pull request 241),
after Yang et al. 2022, "A Study of Face Obfuscation in ImageNet". Kept with its weakness: the soft edge eats up what
is much smaller than the largest face. A face a quarter as long keeps 25 % of its sharp self at its centre, one a tenth
as long 80 %. Different on purpose:

- Values are rounded. Upstream cuts fractions off, by which pixels far from any face lose one grey level.
- The WebP is lossless. Upstream's is lossy (quality 100), which changes all of the picture: an experiment on blurred
  faces would measure a second compression too. The price is two to three times the bytes of the JPEG.
- EXIF (not applied: boxes are of the stored pixels) and ICC profile are kept: which side is up, what colours mean.
"""

import io
import json
import math
from collections.abc import Iterable, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

TENTH = 0.1  # of a side: both the margin around a box and sigma
CUT = 4  # sigmas: where the Gaussian ends
EFFORT = {"method": 1, "quality": 0}  # Pillow's defaults take four times as long to save 5 % of the bytes


class Area(NamedTuple):
    """A rectangle of whole pixels; ``right`` and ``bottom`` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> int:
        """Its number of pixels."""
        return max(self.right - self.left, 0) * max(self.bottom - self.top, 0)

    def grown(self, by: int, height: int, width: int) -> "Area":
        """This area and all that is within ``by`` pixels of it in the image, row- and columnwise."""
        right, bottom = min(self.right + by, width), min(self.bottom + by, height)
        return Area(max(self.left - by, 0), max(self.top - by, 0), right, bottom)

    def slices(self, left: int = 0, top: int = 0) -> tuple[slice, slice]:
        """Its rows and columns in an array that begins at ``left`` and ``top`` of the image."""
        return slice(self.top - top, self.bottom - top), slice(self.left - left, self.right - left)


def blurred(content: bytes, boxes: Sequence[Sequence[float]]) -> bytes:
    """The image with its faces blurred, as lossless WebP.

    ``content`` is an encoded image (JPEG, PNG, WebP, …: what Pillow reads; of an animation the first picture). Every
    pixel that no box and no soft edge reaches is what ``content`` decodes to, in RGB or RGBA (grey becomes RGB, 16 bits
    become their upper 8). What could show a face once more is left out: thumbnail, maker note, XMP.

    Corners may be swapped, boxes may stick out, and those without a whole pixel are passed over. Equal arguments give
    equal bytes (with one version of libwebp). Raises ValueError for an image that cannot be decoded or is larger than
    WebP's 16383 pixels a side, and for a box that is not four finite numbers, or not relative to the image: without
    overlap with it, or further out than the image is large.
    """
    from PIL import Image

    pixels, notes = _decoded(content)
    picture, file = Image.fromarray(soften(pixels, boxes)), io.BytesIO()
    # exact: else colours under full transparency are made up
    picture.save(file, "WEBP", lossless=True, exact=True, **EFFORT, **notes)
    return file.getvalue()


def with_boxes(info: bytes, boxes: Sequence[Sequence[float]]) -> bytes:
    """The json member ``info`` of a sample with ``boxes`` as its ``face_bboxes``, its other keys in their order.

    Raises ValueError when ``info`` is no json object, or a box is not four finite numbers.
    """
    try:
        value = json.loads(info)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the json of an image with faces cannot be decoded: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"the json of an image with faces is no object: {info[:60]!r}")
    return json.dumps(value | {"face_bboxes": [_numbers(box) for box in boxes]}).encode()


def soften(pixels: NDArray[np.uint8], boxes: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """``pixels`` [height, width] or [height, width, channels] with the ``boxes`` blurred, alpha like the colours.

    Raises ValueError for a box, like :func:`blurred`.
    """
    from scipy.ndimage import gaussian_filter

    height, width = pixels.shape[:2]
    faces, sigma = _faces(boxes, height, width)
    radius = math.ceil(CUT * sigma)
    blur = partial(gaussian_filter, sigma=sigma, radius=radius, mode="mirror", axes=(0, 1))
    image, mask = pixels.reshape(height, width, -1), np.zeros((height, width, 1), np.float32)
    for face in faces:
        mask[face.slices()] = 1
    result = image.copy()
    for region in _regions(faces, radius, height, width):
        source = region.grown(radius, height, width)
        sharp, weight = image[source.slices()].astype(np.float32), blur(mask[source.slices()])
        soft = np.rint(sharp * (1 - weight) + blur(sharp) * weight)
        result[region.slices()] = soft[region.slices(source.left, source.top)]
    return result.reshape(pixels.shape)


def _numbers(box: Sequence[float]) -> list[float]:
    numbers = list(box) if isinstance(box, Iterable) else []
    if len(numbers) != 4 or not all(isinstance(number, Real) and math.isfinite(number) for number in numbers):
        raise ValueError(f"the face box {box} is not four finite numbers: [x_min, y_min, x_max, y_max]")
    return [float(number) for number in numbers]


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box with its corners in order. Raises ValueError when it cannot be relative to the image."""
    x, y, other_x, other_y = _numbers(box)
    (left, right), (top, bottom) = sorted((x, other_x)), sorted((y, other_y))
    # Detectors overshoot a little. What is far out is in pixels, and would leave the face as it is if passed over.
    outside = right <= 0 or bottom <= 0 or left >= 1 or top >= 1
    if (outside and left < right and top < bottom) or min(left, top) < -1 or max(right, bottom) > 2:
        raise ValueError(f"the face box {box} is not in the image: wanted corners relative to the image, from 0 to 1")
    return left, top, right, bottom


def _faces(boxes: Sequence[Sequence[float]], height: int, width: int) -> tuple[list[Area], float]:
    """The enlarged boxes that have pixels, and the sigma of the blur, all in pixels."""
    areas, longest = [], 0
    for left, top, right, bottom in map(_corners, boxes):
        if left < right and top < bottom:
            x, y, x_end, y_end = int(left * width), int(top * height), int(right * width), int(bottom * height)
            side = max(x_end - x, y_end - y)
            longest = max(longest, side)
            start = max(int(x - TENTH * side), 0), max(int(y - TENTH * side), 0)
            # As upstream, the mask leaves out the last row and column, which the soft edge then covers.
            end = min(int(x_end + TENTH * side), width - 1), min(int(y_end + TENTH * side), height - 1)
            areas.append(Area(*start, *end))
    return [area for area in areas if area.size], TENTH * longest


def _regions(faces: list[Area], radius: int, height: int, width: int) -> list[Area]:
    """Where pixels may change: around each face, or once around all where that is less to compute."""
    lefts, tops, rights, bottoms = np.reshape(faces, (-1, 4)).T.tolist()
    together = [Area(min(lefts), min(tops), max(rights), max(bottoms))] if faces else []
    # A region reads as far around itself as it reaches around its faces.
    work = [sum(area.grown(2 * radius, height, width).size for area in areas) for areas in (faces, together)]
    return [area.grown(radius, height, width) for area in (faces if work[0] < work[1] else together)]


def _decoded(content: bytes) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pixels [height, width] (grey) or [height, width, 3 or 4], and what else goes into the WebP."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = _pixels(image)
            # the profile of inks says nothing about the RGB that is written
            profile = None if image.mode == "CMYK" else image.info.get("icc_profile")
            return pixels, {"exif": _exif(image), "icc_profile": profile}
    except Image.UnidentifiedImageError:
        raise ValueError(f"an image of {len(content):,} bytes is of no format that Pillow knows") from None
    except Exception as error:  # Pillow raises anything from OSError to SyntaxError, by format and damage
        raise ValueError(f"an image of {len(content):,} bytes cannot be decoded: {error}") from error


def _pixels(image: "Image") -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):  # Pillow would turn all above 255 into white
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise ValueError(f"it has 32 bits a pixel (mode {image.mode}), wanted 8 or 16")
    grey = "L" if image.mode in ("1", "L") else "RGB"
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else grey))


def _exif(image: "Image") -> bytes:
    """The image's EXIF without its thumbnail and maker note, which may hold the face unblurred."""
    from PIL.ExifTags import IFD, Base
    from PIL.Image import Exif

    found = Exif()
    try:
        found = image.getexif()
        if IFD.Exif in found:
            found.get_ifd(IFD.Exif).pop(Base.MakerNote, None)
        return found.tobytes() if len(found) else b""  # Pillow does not write the thumbnail's directory
    except Exception:  # damaged tags can raise anything; then what matters is which side is up
        turned, found = found.get(Base.Orientation), Exif()
        found[Base.Orientation] = turned if turned in range(1, 9) else 1
        return found.tobytes()
