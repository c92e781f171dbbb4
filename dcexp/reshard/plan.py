"""Before anything is written: which samples of which tar are wanted, and what goes into which shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcexp.artifacts.columns import Column, Columns
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.headers import LONGEST_NAME, blocks_of
from dcexp.artifacts.locations import Located, located_file
from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.plain import BLOCK
from dcexp.artifacts.uid import DIGITS, Uids
from dcexp.reshard.arrange import TOGETHER, arranged, cut

_AT_ONCE = 512  # uids looked up together
_LONG_HEADER = 3 * BLOCK  # of a member with a long name
_TAIL = len("-.") + 10  # what a name has beside uid and suffix, the number of a copy in ten digits


@dataclass(frozen=True, kw_only=True)
class Found(Columns):
    """The wanted samples of one tar: its ``rows``, how often each is wanted, its first place in the subset, and the
    bytes that a copy takes in a shard. One entry per sample each.

    Copies are numbered from ``first`` on: where a pool has a uid twice, no two copies have one name.
    """

    rows: Column
    counts: Column
    positions: Column
    sizes: Column
    first: Column


def found_file(plan: Path, number: int) -> Path:
    return plan / f"found-{number:08d}.npz"


def shard_file(plan: Path, number: int) -> Path:
    return plan / f"shard-{number:08d}.npy"


def find(plan: Path, subset: Path, locations: Path, number: int) -> None:
    """Note which samples of tar ``number`` stand in the sorted file ``subset``, unless an earlier attempt has."""
    if found_file(plan, number).is_file():
        return
    located = Located.load(located_file(locations, number))
    positions, counts = _looked_up(subset, located.uids)
    rows = np.flatnonzero(counts)
    Found(
        rows=rows.astype(np.int32),
        counts=counts[rows],
        positions=positions[rows],
        sizes=_sizes(located)[rows],
        first=np.zeros(len(rows), np.int64),
    ).save(found_file(plan, number))


def _looked_up(subset: Path, uids: Uids) -> tuple[Column, Column]:
    """Where each uid first stands in the file ``subset``, and how often.

    The pages of a map that were looked at count as memory in use, so it is let go of after every few uids.
    """
    positions, counts = np.empty(len(uids), np.int64), np.empty(len(uids), np.int64)
    order = np.argsort(uids["f0"])  # neighbours look at the same pages
    for start in range(0, len(uids), _AT_ONCE):
        some = order[start : start + _AT_ONCE]
        positions[some], counts[some] = find_in(np.load(subset, mmap_mode="r", allow_pickle=False), uids[some])
    return positions, counts


def _sizes(located: Located) -> Column:
    """Bytes that each sample takes in a shard."""
    lengths = np.array([len(name.encode("utf-8", "surrogateescape")) for name in located.names], np.int64)
    long_name = (DIGITS + _TAIL + lengths > LONGEST_NAME)[located.suffixes]
    members = blocks_of(located.sizes) * BLOCK + np.where(long_name, _LONG_HEADER, BLOCK)
    ends = np.concatenate([[0], np.cumsum(members)])
    return np.diff(ends[np.concatenate([[0], located.ends])])


def plan_shards(plan: Path, count: int, shard_size: int, shard_bytes: int, seed: int | None) -> list[int]:
    """Note for every shard what goes into it, in rows of (tar, sample of it, which copy); returns their lengths.

    ``count`` tars are read in the order of the pool; with a ``seed`` they and their samples are shuffled.
    """
    tars = range(count) if seed is None else np.random.default_rng(seed).permutation(count).tolist()
    lengths = []
    for number, rows in enumerate(cut(_parts(plan, tars, seed), shard_size, shard_bytes)):
        lengths.append(len(rows))
        with whole_file(shard_file(plan, number), durable=False) as file:
            np.save(file, rows)
    return lengths


def _parts(plan: Path, tars: Sequence[int], seed: int | None) -> Iterator[tuple[Column, Column]]:
    """The arranged copies of some tars at a time: rows as above, and their bytes."""
    waiting: list[tuple[int, Found]] = []
    copies = 0
    for place, tar in enumerate(tars):
        found = Found.load(found_file(plan, tar))
        waiting.append((tar, found))
        copies += int(found.counts.sum())
        if copies >= TOGETHER or place == len(tars) - 1:
            yield _together(waiting, None if seed is None else seed + place)
            waiting, copies = [], 0


def _together(waiting: Sequence[tuple[int, Found]], seed: int | None) -> tuple[Column, Column]:
    tar = np.concatenate([np.full(len(found.rows), number, np.int32) for number, found in waiting])
    rows, counts, sizes, first = (
        np.concatenate([getattr(found, name) for _, found in waiting]) for name in ("rows", "counts", "sizes", "first")
    )
    sample, copy = arranged(counts, seed)
    numbers = (first[sample] + copy).astype(np.int32)
    return np.stack([tar[sample], rows[sample], numbers], axis=1), sizes[sample]
