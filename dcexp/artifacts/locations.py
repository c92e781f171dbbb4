"""Where the samples of a pool lie: for each tar, the uids in it and the places of their bytes.

Known once for a pool, it serves every subset of it: copying, and reading without copying.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.columns import Column, Columns
from dcexp.artifacts.place import State, exists, name_of, open_place
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.samples import Batch, Suffixes, batches_of, uids_in
from dcexp.artifacts.tar import TarReader
from dcexp.artifacts.uid import Uids, uids_from_bytes

TARS = "tars.json"
_LARGEST_STATS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Located(Columns):
    """The readable samples of one tar as columns, in its order.

    ``uids`` and ``ends`` have one entry per sample: sample i owns the members ``ends[i-1]:ends[i]``. ``offsets`` and
    ``sizes`` (bytes) and ``suffixes`` (a position in ``names``) have one entry per member.
    """

    uids: Uids
    ends: Column
    offsets: Column
    sizes: Column
    suffixes: Column
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class Tar:
    """What is known of one tar: its ``place``, readable ``samples``, ``corrupt`` ones, ``damage`` in words.

    ``announced`` samples are said to be in it by the ``_stats.json`` beside it (-1: there is none). ``state`` tells
    whether the tar has changed since.
    """

    place: str
    samples: int
    corrupt: int = 0
    damage: str = ""
    announced: int = -1
    state: State

    def entry(self) -> dict[str, Any]:
        """What ``tars.json`` says of it. Where it lies is the pool's to say."""
        return {name: value for name, value in vars(self).items() if name != "place"}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self.state[0]) if self.state else 0

    @property
    def lacking(self) -> int:
        """Samples that are announced, and not there at all."""
        return max(self.announced - self.samples - self.corrupt, 0)

    @property
    def unreadable(self) -> int:
        """Corrupt samples; where a tar breaks off and nobody says how many it had, one for what comes after."""
        return self.corrupt + (bool(self.damage) and not self.lacking)


class Locations(Artifact):
    """``tars.json`` and, for tar number n, ``<n as 8 digits>.npz`` with the columns of :class:`Located`."""

    kind = "locations"

    def tars(self, pool: Pool) -> list[Tar]:
        """All tars of the pool, in its order, where they are now."""
        entries = json.loads((self.path / TARS).read_text())
        return [Tar(place=place, **entry) for place, entry in zip(pool.shards, entries, strict=True)]

    def located(self, number: int) -> Located:
        return Located.load(located_file(self.path, number))


def located_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.npz"


def locate(place: str, *, derived: bool) -> tuple[Tar, Located]:
    """Find every sample of the tar at ``place``: reads its headers and the json of each sample."""
    names: Suffixes = {}
    parts: list[Located] = []
    corrupt, damage, state = 0, "", State()
    try:
        with TarReader(place) as reader:
            for batch in batches_of(reader.walk(), names):
                uids, readable = uids_in(reader, batch, names, name_of(place), derived=derived)
                corrupt += len(batch.keys) - len(readable)
                parts.append(_located(batch, uids, readable))
            damage, state = reader.damage, reader.state
    except FileNotFoundError:
        damage = "the file is gone"
    located = _joined(parts, list(names))
    samples, announced = len(located.uids), _announced(place)
    tar = Tar(place=place, samples=samples, corrupt=corrupt, damage=damage, announced=announced, state=state)
    if tar.lacking and not damage:
        damage = f"{samples + corrupt:,} samples, but its _stats.json says {announced:,}"
    return replace(tar, damage=damage), located


def _located(batch: Batch, uids: bytes, readable: list[int]) -> Located:
    """The readable samples of a batch; their suffixes are not named yet."""
    ends, members = np.array(batch.ends, np.int64), [batch.offsets, batch.sizes, batch.suffixes]
    offsets, sizes, suffixes = (np.array(column, np.int64) for column in members)
    if len(readable) < len(ends):
        counts = np.diff(ends, prepend=0)
        stays = np.zeros(len(ends), bool)
        stays[readable] = True
        kept = np.repeat(stays, counts)
        ends, offsets, sizes, suffixes = np.cumsum(counts[stays]), offsets[kept], sizes[kept], suffixes[kept]
    return Located(uids=uids_from_bytes(uids), ends=ends, offsets=offsets, sizes=sizes, suffixes=suffixes, names=[])


def _joined(parts: list[Located], names: list[str]) -> Located:
    nothing = _located(Batch([], [], [], [], []), b"", [])
    before = np.cumsum([0, *(len(part.offsets) for part in parts)])
    return Located(
        uids=np.concatenate([nothing.uids, *(part.uids for part in parts)]),
        ends=np.concatenate([nothing.ends, *(part.ends + first for part, first in zip(parts, before, strict=False))]),
        offsets=np.concatenate([nothing.offsets, *(part.offsets for part in parts)]),
        sizes=np.concatenate([nothing.sizes, *(part.sizes for part in parts)]),
        suffixes=np.concatenate([nothing.suffixes, *(part.suffixes for part in parts)]).astype(np.int32),
        names=names,
    )


def _announced(place: str) -> int:
    """How many samples img2dataset says it put into a tar; -1 where it does not say."""
    stats = place.removesuffix(".tar") + "_stats.json"
    if not exists(stats):
        return -1
    file = open_place(stats)
    try:
        count = json.loads(file.read(0, _LARGEST_STATS))["successes"]
        return count if isinstance(count, int) and count >= 0 else -1
    except (ValueError, KeyError, TypeError):
        return -1
    finally:
        file.close()
