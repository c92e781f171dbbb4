"""Time selection, metadata to subset.npy, against upstream's own scripts on the same synthetic pool.

    python benchmarks/selection.py none clip_score --rows 12800000 --upstream 'bash /path/to/run.sh'
    python benchmarks/selection.py basic --rows 1280000 --ours 'basic:some.key=value,other.key=value'

Each time is that of a whole process, from start to exit: ``python -m dcexp filter=… until=subset`` with a fresh store,
so the indexing of the pool counts, and the command of ``--upstream`` with NAME METADATA_DIR SAVE_PATH and the flags of
upstream's ``baselines.py`` behind it. The two take turns. Memory is the peak sum over all processes (RSS; a page that
two processes share counts twice). Both must write the same bytes, every time. Each run goes to stderr, the table of
medians to stdout.
"""

import argparse
import filecmp
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
from pool import Synthetic

FILTERS = {  # ours: upstream's name and flags
    "none": "no_filter",
    "clip_score": "clip_score --fraction 0.3 --arch l14",
    "basic": "basic_filter",
    "text_based": "text_based",
    "laion2b": "laion2b",
    "image_based": "image_based --image_based_scale small --num_gpus {workers}",
    "image_based_and_clip_score": (
        "image_based_intersect_clip_score --fraction 0.3 --arch l14 --image_based_scale small --num_gpus {workers}"
    ),
}
WITHOUT_TEXT = {"none", "clip_score"}
HEAD = ("filter", "rows", "ours s", "upstream s", "ratio", "ours MiB", "upstream MiB", "ratio", "identical")


@dataclass(frozen=True)
class Cost:
    """What a process and its children took."""

    wall: float
    cpu: float
    mib: float

    def __str__(self) -> str:
        return f"{self.wall:7.2f} s wall {self.cpu:7.2f} s CPU {self.mib:6.0f} MiB"


def cpu_seconds() -> float:
    """CPU time of all processes that have ended: on a busy machine it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(process: psutil.Process) -> float:
    """MiB that a process and its children hold now."""
    total = 0
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total / 2**20


def measured(words: list[str], folder: Path) -> Cost:
    """Run a command in ``folder``. Raises SystemExit with the end of what it said when it fails."""
    log = folder / "log"
    with log.open("wb") as said:
        started, used, peak = time.monotonic(), cpu_seconds(), 0.0
        process = psutil.Popen(words, cwd=folder, stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.04)
        cost = Cost(time.monotonic() - started, cpu_seconds() - used, peak)
    if process.returncode:
        raise SystemExit(
            f"{log.read_text(errors='replace')[-3000:]}\nfailed ({process.returncode}): {shlex.join(words)}"
        )
    return cost


def ours(name: str, root: Path, folder: Path, workers: int, overrides: list[str]) -> tuple[Cost, Path]:
    """One run of dcexp: what it took, and the subset."""
    store = folder / "store"
    words = [f"filter={name}", "source=commonpool", f"source.root={root}", "until=subset", f"store.root={store}"]
    words += ["tracker=none", f"engine.workers={workers}", f"hydra.run.dir={folder / 'run'}", *overrides]
    cost = measured([sys.executable, "-m", "dcexp", *words], folder)
    # a composed filter makes a subset for each of its parts, and the whole last
    manifests = sorted(store.glob("subset/*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    return cost, manifests[-1].with_name("subset.npy")


def upstream(command: str, name: str, root: Path, folder: Path, workers: int) -> tuple[Cost, Path]:
    """One run of upstream's script: what it took, and the subset."""
    save = folder / "upstream.npy"
    baseline, *flags = FILTERS[name].format(workers=workers).split()
    words = [baseline, str(root / "metadata"), str(save), *flags, "--num_workers", str(workers)]
    return measured([*shlex.split(command), *words], folder), save


def compared(name: str, root: Path, args: argparse.Namespace) -> tuple[dict[str, list[Cost]], bool]:
    """The costs of ours and of upstream, taking turns, and whether they wrote the same bytes every time."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    identical = True
    for repeat in range(args.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            cost, subset = ours(name, root, folder, args.workers, args.ours.get(name, []))
            costs["ours"].append(cost)
            if args.upstream:
                cost, theirs = upstream(args.upstream, name, root, folder, args.workers)
                costs["upstream"].append(cost)
                identical &= filecmp.cmp(subset, theirs, shallow=False)
        for who, taken in costs.items():
            print(f"{name:<26} {repeat + 1}/{args.repeats} {who:<8} {taken[-1]}", file=sys.stderr, flush=True)
    return costs, identical


def row_of(name: str, rows: int, costs: dict[str, list[Cost]], identical: bool) -> list[str]:
    """A line of the table, under ``HEAD``: medians, and upstream's as multiples of ours."""
    same = ("yes" if identical else "no") if "upstream" in costs else ""
    wall, mib = ({who: [getattr(cost, what) for cost in costs[who]] for who in costs} for what in ("wall", "mib"))
    return [f"`{name}`", f"{rows:,}", *versus(wall, digits=2), *versus(mib, digits=0), same]


def versus(values: dict[str, list[float]], digits: int) -> list[str]:
    """Three cells: the median of ours, that of upstream, and upstream's as a multiple of ours."""
    medians = {who: statistics.median(each) for who, each in values.items()}
    cells = [f"{median:,.{digits}f}" for median in medians.values()]
    return [*cells, f"{medians['upstream'] / medians['ours']:.1f}×"] if "upstream" in medians else [*cells, "", ""]


def overrides_of(words: list[str]) -> dict[str, list[str]]:
    """``NAME:key=value,key=value`` as a filter's own words for dcexp."""
    found: dict[str, list[str]] = defaultdict(list)
    for word in words:
        name, _, values = word.partition(":")
        if name not in FILTERS or not values:
            raise SystemExit(f"--ours {word}: wanted NAME:key=value,… with NAME one of {', '.join(FILTERS)}")
        found[name] += values.split(",")
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="+", choices=list(FILTERS), metavar="filter", help=", ".join(FILTERS))
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of both")
    parser.add_argument("--upstream", default="", help="a command that runs upstream's baselines.py; without it, ours")
    parser.add_argument("--ours", action="append", default=[], metavar="NAME:key=value,…", help="more words for dcexp")
    parser.add_argument("--pool", type=Path, help="keep the synthetic pool here, and use it again")
    args = parser.parse_args()
    args.ours = overrides_of(args.ours)
    return args


def main() -> None:
    args = arguments()
    chosen = set(args.filters)
    features = any(name.startswith("image_based") for name in chosen)
    with tempfile.TemporaryDirectory() as scratch:
        root = (args.pool or Path(scratch) / "pool").resolve()
        Synthetic(rows=args.rows, text=not chosen <= WITHOUT_TEXT, features=features).write(root)
        lines, different = [HEAD, ["---", *["---:"] * (len(HEAD) - 2), "---"]], []
        for name in args.filters:
            costs, identical = compared(name, root, args)
            lines.append(row_of(name, args.rows, costs, identical))
            different += [] if identical else [name]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if different:
        raise SystemExit(f"not the same bytes as upstream: {', '.join(different)}")


if __name__ == "__main__":
    main()
