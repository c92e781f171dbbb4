"""Raw samples out of webdataset tars, shard after shard without end, with count and reason of what was unreadable."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from webdataset.tariterators import base_plus_ext, tar_file_expander

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
    def note(error: Exception) -> bool:
        losses.add(path, 0, f"{type(error).__name__}: {error.args[0] if error.args else ''}")
        return True

    try:
        with Path(path).open("rb") as stream:
            source = [{"url": path, "stream": stream}]
            files = tar_file_expander(source, handler=note, select_files=_wanted)
            yield from grouped(files, path)
    except OSError as error:
        note(error)


def _wanted(name: str) -> bool:
    suffix = name.rpartition("/")[2].partition(".")[2].lower()
    return suffix == TEXT or suffix in IMAGES


def grouped(files: Iterable[Mapping[str, Any]], shard: str) -> Iterator[RawSample]:
    """Consecutive tar members as samples: a new one starts where the key changes or a suffix comes again.

    Source: open_clip's grouping, which unlike webdataset's keeps a sample that directly follows its own copy.
    """
    current_key, current = "", {SHARD: shard}
    for file in files:
        if "fname" not in file:  # webdataset's mark of the end of a tar
            continue
        key, suffix = base_plus_ext(file["fname"])
        suffix = suffix.lower()
        if key != current_key or suffix in current:
            if len(current) > 1:
                yield current
            current_key, current = key, {SHARD: shard}
        current[suffix] = file["data"]
    if len(current) > 1:
        yield current
