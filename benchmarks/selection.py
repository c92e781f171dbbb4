"""Time selection: metadata to subset.npy, for ``none`` and ``clip_score``.

    python benchmarks/selection.py 12800000             # a synthetic pool of that many rows, as 26 files
    python benchmarks/selection.py 1280000 --workers 1

Each line is a process of its own, from start to exit: "pool" indexes the pool and selects, as a first run does;
"select" finds the pool indexed, as any later filter does. Peak memory is the sum over all its processes (RSS).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

PROGRAM = """
import sys
from dcexp.engines.local import Local
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.none import NoFilter
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
if __name__ == "__main__":
    root, store, name, workers = sys.argv[1:]
    pool = CommonPool(root=root).step()
    stages = {"none": NoFilter(), "clip_score": ClipScoreFraction(fraction=0.3), "index": None}
    step = stages[name].step(pool) if stages[name] else pool
    Store(root=store).build(step, Local(workers=int(workers)))
"""


def write_metadata(folder: Path, rows: int, files: int = 26) -> None:
    """Parquet files with the columns of CommonPool that selection reads, and the text beside them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        digits = np.frombuffer(rng.bytes(16 * len(part)).hex().encode(), dtype="S32").astype(str)
        columns = {"uid": digits, "text": [f"a caption for the picture {i}" for i in part]}
        columns |= {f"clip_{arch}_similarity_score": rng.normal(0.2, 0.06, len(part)) for arch in ("b32", "l14")}
        pq.write_table(pa.table(columns), folder / f"{number:08d}.parquet")


def cpu_seconds() -> float:
    """CPU time of all processes that have ended: on a busy machine it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(words: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a process and its children."""
    started, used, peak = time.monotonic(), cpu_seconds(), 0
    process = psutil.Popen([sys.executable, *words])
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return time.monotonic() - started, cpu_seconds() - used, peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the synthetic pool here, and use it again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "program.py"
        program.write_text(PROGRAM)
        root = args.folder or Path(name) / "pool"
        if not root.exists():
            write_metadata(root / "metadata", args.rows)
        for filter_name in ("none", "clip_score"):
            for what in ("pool", "select"):
                store = str(Path(name) / f"{what}-{filter_name}")
                if what == "select":
                    measured([str(program), str(root), store, "index", str(args.workers)])
                wall, cpu, peak = measured([str(program), str(root), store, filter_name, str(args.workers)])
                title = f"{args.rows:>11,} rows  {filter_name:<11} {what:<7}"
                print(f"{title} {wall:6.2f} s wall {cpu:6.2f} s CPU {peak:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
