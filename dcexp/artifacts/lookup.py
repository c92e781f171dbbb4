"""Look many uids up in a sorted list of any size, which may be a memory map."""

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.uid import Indices, Uids


def count_in(wanted: Uids, uids: Uids) -> Indices:
    """How often each of ``uids`` stands in the sorted array ``wanted``, shape (len(uids),)."""
    return find_in(wanted, uids)[1]


def find_in(wanted: Uids, uids: Uids) -> tuple[Indices, Indices]:
    """Where each of ``uids`` first stands in the sorted array ``wanted``, and how often; shapes (len(uids),).

    Where it does not occur the count is 0 and the position means nothing. Only the pages that are looked at are
    read, so ``wanted`` may be a memory map of any size.
    """
    high, low, size = wanted["f0"], wanted["f1"], len(wanted)
    start, count = _first_at_least(high, uids["f0"]), np.zeros(len(uids), np.int64)
    if size == 0:
        return start, count
    hits = np.flatnonzero(high[np.minimum(start, size - 1)] == uids["f0"])
    stop = start[hits] + 1
    more = np.flatnonzero((stop < size) & (high[np.minimum(stop, size - 1)] == uids["f0"][hits]))  # rare for hashes
    stop[more] = _bisect(high, uids["f0"][hits][more], stop[more], np.full(len(more), size), right=True)
    left = _bisect(low, uids["f1"][hits], start[hits], stop, right=False)
    start[hits], count[hits] = left, _bisect(low, uids["f1"][hits], left, stop, right=True) - left
    return start, count


def _first_at_least(values: npt.NDArray[np.uint64], targets: npt.NDArray[np.uint64]) -> Indices:
    """The first place in the sorted ``values`` that is not below each target."""
    if len(values) > 16 * len(targets):
        return _bisect(
            values, targets, np.zeros(len(targets), np.int64), np.full(len(targets), len(values)), right=False
        )
    order, start = np.argsort(targets), np.empty(len(targets), np.int64)
    start[order] = np.searchsorted(values, targets[order])  # copies all values; neighbours meet in the cache
    return start


def _bisect(
    values: npt.NDArray[np.uint64], targets: npt.NDArray[np.uint64], low: Indices, high: Indices, *, right: bool
) -> Indices:
    """The place of every target within its own sorted range ``values[low:high]``, all ranges halved together."""
    low, high = low.copy(), high.astype(np.int64)
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        found = values[np.where(open_, middle, 0)]
        below = open_ & ((found <= targets) if right else (found < targets))
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low
