"""The value at a place of the pool's order, found without ever holding all values.

Numbers are turned into unsigned integers of the same order. Every pass counts them by their next 16 bits, part by
part, until the few that can be at the place are gathered and sorted.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.pool import Part
from dcexp.engines.base import Engine

Keys = npt.NDArray[np.uint64]
Read = Callable[[tuple[int, Part]], npt.NDArray[Any]]  # the values of a part's rows, NaN where there is none

GATHERED = 1 << 20  # values that may be held at once
BITS = 16


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """A value, and of the rows that have exactly it how many are to be kept in each part (None: all of them)."""

    value: float
    ties: tuple[int, ...] | None = None

    def mask(self, values: npt.NDArray[Any], number: int) -> npt.NDArray[np.bool_]:
        """True for the values of a part that reach the cutoff, shape of ``values``."""
        if values.dtype.kind == "u" and not np.isfinite(self.value):
            return np.full(len(values), self.value < 0)
        value: Any = values.dtype.type(self.value) if values.dtype.kind == "u" else self.value
        mask: npt.NDArray[np.bool_] = values >= value
        if self.ties is not None:
            mask[np.flatnonzero(values == value)[self.ties[number] :]] = False
        return mask


def top(engine: Engine, parts: Sequence[Part], read: Read, n: int, *, exact: bool) -> Cutoff:
    """The cutoff for the n highest of all values, or, unless ``exact``, for all that reach the one after them.

    The one after is upstream's rule: the value at index n in descending order, counted from 0, and all that are equal
    to it. Where there are not that many values, every value reaches the cutoff.
    """
    items = list(enumerate(parts))
    place = n - 1 if exact else n
    if place < 0:
        return Cutoff(value=float("nan"))  # which nothing reaches
    value, above = _value_at(engine, items, read, place)
    if not exact or value is None:
        return Cutoff(value=float("-inf") if value is None else value)
    spare, ties = n - above, []
    for equal in engine.map(partial(_count_equal, read, value), items, what="count ties"):
        ties.append(min(spare, equal))
        spare -= ties[-1]
    return Cutoff(value=value, ties=tuple(ties))


def _value_at(engine: Engine, items: list[tuple[int, Part]], read: Read, place: int) -> tuple[Any, int]:
    """The value at a place in descending order, and how many are above it; (None, all) when there are fewer."""
    prefix, above, bits, kind = 0, 0, 0, "f"
    while True:
        counts = np.zeros(1 << BITS, np.int64)
        for of_part, its_kind in engine.map(partial(_count, read, prefix, bits), items, what="find the threshold"):
            counts += of_part
            kind = its_kind or kind
        counts = counts[::-1]
        up_to = above + np.cumsum(counts)
        if place >= up_to[-1]:
            return None, int(up_to[-1])
        digit = int(np.searchsorted(up_to, place, side="right"))
        above = int(up_to[digit] - counts[digit])
        prefix, bits = prefix << BITS | (len(counts) - 1 - digit), bits + BITS
        if bits == 64:
            return from_keys(np.array([prefix], np.uint64), kind)[0].item(), above
        if counts[digit] <= GATHERED:
            break
    gathered = np.concatenate(list(engine.map(partial(_gather, read, prefix, bits), items, what="gather")))
    gathered.sort()
    key = gathered[len(gathered) - 1 - (place - above)]
    above += int(len(gathered) - np.searchsorted(gathered, key, side="right"))
    return from_keys(np.array([key], np.uint64), kind)[0].item(), above


def _count(read: Read, prefix: int, bits: int, item: tuple[int, Part]) -> tuple[npt.NDArray[np.int64], str]:
    """How many values that begin with the bits ``prefix`` go on with each pattern of 16 bits; and their kind."""
    values = read(item)
    if bits == 0:
        return _first_bits(values), values.dtype.kind if len(values) else ""
    keys = _beginning(values, prefix, bits)
    digits = (keys >> np.uint64(64 - bits - BITS)) & np.uint64((1 << BITS) - 1)
    return np.bincount(digits.astype(np.int64), minlength=1 << BITS), values.dtype.kind if len(values) else ""


def _first_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """:func:`_count` of all values by their first 16 bits: these are turned into keys after they are counted."""
    top = 3 if sys.byteorder == "little" else 0
    if values.dtype.kind == "u":
        return np.bincount(values.astype(np.uint64).view(np.uint16)[top::4], minlength=1 << BITS)
    counts = np.bincount(_floats(values).view(np.uint16)[top::4], minlength=1 << BITS)
    patterns = (np.arange(1 << BITS, dtype=np.uint64) << np.uint64(48)).view(np.float64).view(np.uint64)
    ordered = np.zeros_like(counts)
    ordered[_in_order(patterns) >> np.uint64(48)] = counts
    return ordered


def _gather(read: Read, prefix: int, bits: int, item: tuple[int, Part]) -> Keys:
    return _beginning(read(item), prefix, bits)


def _count_equal(read: Read, value: Any, item: tuple[int, Part]) -> int:
    values = read(item)
    return int(np.count_nonzero(values == (values.dtype.type(value) if values.dtype.kind == "u" else value)))


def _beginning(values: npt.NDArray[Any], prefix: int, bits: int) -> Keys:
    """The keys of the values that begin with some bits."""
    if bits == BITS and values.dtype.kind != "u":
        numbers = _floats(values)
        first = int(from_keys(np.array([prefix << 48], np.uint64), "f").view(np.uint64)[0] >> np.uint64(48))
        top = 3 if sys.byteorder == "little" else 0
        return to_keys(numbers[numbers.view(np.uint16)[top::4] == first])
    keys = to_keys(values)
    return keys[keys >> np.uint64(64 - bits) == np.uint64(prefix)] if bits else keys


def to_keys(values: npt.NDArray[Any]) -> Keys:
    """Unsigned integers in the order of ``values``; NaNs are left out, and minus zero equals zero."""
    return values.astype(np.uint64) if values.dtype.kind == "u" else _in_order(_floats(values).view(np.uint64))


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The values but for NaNs, with one zero."""
    numbers = values.astype(np.float64) + 0.0
    lacking = np.isnan(numbers)
    return numbers[~lacking] if lacking.any() else numbers


def _in_order(raw: Keys) -> Keys:
    """The bits of floating-point numbers as unsigned integers of the same order."""
    return np.where(raw >> np.uint64(63), ~raw, raw | np.uint64(1 << 63))


def from_keys(keys: Keys, kind: str) -> npt.NDArray[Any]:
    """The values of :func:`to_keys` again."""
    if kind == "u":
        return keys
    return np.where(keys >> np.uint64(63), keys & np.uint64((1 << 63) - 1), ~keys).view(np.float64)
