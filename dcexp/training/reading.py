"""The samples of one shard, a tar or an index of tars, and what of them was unreadable and why."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.entries import Entries, Tars
from dcexp.artifacts.pieces import Piece, read_pieces
from dcexp.artifacts.samples import samples_of
from dcexp.artifacts.shards import Shards
from dcexp.artifacts.tar import TarReader

IMAGES = ("jpg", "png", "jpeg", "webp")  # in the order of preference of open_clip
TEXT = "txt"
TOGETHER = 64  # samples of an index that are read together: one round trip to an object store
Members = dict[str, bytes]  # the content of a sample's image and caption files, by suffix


class NoSamples(Exception):
    """The shards do not give what training needs; the message says what was tried."""


@dataclass(frozen=True, kw_only=True)
class ShardList:
    """Where the shards are, how many samples each holds, and how much each weighs when one is drawn (empty: evenly)."""

    places: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def draw(self, rng: Random) -> int:
        """A shard at random, as open_clip draws it: weighted draws are others than even ones, even of equal weights."""
        numbers = range(len(self.places))
        return rng.choices(numbers, cum_weights=self._cumulative)[0] if self.weights else rng.choice(numbers)

    @cached_property
    def _cumulative(self) -> list[float]:
        return list(accumulate(self.weights))


def shard_list(shards: Shards) -> ShardList:
    """The shards of an artifact."""
    return ShardList(places=tuple(shards.places), sizes=tuple(shards.sizes.values()), weights=shards.weights)


@dataclass
class Losses:
    """Corrupt samples since the last ``take``; each shard is complained about once."""

    corrupt: int = 0
    complaints: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def add(self, shard: str, samples: int, reason: object) -> None:
        self.corrupt += samples
        if shard not in self._known:
            self._known.add(shard)
            self.complaints.append(f"{shard}: {reason}")

    def take(self) -> tuple[int, tuple[str, ...]]:
        """The count and the complaints, which start anew."""
        taken = self.corrupt, tuple(self.complaints)
        self.corrupt, self.complaints = 0, []
        return taken


def read_shard(shards: ShardList, shard: int, wanted: Container[int], losses: Losses) -> Iterator[tuple[int, Members]]:
    """Those samples of a shard, a tar or an index of tars, whose number is ``wanted``, in order."""
    place, size = shards.places[shard], shards.sizes[shard]
    yield from (_indexed if place.endswith(".npz") else _in_tar)(place, size, wanted, losses)


def _in_tar(place: str, size: int, wanted: Container[int], losses: Losses) -> Iterator[tuple[int, Members]]:
    count = 0
    try:
        with TarReader(place) as reader:
            for sample in samples_of(reader.walk()):
                number, count = count, count + 1
                if number in wanted:
                    members = {s: reader.read(*p) for s, p in sample.members.items() if _is_trained_on(s)}
                    yield number, members
            if reader.damage:
                losses.add(place, 0, reader.damage)
    except OSError as error:
        losses.add(place, 0, error)
    if count < size:
        losses.add(place, size - count, f"{count} of {size} samples can be read")


def _indexed(place: str, size: int, wanted: Container[int], losses: Losses) -> Iterator[tuple[int, Members]]:
    """Samples straight out of the tars of the pool. Raises NoSamples when one of them is no longer what it was."""
    try:
        entries = Entries.load(Path(place))
    except OSError as error:
        losses.add(place, size, error)
        return
    numbers = [number for number in range(len(entries)) if number in wanted]
    kept = np.array([_is_trained_on(name) for name in entries.names], bool)
    try:
        with Tars(entries) as tars:
            for first in range(0, len(numbers), TOGETHER):
                some = numbers[first : first + TOGETHER]
                yield from _readable(entries, tars, some, kept, lambda n, error: losses.add(place, n, error))
    except ValueError as error:
        raise NoSamples(str(error)) from None


def _readable(
    entries: Entries,
    tars: Tars,
    numbers: Sequence[int],
    kept: npt.NDArray[np.bool_],
    complain: Callable[[int, OSError], None],
) -> Iterator[tuple[int, Members]]:
    """Some samples; without those that cannot be read, each of which is complained about."""
    try:
        yield from zip(numbers, _read(entries, tars, numbers, kept), strict=True)
    except OSError as error:
        if len(numbers) == 1:
            complain(1, error)
            return
        for number in numbers:
            yield from _readable(entries, tars, [number], kept, complain)


def _read(entries: Entries, tars: Tars, numbers: Sequence[int], kept: npt.NDArray[np.bool_]) -> list[Members]:
    """The members of some samples: what is ``kept`` of the suffixes."""
    samples: list[dict[str, memoryview]] = []
    pieces: list[tuple[int, list[Piece]]] = []
    for number in numbers:
        members = np.arange(entries.starts[number], entries.ends[number])
        members = members[kept[entries.suffixes[members]]]
        views = [memoryview(bytearray(size)) for size in entries.sizes[members].tolist()]
        if views:
            offsets = entries.offsets[members].tolist()
            pieces.append((int(entries.tars[number]), list(zip(offsets, views, strict=True))))
        suffixes = [entries.names[i] for i in entries.suffixes[members].tolist()]
        samples.append(dict(zip(suffixes, views, strict=True)))
    tars.open_at_once(number for number, _ in pieces)
    read_pieces(tars, pieces)
    return [{suffix: bytes(view) for suffix, view in sample.items()} for sample in samples]


def _is_trained_on(suffix: str) -> bool:
    return suffix == TEXT or suffix in IMAGES
