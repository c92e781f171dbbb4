"""Crops that are kept for further checkpoints: raw uint8, and behind them a digest of all of them."""

import fcntl
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt
import xxhash

log = logging.getLogger(__name__)

Crops = npt.NDArray[np.uint8]


def kept_crops(path: Path, count: int, shape: tuple[int, int, int], at_once: int) -> Iterator[Crops]:
    """The ``count`` crops of a file, ``at_once`` at a time.

    Raises ValueError for a file of another length, and, behind the last crop, for one whose bytes are not what was
    written.
    """
    size, digest = math.prod(shape), xxhash.xxh3_128()
    if path.stat().st_size != (wanted := count * size + digest.digest_size):
        raise ValueError(f"{path}: wanted {wanted:,} bytes, {count:,} crops, got {path.stat().st_size:,}; delete it")
    with path.open("rb") as file:
        for first in range(0, count, at_once):
            crops = np.fromfile(file, np.uint8, min(at_once, count - first) * size)
            digest.update(crops.data)
            yield crops.reshape(-1, *shape)
        if file.read() != digest.digest():
            raise ValueError(f"{path} is damaged; delete it, and it is made anew")


class Keeper:
    """Writes crops to a file that is at ``path`` when the block ends well, whole, or not at all. None: nowhere.

    One process writes it at a time; where another does, or it cannot be written, the work goes on without.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._digest = path, xxhash.xxh3_128()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Keeper":
        if self._path:
            self._unless_impossible(self._path)
        return self

    def kept(self, crops: Crops) -> Crops:
        """``crops``, written."""
        if self._file:
            self._digest.update(crops.data)
            try:
                self._file.write(crops.data)
            except OSError as error:
                self._give_up(error)
        return crops

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None or self._path is None:
            return
        try:
            if error is None:
                self._file.write(self._digest.digest())
                self._file.flush()
                os.fsync(self._file.fileno())
                Path(self._file.name).replace(self._path)
        except OSError as failure:
            self._give_up(failure)
        finally:
            if self._file:
                self._file.close()

    def _unless_impossible(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.with_name(f"{path.name}.tmp").open("ab")
        except OSError as error:
            self._give_up(error)
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who held the lock before may have renamed what was opened here.
            if os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
                file.truncate(0)  # what a process left that was killed
                self._file = file
        except BlockingIOError:
            log.info("%s is being written by another process", path)
        except OSError as error:
            self._give_up(error)
        if self._file is None:
            file.close()

    def _give_up(self, error: OSError) -> None:
        log.warning("%s: crops are not kept, the evaluation goes on: %s", self._path, error)
        if self._file:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None
