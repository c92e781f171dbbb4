"""The crops of an evaluation set: what a model looks at of each picture, prepared by threads and kept for others."""

import fcntl
import hashlib
import json
import logging
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.evalset import EvalSet
from dcexp.tasks.clip import IMAGES, Clip, shown

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

AT_ONCE = 16  # images that a thread prepares in one go
Crops = npt.NDArray[np.uint8]


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
        yield from _read(path, len(evalset.pictures), clip.crop_shape)
        return
    prepared = _prepared(clip, evalset, rgb_first, threads)
    with _writing(path) as file:
        waiting: list[Crops] = []
        for some in prepared:
            waiting.append(some)
            if sum(map(len, waiting)) == IMAGES:
                yield _joined(waiting, file)
                waiting = []
        if waiting:
            yield _joined(waiting, file)


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


def _read(path: Path, count: int, shape: tuple[int, int, int]) -> Iterator[Crops]:
    """The crops of a file. Raises ValueError for one of another length."""
    size = math.prod(shape)
    if path.stat().st_size != count * size:
        raise ValueError(f"{path}: wanted {count:,} crops of {size:,} bytes, got {path.stat().st_size:,}; delete it")
    for first in range(0, count, IMAGES):
        n = min(IMAGES, count - first)
        yield np.fromfile(path, np.uint8, n * size, offset=first * size).reshape(n, *shape)


@contextmanager
def _writing(path: Path | None) -> Iterator[IO[bytes] | None]:
    """A file that is at ``path`` when the block ends well, whole, or not at all. One process writes it at a time.

    Nothing without a path, where another process is writing it, or on a file system without locks.
    """
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("ab") as file:
        if not _alone(file, unfinished):
            yield None
            return
        file.truncate(0)  # what a process left that was killed
        yield file
        file.flush()
        unfinished.replace(path)


def _alone(file: IO[bytes], path: Path) -> bool:
    """Whether this process has the file for itself, and it is still what is at ``path``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError as error:
        log.info("%s is not kept: %s", path.name, error)
        return False


def _joined(some: list[Crops], file: IO[bytes] | None) -> Crops:
    crops = np.concatenate(some)
    if file:
        file.write(crops.data)
    return crops
