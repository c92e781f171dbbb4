"""Time what ``reshard=index`` costs and what training gets from it, on a pool that ``resharding.py make`` has made.

    python benchmarks/index.py /data/100k --fraction 0.3 --runs 5

Building: the index of a random subset, from nothing (``locations`` included), against reading every header and json of
the tars, which has to be done in any case; both in this process, with one worker. Training: samples a second of the
loader of the trainer (open_clip's transform of ViT-B-32, two workers) from the index and from copied shards, in turns.
Before anything is timed the tars are in the page cache.
"""

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dcexp.artifacts.locations import Locations
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.shards import Shards
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.artifacts.tar import TarReader
from dcexp.artifacts.uid import sort_uids
from dcexp.engines.local import Local
from dcexp.model import build_model, tokenizer
from dcexp.reshard.base import Reshard
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from dcexp.reshard.locate import Locate
from dcexp.sources.commonpool import CommonPool
from dcexp.training.data import Interval
from dcexp.training.images import halves
from dcexp.training.reading import shard_list

ONE = Local(workers=1)
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help=f"of {BATCH} samples, a run of the loader")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as name:
        scratch = Path(name)
        pool = indexed(args.folder, scratch / "pool")
        subset = chosen(pool, args.fraction, scratch / "subset")
        build(pool, subset, scratch, args.runs)
        train(pool, subset, scratch, args.runs, args.batches)


def indexed(folder: Path, out: Path) -> Pool:
    out.mkdir()
    CommonPool(root=str(folder)).run(out, Local(workers=2))
    return Pool(out)


def chosen(pool: Pool, fraction: float, out: Path) -> Subset:
    """A random subset; the same every time."""
    out.mkdir()
    uids = np.concatenate([part.uids() for part in pool.parts])
    np.save(out / SUBSET, sort_uids(np.random.default_rng(0).permutation(uids)[: int(fraction * len(uids))]))
    return Subset(out)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def read_headers_and_json(pool: Pool) -> int:
    """What any index has to read, and nothing else."""
    size = 0
    for tar in pool.shards:
        with TarReader(tar) as reader:
            for members in reader.walk():
                for member, offset, length in zip(members.names, members.offsets, members.sizes, strict=True):
                    if member.endswith(b".json"):
                        size += len(reader.read(offset, length))
    return size


def make(stage: Reshard, pool: Pool, subset: Subset, folder: Path) -> Shards:
    """The shards of ``stage`` in ``folder``, with their locations."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("locations", "shards"):
        (folder / part).mkdir(parents=True)
    Locate().run(folder / "locations", ONE, pool=pool)
    stage.run(folder / "shards", ONE, pool=pool, subset=subset, locations=Locations(folder / "locations"))
    return Shards(folder / "shards")


def build(pool: Pool, subset: Subset, scratch: Path, runs: int) -> None:
    taken: dict[str, list[float]] = {"read": [], "index": []}
    for _ in range(runs + 1):
        taken["read"].append(seconds(lambda: read_headers_and_json(pool)))
        taken["index"].append(seconds(lambda: make(Index(), pool, subset, scratch / "built")))
    read, index = (statistics.median(times[1:]) for times in taken.values())
    print(f"headers and json read {read:.2f} s, index built {index:.2f} s: {index / read:.2f}x")


def rate(shards: Shards, batches: int) -> float:
    """Samples a second that the loader of the trainer gives from some shards, its start left out."""
    interval = Interval(
        shards=shard_list(shards),
        crop=halves(build_model("ViT-B-32", "fp32", 0)[1])[0],
        tokenize=tokenizer("ViT-B-32"),
        batch_size=BATCH,
        batches=batches + 2,
        seed=0,
        index=0,
        workers=2,
    )
    loader = iter(interval.loader(pin_memory=False))
    for _ in range(2):  # the shuffle buffers fill
        next(loader)
    return batches * BATCH / seconds(lambda: [next(loader) for _ in range(batches)])


def train(pool: Pool, subset: Subset, scratch: Path, runs: int, batches: int) -> None:
    made = {
        "copy": make(Copy(), pool, subset, scratch / "copied"),
        "index": make(Index(), pool, subset, scratch / "built"),
    }
    rates: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(runs):
        for name, shards in made.items():
            rates[name].append(rate(shards, batches))
    copied, indexed_ = (statistics.median(values) for values in rates.values())
    print(f"loader: {copied:,.0f} samples/s from copies, {indexed_:,.0f} from the index: {indexed_ / copied:.2f}x")


if __name__ == "__main__":
    main()
