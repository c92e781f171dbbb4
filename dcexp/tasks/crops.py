"""The crops of an evaluation set: what a model looks at of each picture, prepared by threads and kept for others."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcexp.artifacts.evalset import EvalSet
from dcexp.tasks.clip import IMAGES, Clip, shown
from dcexp.tasks.kept import Crops, Keeper, kept_crops

if TYPE_CHECKING:
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

    batches = _batches(clip, evalset, rgb_first, threads, kept)
    count = -(-len(evalset.pictures) // IMAGES)
    return torch.cat([clip.images(torch.from_numpy(crops), half) for crops in shown(batches, what, count)])


def _batches(clip: Clip, evalset: EvalSet, rgb_first: bool, threads: int, kept: str) -> Iterator[Crops]:
    """Crops of ``IMAGES`` pictures at a time, uint8 [n, height, width, 3]; the last are fewer."""
    path = _path(kept, clip, evalset, rgb_first) if kept else None
    if path and path.exists():
        yield from kept_crops(path, len(evalset.pictures), clip.crop_shape, IMAGES)
        return
    waiting: list[Crops] = []
    with Keeper(path) as keeper:
        for some in _prepared(clip, evalset, rgb_first, threads):
            waiting.append(some)
            if sum(map(len, waiting)) == IMAGES:
                yield keeper.kept(np.concatenate(waiting))
                waiting = []
        if waiting:
            yield keeper.kept(np.concatenate(waiting))


def _prepared(clip: Clip, evalset: EvalSet, rgb_first: bool, threads: int) -> Iterator[Crops]:
    """Crops in order, ``AT_ONCE`` at a time, prepared by threads (Pillow lets go of the interpreter) a little ahead."""
    pictures = evalset.pictures

    def prepare(first: int) -> Crops:
        images = (pictures.image(i) for i in range(first, min(first + AT_ONCE, len(pictures))))
        return np.stack([clip.crop(image.convert("RGB") if rgb_first else image) for image in images])

    waiting: deque[Future[Crops]] = deque()
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        try:
            for first in range(0, len(pictures), AT_ONCE):
                waiting.append(pool.submit(prepare, first))
                if len(waiting) > 2 * IMAGES // AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _path(kept: str, clip: Clip, evalset: EvalSet, rgb_first: bool) -> Path:
    """Where the crops of this set by this preprocessing are kept: its name says all they depend on."""
    from PIL import __version__ as pillow

    identity = [evalset.manifest["digest"], clip.preprocessing, rgb_first, pillow]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    name = evalset.manifest["name"].removesuffix(f"-{evalset.manifest['key']}")
    return Path(kept).expanduser() / f"{name}-{key}.crops"
