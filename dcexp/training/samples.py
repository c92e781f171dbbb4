"""Raw samples out of the shards, one after the other without end, with count and reason of what was unreadable."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.entries import Entries, Tars
from dcexp.artifacts.pieces import Piece, read_pieces
from dcexp.artifacts.place import name_of
from dcexp.artifacts.samples import samples_of
from dcexp.artifacts.tar import TarReader

IMAGES = ("jpg", "png", "jpeg", "webp")  # in the order of preference of open_clip
TEXT = "txt"
SHARD = "__shard__"
TOGETHER = 64  # samples of an index that are read together: one round trip to an object store
RawSample = dict[str, Any]  # the bytes of its members by suffix, and SHARD: where it comes from


class NoSamples(Exception):
    """The shards give nothing to train on; the message says what was tried."""


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
            self.complaints.append(f"{name_of(shard)}: {reason}")

    def take(self) -> tuple[int, tuple[str, ...]]:
        """The count and the complaints, which start anew."""
        taken = self.corrupt, tuple(self.complaints)
        self.corrupt, self.complaints = 0, []
        return taken


def raw_samples(shards: Mapping[str, int], rng: Random, losses: Losses) -> Iterator[RawSample]:
    """Samples of shards drawn evenly with replacement, for ever. ``shards`` maps places to sample counts.

    Raises NoSamples when many shards in a row hold none.
    """
    places, barren = list(shards), 0
    while True:
        place = rng.choice(places)
        count = 0
        for sample in _shard_samples(place, losses):
            count += 1
            yield sample
        if count < shards[place]:
            losses.add(place, shards[place] - count, f"{count} of {shards[place]} samples can be read")
        barren = 0 if count else barren + 1
        if barren > 2 * len(places) + 10:
            raise NoSamples(f"{barren} shards opened in a row without a single sample, the last was {place}")


def _shard_samples(place: str, losses: Losses) -> Iterator[RawSample]:
    """The samples of one shard, in order: of a tar, or of an index of tars."""
    try:
        if place.endswith(".npz"):
            yield from _indexed(place, losses)
            return
        with TarReader(place) as reader:
            for sample in samples_of(reader.walk()):
                wanted = {suffix: p for suffix, p in sample.members.items() if _is_trained_on(suffix)}
                yield {SHARD: place} | {suffix: reader.read(*p) for suffix, p in wanted.items()}
            if reader.damage:
                losses.add(place, 0, reader.damage)
    except OSError as error:
        losses.add(place, 0, error)


def _indexed(place: str, losses: Losses) -> Iterator[RawSample]:
    """Samples straight out of the tars of the pool. Raises NoSamples when one of them is no longer what it was."""
    entries = Entries.load(Path(place))
    wanted = np.array([_is_trained_on(name) for name in entries.names], bool)
    try:
        with Tars(entries) as tars:
            for first in range(0, len(entries), TOGETHER):
                numbers = range(first, min(first + TOGETHER, len(entries)))
                for sample in _readable(entries, tars, numbers, wanted, partial(losses.add, place, 0)):
                    yield {SHARD: place} | sample
    except ValueError as error:
        raise NoSamples(str(error)) from None


def _readable(
    entries: Entries, tars: Tars, numbers: range, wanted: npt.NDArray[np.bool_], complain: Callable[[OSError], None]
) -> Iterator[dict[str, bytes]]:
    """Some samples; without those that cannot be read, of which one is complained about."""
    try:
        yield from _read(entries, tars, numbers, wanted)
    except OSError as error:
        complain(error)
        for number in numbers if len(numbers) > 1 else ():
            yield from _readable(entries, tars, range(number, number + 1), wanted, complain)


def _read(entries: Entries, tars: Tars, numbers: range, wanted: npt.NDArray[np.bool_]) -> list[dict[str, bytes]]:
    """Some samples, by suffix: what is ``wanted`` of the suffixes."""
    samples: list[dict[str, memoryview]] = []
    pieces: list[tuple[int, list[Piece]]] = []
    for number in numbers:
        members = np.arange(entries.starts[number], entries.ends[number])
        members = members[wanted[entries.suffixes[members]]]
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
