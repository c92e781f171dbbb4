"""Many sorted files of uids, looked at together a range of uids at a time: memory stays that of one range."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.uid import UID, Uids, sort_uids

RANGE = 1 << 19  # uids, about, that are looked at together
MOST = 4096  # ranges: of very large pools they are larger, for every file is looked into for each
SEEN = 64  # uids, for each range, by which it is chosen

Range = tuple[int, int]  # first halves of uids: from the first on, below the second


class UidFile:
    """A sorted .npy file of uids, read in pieces. (Mapped, every page looked at would count as memory in use.)"""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            (self.length,), _, dtype = np.lib.format.read_array_header_1_0(file)
            assert dtype == UID, f"{path} holds {dtype}"
            self._start = file.tell()
        self.path = path

    def slice(self, edges: Range) -> Uids:
        """The uids of one range."""
        first, last = self.span(edges)
        with self.path.open("rb", buffering=0) as file:
            return self._read(file.fileno(), first, last - first)

    def span(self, edges: Range) -> tuple[int, int]:
        """Where the uids of one range begin and end."""
        with self.path.open("rb", buffering=0) as file:
            first, last = (self._below(file.fileno(), edge) for edge in edges)
        return first, last

    def sample(self, start: int, step: int) -> npt.NDArray[np.uint64]:
        """The first half of every ``step``-th uid from one on."""
        with self.path.open("rb", buffering=0) as file:
            return np.array([self._half(file.fileno(), i) for i in range(start, self.length, step)], np.uint64)

    def _below(self, file: int, edge: int) -> int:
        """How many of the uids have a first half below ``edge``.

        Uids are hashes, so every other look is where the edge should be if they were spread evenly.
        """
        low, high, least, most, guess = 0, self.length, 0, 1 << 64, True
        while low < high:
            share = (edge - least) / (most - least) if guess else 0.5
            middle = min(max(low + int((high - low) * share), low), high - 1)
            half = self._half(file, middle)
            if half < edge:
                low, least = middle + 1, half
            else:
                high, most = middle, half
            guess = not guess and least < most
        return low

    def _half(self, file: int, i: int) -> int:
        return int.from_bytes(os.pread(file, 8, self._start + i * UID.itemsize), sys.byteorder)

    def _read(self, file: int, first: int, count: int) -> Uids:
        uids = np.empty(count, UID)
        view, at = uids.view(np.uint8).data, self._start + first * UID.itemsize
        while view and (n := os.preadv(file, [view], at)):  # one call reads 2 GiB at most
            view, at = view[n:], at + n
        if len(view):
            raise OSError(f"{self.path} ends too early; delete {self.path.parent} and give the same command again")
        return uids


def ranges(files: Sequence[UidFile]) -> list[Range]:
    """Ranges for uids alone: see :func:`ranges_of`."""
    return ranges_of(files, RANGE)


def ranges_of(files: Sequence[UidFile], size: int) -> list[Range]:
    """Ranges that cut all the files together into pieces of about ``size`` each; equal uids are in the same one.

    Uids are hashes, so they are cut by their first 64 bits. (All uids that share these 64 bits stay together.)
    """
    total = sum(file.length for file in files)
    pieces = min(max(-(-total // size), 1), MOST)
    step = max(total // (pieces * SEEN), 1)
    # Each file is sampled from another place on, else small files would show only their lowest uids.
    samples = [file.sample(i * 0x9E3779B1 % step, step) for i, file in enumerate(files)] if pieces > 1 else []
    seen = np.sort(np.concatenate([np.empty(0, np.uint64), *samples]))
    inner = [int(seen[len(seen) * i // pieces]) for i in range(1, pieces)]
    return list(zip([0, *inner], [*inner, 1 << 64], strict=True))


def joined(slices: Sequence[Uids]) -> Uids:
    """All uids of some slices, sorted, repeats kept."""
    return sort_uids(np.concatenate(slices), in_runs=True) if len(slices) > 1 else slices[0]


def merge_files(paths: Iterable[Path], out: Path, combine: Callable[[list[Uids]], Uids] = joined) -> int:
    """Merge sorted .npy files into one, range by range with ``combine``; returns how many uids were written."""
    files = [UidFile(path) for path in paths]

    def merged() -> Iterator[Uids]:
        for edges in ranges(files):
            yield combine([file.slice(edges) for file in files])

    return write_uids(out, merged())


def write_uids(path: Path, chunks: Iterable[Uids]) -> int:
    """Write sorted chunks, one behind the other, as one .npy file, as ``np.save`` would; returns how many uids."""
    total = 0
    with whole_file(path) as file:
        _write_header(file, 0)
        begin = file.tell()
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)
            total += len(chunk)
        file.seek(0)
        _write_header(file, total)
        assert file.tell() == begin, "the header of a .npy file leaves room for any length"
    return total


def _write_header(file: IO[bytes], length: int) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, UID))
    np.lib.format.write_array_header_1_0(cast(Any, file), {**header, "shape": (length,)})
