"""Plain tar headers, many at a time: those of regular files with a short name, a size and nothing else to say.

That is all of an ordinary webdataset: ustar or GNU headers, and pax headers that tell a time of change (Python's
``tarfile``, and so webdataset's writer, puts one before every member). Headers are found by the word "ustar" in
their place, read as columns, and followed from one to the next, so bytes within a member that look like a header are
not taken for one. Whatever is not plain ends the run; it is for the caller to read.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 512
Bytes = npt.NDArray[np.uint8]
_USTAR = int.from_bytes(b"ustar", "little")
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_MTIME = np.frombuffer(b" mtime=", np.uint8)


class Run(NamedTuple):
    """Plain members that follow each other: ``names``, ``blocks`` where their data begin, ``sizes`` in bytes.

    ``end`` is the block of the next header; it may lie behind the window.
    """

    names: list[bytes]
    blocks: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    end: int


def plain_members(window: Bytes, room: int) -> Run:
    """The run of plain members at the start of ``window``, shape (n, 512), which begins with a header.

    ``room`` is the number of bytes from there to the end of the archive: a member that does not fit is not plain.
    """
    words = window.view("<u8")
    at = np.flatnonzero((words[:, 32] >> 8) & 0xFFFFFFFFFF == _USTAR)
    if not len(at) or at[0]:
        return Run([], np.empty(0, np.int64), np.empty(0, np.int64), 0)
    heads = window[at]
    sizes, fits = _octal(heads[:, 124:135])
    following = at + 1 + (sizes + BLOCK - 1) // BLOCK
    kind = heads[:, 156]
    regular = (kind == ord("0")) | (kind == 0)
    plain = (
        fits
        & _is_sound(heads)
        & ((heads[:, 135] == 0) | (heads[:, 135] == ord(" ")))
        & (regular & (heads[:, 345] == 0) | (kind == ord("x")) & _tells_a_time(window, at, sizes))
        & ((at + 1) * BLOCK + sizes <= room)
    )
    chain, end = _chain(at, following, plain)
    members = chain[regular[chain]]
    return Run(_names(heads[members, :100]), at[members] + 1, sizes[members], end)


def _octal(digits: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Numbers of octal digits, shape (n, digits), and whether they are nothing else."""
    values = digits - np.uint8(ord("0"))
    return values @ _OCTAL[-digits.shape[1] :], np.all(values < 8, axis=1)


def _is_sound(heads: Bytes) -> npt.NDArray[np.bool_]:
    """Whether the checksum is that of the header: the sum of its bytes, those of the checksum read as blanks."""
    given, fits = _octal(heads[:, 148:154])
    total = heads.sum(axis=1, dtype=np.uint32).astype(np.int64)
    digits = heads[:, 148:154] @ np.ones(6, np.int64)
    ends = (heads[:, 154] == 0) & (heads[:, 155] == ord(" "))
    return fits & ends & (given == total - digits - ord(" ") + 8 * ord(" "))


def _tells_a_time(window: Bytes, at: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the block behind each header is one pax record, the time of change."""
    behind = np.minimum(at + 1, len(window) - 1)
    digits = window[behind, :2] - np.uint8(ord("0"))
    is_time = np.all(window[behind, 2:9] == _MTIME, axis=1)
    is_line = window[behind, np.clip(sizes, 1, BLOCK) - 1] == ord("\n")
    is_length = np.all(digits < 10, axis=1) & (digits @ np.array([10, 1]) == sizes)
    return is_length & is_time & is_line & (at + 1 < len(window))


def _chain(
    at: npt.NDArray[np.int64], following: npt.NDArray[np.int64], plain: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], int]:
    """The plain headers, as positions in ``at``, that follow each other from the first on; the block behind them."""
    after = np.searchsorted(at, following)
    straight = plain & (after == np.arange(1, len(at) + 1))  # nothing that looks like a header in between
    straight[:-1] &= at[1:] == following[:-1]
    steps = len(at) if straight.all() else int(np.argmin(straight))
    if steps == len(at) or not plain[steps]:
        return np.arange(steps), int(following[steps - 1]) if steps else 0
    chain, i = list(range(steps)), steps
    hops, stops, is_plain = after.tolist(), following.tolist(), plain.tolist()
    starts = at.tolist()
    while is_plain[i]:
        chain.append(i)
        target = hops[i]
        if target == len(starts) or starts[target] != stops[i]:
            break
        i = target
    return np.array(chain, np.int64), stops[chain[-1]]


def _names(fields: Bytes) -> list[bytes]:
    names: list[bytes] = np.ascontiguousarray(fields).view("S100").ravel().tolist()
    if b"\0" in b"".join(names):  # what stands behind a zero is no part of the name
        names = [name.partition(b"\0")[0] for name in names]
    return names
