"""The samples of one shard, in order, by where their bytes lie in the tars of the pool; and how these are read."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from dcexp.artifacts.columns import Column, Columns, ranges
from dcexp.artifacts.locations import Located, Tar
from dcexp.artifacts.place import RangeReader, is_url, open_place
from dcexp.artifacts.uid import Uids

OPEN = 32  # files held open at once
ANEW = "rebuild=locations"


@dataclass(frozen=True, kw_only=True)
class Entries(Columns):
    """Samples as columns. ``places`` are tars and ``states`` tell whether they are still the same.

    ``tars`` (a position in ``places``), ``uids``, ``copies`` (which copy of a repeated sample it is) and ``ends``
    have one entry per sample: sample i owns the members ``ends[i-1]:ends[i]``. ``offsets`` and ``sizes`` (bytes in
    the tar) and ``suffixes`` (a position in ``names``) have one per member, in the order of the tar.
    """

    durable: ClassVar[bool] = True  # this is the shard itself

    places: Column
    states: Column
    tars: Column
    uids: Uids
    copies: Column
    ends: Column
    offsets: Column
    sizes: Column
    suffixes: Column
    names: list[str]

    def __len__(self) -> int:
        return len(self.tars)

    @cached_property
    def starts(self) -> Column:
        """The first member of each sample."""
        return np.concatenate([[0], self.ends[:-1]])

    def part(self, first: int, last: int) -> "Entries":
        """The samples from ``first`` to ``last`` (exclusive)."""
        start = int(self.ends[first - 1]) if first else 0
        samples, members = slice(first, last), slice(start, int(self.ends[last - 1]) if last else 0)
        return replace(
            self,
            **{name: getattr(self, name)[samples] for name in ("tars", "uids", "copies")},
            **{name: getattr(self, name)[members] for name in ("offsets", "sizes", "suffixes")},
            ends=self.ends[samples] - start,
        )


def entries_of(tars: Sequence[Tar], located: Sequence[Located], rows: Column) -> Entries:
    """The samples that ``rows`` name, shape (n, 3): a position in ``tars``, a sample of that tar, which copy."""
    names = sorted({name for one in located for name in one.names})
    numbers = {name: number for number, name in enumerate(names)}
    order = np.argsort(rows[:, 0], kind="stable")
    edges = np.searchsorted(rows[order, 0], np.arange(len(located) + 1))
    parts = []
    for one, first, last in zip(located, edges[:-1], edges[1:], strict=True):
        mine = rows[order[first:last], 1]
        counts = one.ends[mine] - np.where(mine > 0, one.ends[mine - 1], 0)
        members = ranges(one.ends[mine] - counts, counts)
        suffixes = np.array([numbers[name] for name in one.names], np.int32)[one.suffixes[members]]
        parts.append((one.uids[mine], counts, one.offsets[members], one.sizes[members], suffixes))
    uids, counts, offsets, sizes, suffixes = (np.concatenate(column) for column in zip(*parts, strict=True))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    starts = np.cumsum(counts) - counts
    members = ranges(starts[back], counts[back])
    return Entries(
        places=np.array([tar.place for tar in tars]),
        states=np.array([json.dumps(tar.state) for tar in tars]),
        tars=rows[:, 0],
        uids=uids[back],
        copies=rows[:, 2],
        ends=np.cumsum(counts[back]),
        offsets=offsets[members],
        sizes=sizes[members],
        suffixes=suffixes[members],
        names=names,
    )


class Tars:
    """The tars that entries lie in, opened when they are needed. Use as a context manager.

    Raises FileNotFoundError for a tar that is gone, ValueError for one that has changed since it was read: its
    bytes are elsewhere now.
    """

    def __init__(self, entries: Entries) -> None:
        self._places, self._states = entries.places.tolist(), entries.states.tolist()
        self._open: dict[int, RangeReader] = {}

    def __enter__(self) -> "Tars":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def __getitem__(self, number: int) -> RangeReader:
        file = self._open.get(number)
        if file is None:
            file = self._open[number] = self._opened(number)
            local = [n for n in self._open if not is_url(self._places[n])]
            if len(local) > OPEN:
                self._open.pop(local[0]).close()
        return file

    def open_at_once(self, numbers: Iterable[int]) -> None:
        """Open what lies in an object store, which takes a request each, all at once."""
        absent = [n for n in dict.fromkeys(numbers) if n not in self._open and is_url(self._places[n])]
        if len(absent) > 1:
            with ThreadPoolExecutor(min(len(absent), OPEN)) as pool:
                self._open.update(zip(absent, pool.map(self._opened, absent), strict=True))

    def _opened(self, number: int) -> RangeReader:
        place, state = self._places[number], self._states[number]
        try:
            file = open_place(place)
        except FileNotFoundError:
            raise FileNotFoundError(f"{place} is gone. Put it back, or find the samples anew: {ANEW}") from None
        if json.dumps(file.state) != state:
            file.close()
            raise ValueError(f"{place} has changed since its samples were found; find them anew: {ANEW}")
        return file
