"""The crops of an evaluation set: what a model looks at of each picture, prepared by threads and kept for others."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcexp.artifacts.evalset import EvalSet
from dcexp.engines.base import watched
from dcexp.tasks.ahead import ahead, chunks, lone_threads
from dcexp.tasks.clip import Clip
from dcexp.tasks.kept import Crops, Keeper, kept_crops

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

AT_ONCE = 16  # images that a thread prepares in one go


def image_features(
    clip: Clip, evalset: EvalSet, *, rgb_first: bool, half: bool, threads: int, what: str, kept: str
) -> "Tensor":
    """Features of all pictures of the set, normalised, fp32 [pictures, width] on the model's device.

    ``rgb_first``: converted to RGB before they are resized, not after. ``half``: see :meth:`Clip.images`. ``threads``
    prepare images; 0: one per core. ``kept`` is a folder for crops, or empty. Raises ValueError naming an
    unreadable image.
    """
    import torch

    count = -(-len(evalset.pictures) // clip.batch)
    with lone_threads(threads) as pool:
        batches = _batches(clip, evalset, rgb_first, pool, kept)
        found = clip.each(pool, lambda crops: clip.images(torch.from_numpy(crops), half), batches)
        return torch.cat(list(watched(found, what, count)))


def _batches(clip: Clip, evalset: EvalSet, rgb_first: bool, pool: ThreadPoolExecutor, kept: str) -> Iterator[Crops]:
    """Crops of ``clip.batch`` pictures at a time, uint8 [n, height, width, 3]; the last are fewer."""
    path = _path(kept, clip, evalset, rgb_first) if kept else None
    if path and path.exists():
        yield from kept_crops(path, len(evalset.pictures), clip.crop_shape, clip.batch)
        return
    pictures = evalset.pictures

    def prepare(first: int) -> Crops:
        images = (pictures.image(i) for i in range(first, min(first + AT_ONCE, len(pictures))))
        return np.stack([clip.crop(rgb(image) if rgb_first else image) for image in images])

    prepared = ahead(pool, prepare, range(0, len(pictures), AT_ONCE), 2 * clip.batch // AT_ONCE)
    with Keeper(path) as keeper:
        for some in chunks(prepared, clip.batch // AT_ONCE):
            yield keeper.kept(np.concatenate(some))


def rgb(image: "Image") -> "Image":
    """``image`` in RGB."""
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _path(kept: str, clip: Clip, evalset: EvalSet, rgb_first: bool) -> Path:
    """Where the crops of this set by this preprocessing are kept: its name says all they depend on."""
    from PIL import __version__ as pillow

    identity = [evalset.manifest["digest"], clip.preprocessing, rgb_first, pillow]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    name = evalset.manifest["name"].removesuffix(f"-{evalset.manifest['key']}")
    return Path(kept).expanduser() / f"{name}-{key}.crops"
