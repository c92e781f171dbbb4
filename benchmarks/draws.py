"""Time and memory of soft-cap sampling, metadata to subset.npy: ``filter=soft_cap`` as a whole process.

    python benchmarks/draws.py                      # 12.8 million draws from 1.28 million rows, and from 5.12 million
    python benchmarks/draws.py --rows 128000 --draws 1280000 --batch 10000 --repeats 3

The pool is that of ``pool.py``; a row's score is ``--weight`` times its L/14 score (a deviation of 0.073), by a fusion
of that one score, so that some rows are taken far more often than others. Each time is that of a whole process with a
fresh store, from start to exit: the indexing of the pool and the making of the score count. Memory is the peak sum
over all processes (RSS); beside it the 50 bytes a row that the docstring of ``SoftCap`` says, which is what the two
sizes should differ by. Each run goes to stderr, the table of medians to stdout.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from pool import Synthetic
from selection import Cost, measured

SCORE = "clip_l14_similarity_score"
BYTES = 50  # a row, as SoftCap says
HEAD = ("rows", "draws", "most often", "s", "CPU s", "MiB", "50 bytes a row, MiB", "load")


def drawn(root: Path, rows: int, args: argparse.Namespace) -> tuple[Cost, int]:
    """One run: what it took, and how often the row that is taken most often is."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = ["filter=soft_cap", "filter.score._target_=dcexp.filters.fusion.Fusion"]
        words += ["filter.score.column=none", "~filter.score.column"]  # what is asked for cannot be taken away
        words += [f"+filter.score.weights={{{SCORE}: {args.weight}}}", "+filter.score.norm=raw"]
        words += [f"filter.draws={args.draws / rows!r}", f"filter.batch={min(args.batch, rows)}"]
        words += ["source=commonpool", f"source.root={root}", "until=subset", f"store.root={folder / 'store'}"]
        words += ["tracker=none", f"engine.workers={args.workers}", f"hydra.run.dir={folder / 'run'}"]
        cost = measured([sys.executable, "-m", "dcexp", *words], folder)
        (manifest,) = folder.glob("store/subset/*/manifest.json")
        summary = json.loads(manifest.read_text())["summary"]
    assert summary["taken"] == args.draws, f"{summary['taken']:,} draws were made, not {args.draws:,}"
    return cost, max(map(int, summary["repeats"]))


def row_of(rows: int, root: Path, args: argparse.Namespace) -> list[str]:
    """A line of the table, under ``HEAD``: medians."""
    Synthetic(rows=rows, text=False).write(root)
    costs, load = [], os.getloadavg()[0]
    for repeat in range(args.repeats):
        cost, most = drawn(root, rows, args)
        costs.append(cost)
        print(f"{rows:>12,} rows {repeat + 1}/{args.repeats} {cost}", file=sys.stderr, flush=True)
    wall, cpu, mib = (statistics.median(getattr(cost, what) for cost in costs) for what in ("wall", "cpu", "mib"))
    numbers = [f"{wall:.1f}", f"{cpu:.1f}", f"{mib:,.0f}", f"{BYTES * rows / 2**20:,.0f}", f"{load:.1f}"]
    return [f"{rows:,}", f"{args.draws:,}", str(most), *numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_280_000, 5_120_000])
    parser.add_argument("--draws", type=int, default=12_800_000)
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--weight", type=float, default=40.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = [row_of(rows, Path(scratch) / str(rows), args) for rows in args.rows]
    table = [HEAD, ["---:"] * len(HEAD), *lines]
    print("\n".join(f"| {' | '.join(line)} |" for line in table))


if __name__ == "__main__":
    main()
