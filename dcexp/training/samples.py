"""Raw samples out of the tars, shard after shard without end, with count and reason of what was unreadable."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dcexp.artifacts.samples import samples_of
from dcexp.artifacts.tar import TarReader

IMAGES = ("jpg", "png", "jpeg", "webp")  # in the order of preference of open_clip
TEXT = "txt"
SHARD = "__shard__"
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
            self.complaints.append(f"{Path(shard).name}: {reason}")

    def take(self) -> tuple[int, tuple[str, ...]]:
        """The count and the complaints, which start anew."""
        taken = self.corrupt, tuple(self.complaints)
        self.corrupt, self.complaints = 0, []
        return taken


def raw_samples(shards: Mapping[str, int], rng: Random, losses: Losses) -> Iterator[RawSample]:
    """Samples of shards drawn evenly with replacement, for ever. ``shards`` maps paths to sample counts.

    Raises NoSamples when many shards in a row hold none.
    """
    paths, barren = list(shards), 0
    while True:
        path = rng.choice(paths)
        count = 0
        for sample in _shard_samples(path, losses):
            count += 1
            yield sample
        if count < shards[path]:
            losses.add(path, shards[path] - count, f"{count} of {shards[path]} samples can be read")
        barren = 0 if count else barren + 1
        if barren > 2 * len(paths) + 10:
            raise NoSamples(f"{barren} shards opened in a row without a single sample, the last was {path}")


def _shard_samples(path: str, losses: Losses) -> Iterator[RawSample]:
    try:
        with TarReader(Path(path)) as reader:
            listing = reader.members()
            if listing.damage:
                losses.add(path, 0, listing.damage)
            for sample in samples_of(listing.members):
                wanted = {suffix: m for suffix, m in sample.members.items() if suffix == TEXT or suffix in IMAGES}
                yield {SHARD: path} | {suffix: reader.read(m.offset, m.size) for suffix, m in wanted.items()}
    except OSError as error:
        losses.add(path, 0, error)
