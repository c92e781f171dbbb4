"""What copying and indexing share: which samples go into which shard, and the account of everything else."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import write_json
from dcexp.artifacts.locations import Locations
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.shards import ACCOUNT, FILES, META, SAMPLE_IDS, SIZES, STATS_NAME, Shards
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.engines.base import Engine
from dcexp.reshard.ledger import Ledger, report_missing
from dcexp.reshard.locate import Locate
from dcexp.reshard.made import PLAN, Made
from dcexp.reshard.plan import Found, find, found_file, plan_shards
from dcexp.reshard.progress import with_speed
from dcexp.stage import Stage, Step


class Inputs(NamedTuple):
    """What shards are made from."""

    pool: Pool
    subset: Subset
    locations: Locations


@dataclass(frozen=True, kw_only=True)
class Reshard(Stage):
    """Make shards of ``shard_size`` samples (the last one may be smaller) and ``shard_bytes`` bytes at most.

    A uid that stands n times in the subset is there n times, as ``<uid>-0`` to ``<uid>-<n-1>``, spread so that copies
    of one sample do not stand side by side. Samples keep the order of the pool's tars; with ``shuffle`` tars, and
    the samples of about a million together, are shuffled by ``seed``. ``max_missing`` is the share of wanted uids
    that may be absent from the pool's shards, 0 to 1. What goes into which shard depends on these fields, the pool
    and the subset alone, never on the engine.
    """

    makes = Shards
    version = 2

    shard_size: int = 10000
    shard_bytes: int = 3_000_000_000
    shuffle: bool = False
    seed: int = 0
    max_missing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_size < 1 or self.shard_bytes < 1 or self.seed < 0 or not 0 <= self.max_missing <= 1:
            raise ValueError(
                f"reshard.shard_size={self.shard_size} reshard.shard_bytes={self.shard_bytes} reshard.seed={self.seed} "
                f"reshard.max_missing={self.max_missing}: wanted a shard_size and shard_bytes of 1 or more, a seed of "
                "0 or more, and a max_missing from 0 to 1"
            )

    def step(self, pool: Step, subset: Step) -> Step:
        """This stage applied to a pool and a subset of it."""
        return Step(self, {"pool": pool, "subset": subset, "locations": Locate().step(pool)})

    def run(self, out: Path, engine: Engine, *, pool: Pool, subset: Subset, locations: Locations) -> Summary:
        """Write all shards and their side files into ``out``.

        Raises ValueError when nothing is wanted or found, too much is missing, or a tar has changed meanwhile.
        """
        wanted, plan = subset.uids(), out / PLAN
        if not len(wanted):
            raise ValueError(
                f"{subset.path / SUBSET} holds no uids, so there is nothing to train on; choose another filter"
            )
        plan.mkdir(exist_ok=True)
        inputs = Inputs(pool, subset, locations)
        self.prepare(out, engine, inputs)
        ledger = _account(Ledger(wanted, plan / "marks"), plan, engine, inputs)
        missing = report_missing(out, ledger, str(pool.root), self.max_missing)
        seed = self.seed if self.shuffle else None
        lengths = plan_shards(plan, len(ledger.tars), self.shard_size, self.shard_bytes, seed)
        made = with_speed(
            self.shards(out, engine, len(lengths), inputs),
            "write the shards",
            len(lengths),
            lambda shard: (shard.samples, int(shard.file["bytes"])),
        )
        shutil.copyfile(subset.path / SUBSET, out / SAMPLE_IDS)
        ledger.save(out / ACCOUNT)
        facts = _write_side_files(out, self, made, ledger, self.folder(inputs))
        self.publish(out, inputs)
        shutil.rmtree(plan)
        counts = ledger.counts(missing, lost=sum(shard.lost for shard in made))
        return Summary(counts=counts, facts=facts, files={shard.name: shard.file for shard in made})

    def prepare(self, out: Path, engine: Engine, inputs: Inputs) -> None:
        """What has to be known, beside what is wanted, before anything is written."""

    def shards(self, out: Path, engine: Engine, count: int, inputs: Inputs) -> Iterator[Made]:
        """Make the ``count`` shards that are planned, in order."""
        raise NotImplementedError

    def folder(self, inputs: Inputs) -> str:
        """Where the shards are, if not in the artifact."""
        return ""

    def publish(self, out: Path, inputs: Inputs) -> None:
        """What is still to do when all files are in ``out``."""

    @property
    def meta(self) -> dict[str, object]:
        """What ``meta.json`` says beside the counts."""
        return {}


def _account(ledger: Ledger, plan: Path, engine: Engine, inputs: Inputs) -> Ledger:
    """Find the wanted samples in every tar."""
    tars = inputs.locations.tars(inputs.pool)
    work = partial(find, plan, inputs.subset.path / SUBSET, inputs.locations.path)
    for number, _ in enumerate(engine.map(work, range(len(tars)), what="find what is wanted")):
        found = Found.load(found_file(plan, number))
        before = ledger.add(tars[number], found)
        if before.any():
            replace(found, first=before * found.counts).save(found_file(plan, number))
    return ledger


def _write_side_files(
    out: Path, stage: Reshard, made: Sequence[Made], ledger: Ledger, folder: str
) -> dict[str, object]:
    """Write ``sizes.json``, ``files.json`` and ``meta.json`` (upstream's names for its counts); return the facts."""
    write_json(out / SIZES, {shard.name: shard.samples for shard in made})
    write_json(out / FILES, {shard.name: shard.file for shard in made})
    counts = {
        "processed_count": sum(tar.samples for tar, _ in ledger.tars),
        "output_count": sum(shard.samples for shard in made),
        "output_shard_count": len(made),
        "blur_count": sum(shard.faces for shard in made),
    }
    formats = {"output_dir": folder, "shard_size": stage.shard_size, "output_shard_stats_format": STATS_NAME}
    write_json(out / META, {**formats, **stage.meta, **counts})
    return {
        "wanted": len(ledger.wanted),
        "wanted_distinct": ledger.distinct(),
        "written": counts["output_count"],
        "duplicates": ledger.duplicates,
        "shards": len(made),
        "bytes": sum(int(shard.file["bytes"]) for shard in made),
        "faces": counts["blur_count"],
        "damaged": len(ledger.damaged),
        "damaged_tars": dict(list(ledger.damaged.items())[:20]),
        **stage.meta,
    }
