"""Time what a user waits for: ``plan``, a first run, and the same run again; and the point of the benchmark itself.

    python benchmarks/commands.py            # plan and runs, median of 5 (first runs: once each)
    python benchmarks/commands.py --seeds 3  # the accuracy of filter=clip_score against filter=none over seeds

Each command is a process of its own, timed from start to exit, in a fresh folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(words: str, folder: Path, times: int = 1) -> float:
    """Median wall time of ``python -m dcexp words`` over ``times`` processes."""
    taken = []
    for _ in range(times):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "dcexp", *words.split()], cwd=folder, check=True, capture_output=True)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def accuracies(folder: Path) -> dict[str, list[float]]:
    """Zero-shot top-1 of every result in the store of ``folder``, by the filter's class."""
    found: dict[str, list[float]] = {}
    for path in folder.glob("outputs/store/result/*/manifest.json"):
        subset = json.loads(path.read_text())["lineage"]["inputs"]["checkpoint"]["inputs"]["shards"]["inputs"]["subset"]
        metrics = json.loads((path.parent / "result.json").read_text())["metrics"]
        found.setdefault(subset["stage"]["name"].split("/")[-1], []).append(metrics["acc1"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=0)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if seeds:
            chosen = ",".join(map(str, range(seeds)))
            seconds(f"-m filter=none,clip_score seed={chosen} tracker=none", folder)
            for filter_name, values in accuracies(folder).items():
                mean = statistics.mean(values)
                print(f"{filter_name:<20} {100 * mean:.1f} ± {100 * statistics.stdev(values):.1f}  {values}")
            return
        print(f"--help               {seconds('--help', folder, 5):6.2f} s")
        print(f"plan                 {seconds('plan', folder, 5):6.2f} s")
        print(f"plan scale=medium    {seconds('plan scale=medium', folder, 5):6.2f} s")
        print(f"run filter=none      {seconds('filter=none', folder):6.2f} s")
        print(f"run filter=clip_score{seconds('filter=clip_score', folder):6.2f} s")
        print(f"the same run again   {seconds('filter=clip_score', folder, 5):6.2f} s")


if __name__ == "__main__":
    main()
