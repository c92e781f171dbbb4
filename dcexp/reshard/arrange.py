"""In which order the chosen samples are written, and where one shard ends and the next begins."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
TOGETHER = 1 << 20  # copies, about, that are arranged together: bounds memory, and how far apart what is mixed may lie


def arranged(counts: Ints, seed: int | None = None) -> tuple[Ints, Ints]:
    """The order of all copies of the samples that are wanted ``counts`` times: (which sample, which copy of it).

    Copy j of a sample taken c times comes j/c of the way around behind the first, so no copies of one sample stand
    side by side, as long as others can stand between them. Without repeats the order is that of the samples. With a
    ``seed`` the samples are shuffled first, and each copy strays at random by up to half of its distance.
    """
    samples, total = len(counts), int(counts.sum())
    of = np.repeat(np.arange(samples), counts)
    copy = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    if seed is None and total == samples:
        return of, copy
    place = np.arange(samples) / max(samples, 1)
    stray = np.zeros(total)
    if seed is not None:
        random = np.random.default_rng(seed)
        place, stray = random.permutation(place), random.random(total) / 2
    order = np.argsort((place[of] + (copy + stray) / counts[of]) % 1.0, kind="stable")
    order = _apart(order, of)
    return of[order], copy[order]


def _apart(order: Ints, of: Ints) -> Ints:
    """Move copies that still stand beside one of the same sample to the nearest place where they do not."""
    which = of[order]
    beside = np.flatnonzero(which[1:] == which[:-1]) + 1
    if not len(beside) or np.bincount(of).max() > (len(of) + 1) // 2:
        return order  # nothing to do, or nothing that could be done
    entries = list(zip(which.tolist(), order.tolist(), strict=True))
    waiting = deque((at, entries[at]) for at in beside.tolist())
    for at in reversed(beside.tolist()):
        del entries[at]
    while waiting:  # some find a place only when others have
        at, entry = waiting.popleft()
        gap = _gap_near(entries, at, entry[0])
        if gap is None:
            waiting.append((at, entry))
        else:
            entries.insert(gap, entry)
    return np.array([entry for _, entry in entries], np.int64)


def _gap_near(entries: list[tuple[int, int]], start: int, sample: int) -> int | None:
    """The place nearest to ``start`` with no copy of ``sample`` on either side."""

    def is_free(at: int) -> bool:
        before = at > 0 and entries[at - 1][0] == sample
        return not before and not (at < len(entries) and entries[at][0] == sample)

    ways = ((start - distance, start + distance) for distance in range(len(entries) + 1))
    return next((at for at in chain.from_iterable(ways) if 0 <= at <= len(entries) and is_free(at)), None)


def cut(parts: Iterable[tuple[Rows, Ints]], most: int, most_bytes: int) -> Iterator[Rows]:
    """Cut rows into shards of at most ``most`` rows and ``most_bytes`` bytes (or a single row).

    Each part is rows, shape (n, columns), and the bytes of each, shape (n,); shards go on from one part to the next.
    """
    rows: Rows | None = None
    sizes = np.empty(0, np.int64)
    for more, their_sizes in parts:
        rows = more if rows is None else np.concatenate([rows, more])
        sizes = np.concatenate([sizes, their_sizes])
        ends, start = np.concatenate([[0], np.cumsum(sizes)]), 0
        while (stop := _end(ends, start, most, most_bytes)) < len(rows):
            yield rows[start:stop]
            start = stop
        rows, sizes = rows[start:], sizes[start:]
    if rows is not None and len(rows):
        yield rows


def _end(ends: Ints, start: int, most: int, most_bytes: int) -> int:
    fitting = int(np.searchsorted(ends, ends[start] + most_bytes, side="right")) - 1
    return max(min(start + most, fitting), start + 1)
