"""The chosen samples of one tar: which they are, how often each is wanted, and where their bytes lie."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.samples import Sample, UnreadableSampleError, read_json, samples_of, uid_of
from dcexp.artifacts.tar import TarReader
from dcexp.artifacts.uid import Uids, find_in, format_uid, uids_from_bytes

Column = npt.NDArray[Any]
Span = tuple[int, Path, int, int]  # number and path of a tar; first and last (exclusive) of its copies
Shard = list[Span]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chosen samples of one tar as columns, in the order of the tar; kept in an npz between two passes.

    ``uids``, ``counts`` (how often each is wanted) and ``positions`` (its first place in the subset) have one
    entry per sample, ``ends`` too: sample i owns the members ``ends[i-1]:ends[i]``. ``offsets`` and ``sizes``
    (bytes) and ``suffixes`` (an index into ``names``) have one entry per member. ``seen`` counts all readable
    samples of the tar, ``corrupt`` what could not be read; ``damage`` says what is wrong with the tar itself.
    """

    uids: Uids
    counts: Column
    positions: Column
    ends: Column
    offsets: Column
    sizes: Column
    suffixes: Column
    names: Column
    seen: int
    corrupt: int
    damage: str

    def save(self, path: Path) -> None:
        """Write all columns to ``path``."""
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Chosen":
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as npz:
            columns = {f.name: npz[f.name] for f in fields(cls)}
        scalars = {name: columns.pop(name).item() for name in ("seen", "corrupt", "damage")}
        return cls(**columns, **scalars)

    @property
    def copies(self) -> int:
        """Samples to be written, repeats counted."""
        return int(self.counts.sum())

    def files(self, tar: Path, first: int, last: int) -> Iterator[tuple[str, memoryview]]:
        """Name and content of every member of copies ``first`` to ``last`` (exclusive), members by suffix.

        Copy j of a sample is called ``<uid>-<j>``. Raises OSError when the tar has become shorter.
        """
        stops = np.cumsum(self.counts)
        source = os.open(tar, os.O_RDONLY)
        try:
            for i in range(int(np.searchsorted(stops, first, side="right")), len(stops)):
                start = int(stops[i] - self.counts[i])
                if start >= last:
                    break
                uid, members = format_uid(self.uids[i]), self._read(source, tar, i)
                for j in range(max(first - start, 0), min(last - start, int(self.counts[i]))):
                    yield from ((f"{uid}-{j}.{suffix}", content) for suffix, content in members)
        finally:
            os.close(source)

    def _read(self, source: int, tar: Path, i: int) -> list[tuple[str, memoryview]]:
        mine = slice(int(self.ends[i - 1]) if i else 0, int(self.ends[i]))
        offsets, sizes = self.offsets[mine].tolist(), self.sizes[mine].tolist()
        start, stop = min(offsets), max(o + n for o, n in zip(offsets, sizes, strict=True))
        raw = memoryview(os.pread(source, stop - start, start))
        if len(raw) < stop - start:
            raise OSError(f"{tar} has become shorter while it was read")
        names = [str(self.names[s]) for s in self.suffixes[mine]]
        return [(name, raw[o - start : o - start + n]) for name, o, n in zip(names, offsets, sizes, strict=True)]


def choose(tar: Path, wanted: Uids, *, derived: bool) -> Chosen:
    """Find the samples of ``tar`` whose uids stand in the sorted ``wanted``. Reads headers and json, no images."""
    if not tar.is_file():
        return _columns([], b"", wanted, corrupt=1, damage="the file is gone")
    samples, raw, corrupt = [], bytearray(), 0
    with TarReader(tar) as reader:
        listing = reader.members()
        for sample in samples_of(listing.members):
            try:
                raw += uid_of(read_json(reader, sample), tar.name, sample.key, derived=derived)
                samples.append(sample)
            except UnreadableSampleError:
                corrupt += 1
    return _columns(samples, bytes(raw), wanted, corrupt + bool(listing.damage), listing.damage)


def _columns(samples: list[Sample], raw: bytes, wanted: Uids, corrupt: int, damage: str) -> Chosen:
    uids = uids_from_bytes(raw)
    positions, counts = find_in(wanted, uids)
    index = np.flatnonzero(counts)
    members = [sorted(samples[i].members.items()) for i in index.tolist()]
    flat = [(suffix, member.offset, member.size) for row in members for suffix, member in row]
    names, suffixes = np.unique([suffix for suffix, _, _ in flat] or [""], return_inverse=True)
    return Chosen(
        uids=uids[index],
        counts=counts[index],
        positions=positions[index],
        ends=np.cumsum([len(row) for row in members], dtype=np.int64),
        offsets=np.array([offset for _, offset, _ in flat], dtype=np.int64),
        sizes=np.array([size for _, _, size in flat], dtype=np.int64),
        suffixes=suffixes[: len(flat)],
        names=names,
        seen=len(samples),
        corrupt=corrupt,
        damage=damage,
    )


def cut(tars: Sequence[Path], copies: Sequence[int], size: int) -> Iterator[Shard]:
    """Cut the copies of all tars, in order, into shards of ``size`` copies."""
    shard: Shard = []
    room = size
    for number, (tar, count) in enumerate(zip(tars, copies, strict=True)):
        first = 0
        while first < count:
            last = min(count, first + room)
            shard.append((number, tar, first, last))
            room -= last - first
            first = last
            if room == 0:
                yield shard
                shard, room = [], size
    if shard:
        yield shard


def samples_in(shard: Shard) -> int:
    return sum(last - first for _, _, first, last in shard)
