"""How near the filters by features come to a plain matrix product, and what memory they take.

    python benchmarks/feature_filters.py                        # negCLIPLoss and NormSim, on a GPU where there is one
    python benchmarks/feature_filters.py --rows 32768 --targets 10000 --repeats 3
    python benchmarks/feature_filters.py --memory               # at a quarter of the rows and at all of them

A rate is that of the products that the definition asks for, 2 FLOPs for a multiply-add: rows x batch x width for
negCLIPLoss (rows a multiple of the batch, one draw; the score of a whole file: looking for rows without a direction,
drawing batches and bringing rows to length 1 count), rows x targets x width for NormSim with p = infinity. The plain
product is of the same size, float32 by float32, 2048 targets or texts at a time, whose outcome is thrown away. They
take turns, and the table shows medians; the share by CPU time says more on a busy machine, and nothing on a GPU.
Features are float16, as CommonPool's. Memory is the peak of a process of its own (RSS), less what it held before it
began, features included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PIECE = 2048
HEAD = ("", "rows", "plain GFLOP/s", "ours GFLOP/s", "share", "lowest", "highest", "share by CPU time")
METHODS = ("neg_clip_loss", "norm_sim")


def features(seed: int, rows: int, width: int) -> Any:
    """Random rows of length about 1, float16."""
    rng = np.random.default_rng(seed)
    made = np.empty((rows, width), np.float16)
    for start in range(0, rows, PIECE):
        made[start : start + PIECE] = rng.standard_normal((min(PIECE, rows - start), width), np.float32) / width**0.5
    return made


def ours(method: str, args: argparse.Namespace, rows: int) -> Callable[[], Any]:
    """The work of a method, ready to start."""
    from dcexp.artifacts.uid import UID
    from dcexp.filters.features import have_direction
    from dcexp.filters.nearest import highest_similarity
    from dcexp.filters.neg_clip_loss import NegClipLoss

    images = features(0, rows, args.width)
    if method == "norm_sim":
        targets = features(1, args.targets, args.width)
        return lambda: highest_similarity(images, targets)
    texts, uids = features(1, rows, args.width), np.arange(2 * rows, dtype=np.uint64).view(UID)
    stage = NegClipLoss(batch=args.batch, draws=1)

    def scored() -> Any:
        whole = have_direction(images) & have_direction(texts)
        return stage.means(images, texts, np.flatnonzero(whole), uids[whole])

    return scored


def plain(method: str, args: argparse.Namespace) -> Callable[[], None]:
    """The products alone: each block of rows with a piece of the targets, or of the texts of its batch, at a time."""
    import torch

    from dcexp.filters.nearest import compute_device
    from dcexp.fp32 import full_fp32

    device = compute_device()
    block = min(args.batch, args.rows)
    columns = block if method == "neg_clip_loss" else args.targets
    left, right = (torch.randn(size, args.width, device=device) for size in (block, columns))

    def product() -> None:
        with torch.inference_mode(), full_fp32():
            for _ in range(args.rows // block):
                for first in range(0, columns, PIECE):
                    torch.mm(left, right[first : first + PIECE].T)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return product


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """How long it takes by the clock, and of all cores together."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def compared(method: str, args: argparse.Namespace) -> list[str]:
    """A line of the table."""
    flops = 2.0 * args.rows * args.width * (min(args.batch, args.rows) if method == "neg_clip_loss" else args.targets)
    works = {"plain": plain(method, args), "ours": ours(method, args, args.rows)}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    if args.warm:
        for work in works.values():
            work()
    for _ in range(args.repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
            print(f"{method:<14} {name:<6} {taken[name][-1][0]:8.3f} s", file=sys.stderr, flush=True)
    rates = [flops / statistics.median(clock for clock, _ in each) / 1e9 for each in taken.values()]
    pairs = list(zip(*taken.values(), strict=True))
    clock, cpu = ([plainly[i] / our[i] for plainly, our in pairs] for i in (0, 1))
    shares = [statistics.median(clock), min(clock), max(clock), statistics.median(cpu)]
    return [f"`{method}`", f"{args.rows:,}", *(f"{rate:,.0f}" for rate in rates), *(f"{share:.0%}" for share in shares)]


def peak_kib() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_of(method: str, args: argparse.Namespace) -> None:
    """One process: what the method takes, in MiB, beyond what Python and torch do."""
    import torch

    torch.randn(64, 64) @ torch.randn(64, 64)
    before = peak_kib()
    ours(method, args, args.rows)()
    print(json.dumps((peak_kib() - before) / 1024))


def memory(args: argparse.Namespace) -> None:
    """Print the memory of both methods at two sizes."""
    print("| | rows | features MiB | peak MiB |\n|---|---:|---:|---:|")
    for method in METHODS:
        for rows in (args.rows // 4, args.rows):
            words = [f"--{name}={getattr(args, name)}" for name in ("width", "batch", "targets")]
            command = [sys.executable, __file__, f"--one={method}", f"--rows={rows}", *words]
            peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            held = 2 * args.width * (2 * rows if method == "neg_clip_loss" else rows + args.targets) / 2**20
            print(f"| `{method}` | {rows:,} | {held:,.0f} | {peak:,.0f} |", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--targets", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="run everything once before it is timed (on a GPU)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.one:
        memory_of(args.one, args)
    elif args.memory:
        memory(args)
    else:
        lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *(compared(method, args) for method in args.methods)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
