"""Tar headers of our own, many at a time: no times, no owners, so the bytes depend on names and sizes alone."""

import tarfile

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.plain import BLOCK, Bytes

LONGEST_NAME = 100  # of a header of one block; longer names and sizes of 8 GiB are told in a pax header before it
LARGEST_SIZE = 8**11 - 1
_EMPTY = np.frombuffer(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT), np.uint8)
_EMPTY_SUM = int(_EMPTY.sum()) - int(_EMPTY[148:156].sum()) + 8 * ord(" ") - 11 * ord("0")


def header(name: str, size: int) -> bytes:
    """The header of one regular file: one block, or three with a pax header."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def headers(names: Bytes, sizes: npt.NDArray[np.int64]) -> Bytes:
    """The headers of regular files whose ``names``, shape (n, at most 100), end in zeros; shape (n, 512)."""
    blocks = np.repeat(_EMPTY[None], len(names), axis=0)
    blocks[:, : names.shape[1]] = names
    digits = _octal(sizes, 11)
    blocks[:, 124:135] = digits + np.uint8(ord("0"))
    total = _EMPTY_SUM + names.sum(axis=1, dtype=np.int64) + digits.sum(axis=1, dtype=np.int64) + 11 * ord("0")
    blocks[:, 148:154] = _octal(total, 6) + np.uint8(ord("0"))
    return blocks


def _octal(numbers: npt.NDArray[np.int64], digits: int) -> Bytes:
    shifts = 3 * np.arange(digits - 1, -1, -1)
    return ((numbers[:, None] >> shifts) & 7).astype(np.uint8)


def blocks_of(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many blocks the contents of files fill."""
    return -(-sizes // BLOCK)
