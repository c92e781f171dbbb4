"""Resharding: copy the chosen samples of a pool, byte for byte, into shards of their own.

Two passes over the pool's tars. The first reads headers and json and notes where the chosen samples lie; then the
order of all copies is known (that of the tars by name, and within them), so it is cut into shards of one size; the
second pass writes each shard by itself. What is written therefore does not depend on the number of workers.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.chosen import Chosen, Shard, choose, cut, samples_in
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.shards import META, SAMPLE_IDS, SHARD_NAME, SIZES, STATS_NAME, Shards, write_shard
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.artifacts.tally import Tallies, Tally
from dcexp.artifacts.uid import format_uid
from dcexp.engines.base import Engine
from dcexp.stage import Stage, Step

log = logging.getLogger(__name__)

PLAN = "plan"  # a folder for what the first pass finds; gone when the shards are done
MISSING = "missing.parquet"


@dataclass(frozen=True, kw_only=True)
class Copy(Stage):
    """Copy the chosen samples into shards of ``shard_size`` samples (the last one may be smaller).

    ``max_missing`` is the share of wanted uids that may be absent from the pool's shards, 0 to 1. A uid that
    stands n times in the subset is written n times, as ``<uid>-0`` to ``<uid>-<n-1>``.
    """

    makes = Shards

    shard_size: int = 10000
    max_missing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_size < 1 or not 0 <= self.max_missing <= 1:
            raise ValueError(
                f"reshard.shard_size={self.shard_size} reshard.max_missing={self.max_missing}: "
                "wanted a shard_size of 1 or more and a max_missing from 0 to 1"
            )

    def step(self, pool: Step, subset: Step) -> Step:
        """This stage applied to a pool and a subset of it."""
        return Step(self, {"pool": pool, "subset": subset})

    def run(self, out: Path, engine: Engine, *, pool: Pool, subset: Subset) -> Summary:
        """Write shards, stats, ``sizes.json``, ``meta.json`` and ``sample_ids.npy`` into ``out``.

        Raises ValueError when the pool has no shards, nothing is wanted or found, or too much is missing.
        """
        _refuse_nothing(pool, subset)
        _forget_other_plans(out, _plan_digest(pool, subset, self.shard_size))
        with Tallies(subset.uids(), out / PLAN / "written.u8") as tallies:
            find = partial(_find, out / PLAN, subset.path / SUBSET, pool.derived_uids)
            found = engine.map(find, list(enumerate(pool.shards)), what="find samples")
            for tar, tally in zip(pool.shards, found, strict=True):
                tallies.add(tar, tally)
            missing = _report_missing(out, tallies, pool, self.max_missing)
            shards = list(cut(pool.shards, tallies.copies, self.shard_size))
            for _ in engine.map(partial(_write, out), list(enumerate(shards)), what="write shards"):
                pass
            tallies.save_ids(out / SAMPLE_IDS)
        facts = _write_side_files(out, self, shards, tallies)
        shutil.rmtree(out / PLAN)
        return Summary(counts=tallies.counts(missing), facts=facts)


def _refuse_nothing(pool: Pool, subset: Subset) -> None:
    if not pool.shards:
        raise ValueError(
            f"the pool at {pool.root} has metadata but no shards, so there is nothing to train on: download its "
            "shards into shards/ beside metadata/, or stop before they are needed: until=subset"
        )
    if len(subset.uids()) == 0:
        raise ValueError(f"{subset.path / SUBSET} holds no uids, so there is nothing to copy; choose another filter")


def _plan_digest(pool: Pool, subset: Subset, shard_size: int) -> str:
    """A digest of all that decides which bytes go where; two attempts of one digest may continue each other."""
    with (subset.path / SUBSET).open("rb") as file:
        wanted = hashlib.file_digest(file, "sha256").hexdigest()
    states = [(tar.name, s.st_size, s.st_mtime_ns) for tar in pool.shards if tar.exists() and (s := tar.stat())]
    return hashlib.sha256(json.dumps([wanted, shard_size, pool.derived_uids, states]).encode()).hexdigest()


def _forget_other_plans(out: Path, digest: str) -> None:
    """Empty ``out`` unless what is in it was left by an attempt with the same plan."""
    note = out / PLAN / "digest"
    if note.is_file() and note.read_text() == digest:
        log.info("continue in %s: %d shards are already there", out, len(list(out.glob("*.tar"))))
        return
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with whole_file(note) as file:
        file.write(digest.encode())


def _plan_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.npz"


def _find(folder: Path, subset: Path, derived: bool, item: tuple[int, Path]) -> Tally:
    """First pass, one tar: note where its chosen samples lie, unless an earlier attempt has."""
    number, tar = item
    noted = _plan_file(folder, number)
    if noted.is_file():
        return Tally.of(Chosen.load(noted))
    chosen = choose(tar, np.load(subset, mmap_mode="r", allow_pickle=False), derived=derived)
    chosen.save(noted)
    return Tally.of(chosen)


def _write(out: Path, item: tuple[int, Shard]) -> None:
    """Second pass, one shard: copy its samples, unless an earlier attempt has."""
    number, shard = item
    if (out / SHARD_NAME.format(number)).is_file() and (out / STATS_NAME.format(number)).is_file():
        return
    files = (
        file
        for tar_number, tar, first, last in shard
        for file in Chosen.load(_plan_file(out / PLAN, tar_number)).files(tar, first, last)
    )
    write_shard(out, number, files, samples=samples_in(shard))


def _report_missing(out: Path, tallies: Tallies, pool: Pool, tolerated: float) -> int:
    """List the wanted uids that no tar holds, and say what is damaged; raise ValueError where it is too much."""
    for tar, damage in tallies.damaged.items():
        log.warning("%s: %s; the samples before that are used. Once it is mended: rebuild=shards", tar, damage)
    missing = tallies.save_missing(out / MISSING)
    if not len(missing):
        return 0
    share, examples = len(missing) / tallies.distinct, ", ".join(map(format_uid, missing[:3]))
    what = (
        f"{len(missing):,} of {tallies.distinct:,} wanted uids ({share:.1%}) are in none of the "
        f"{len(pool.shards):,} shards at {pool.root}; the first are {examples}"
    )
    if not tallies.kept:
        raise ValueError(
            f"nothing to copy: {what}. "
            + ("The tars are damaged: download them again" if tallies.damaged else "Do they belong to the same pool?")
        )
    if share > tolerated:
        enough = math.ceil(share * 100) / 100
        raise ValueError(
            f"{what}; all are in {out / MISSING}. That is more than reshard.max_missing={tolerated}: complete the "
            "pool (download it again over what is there), or train on what there is: "
            f"reshard.max_missing={enough:g}"
        )
    log.warning("%s of %s wanted uids (%.1f%%) are in none of the pool's shards; the artifact lists them in %s",
                f"{len(missing):,}", f"{tallies.distinct:,}", 100 * share, MISSING)  # fmt: skip
    return len(missing)


def _write_side_files(out: Path, stage: Copy, shards: Sequence[Shard], tallies: Tallies) -> dict[str, object]:
    """Write ``sizes.json`` and ``meta.json`` (upstream's names for its counts); return the facts."""
    sizes = {SHARD_NAME.format(number): samples_in(shard) for number, shard in enumerate(shards)}
    write_json(out / SIZES, sizes)
    meta = {
        "shard_size": stage.shard_size,
        "output_shard_format": SHARD_NAME,
        "output_shard_stats_format": STATS_NAME,
        "processed_count": tallies.seen,
        "output_count": sum(sizes.values()),
        "output_shard_count": len(sizes),
    }
    write_json(out / META, meta)
    return {
        "wanted": len(tallies.wanted),
        "wanted_distinct": tallies.distinct,
        "written": sum(sizes.values()),
        "duplicates": tallies.duplicates,
        "shards": len(sizes),
        "bytes": sum((out / name).stat().st_size for name in sizes),
        "damaged": len(tallies.damaged),
        "damaged_tars": dict(list(tallies.damaged.items())[:20]),
    }
