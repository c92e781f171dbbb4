"""How well training uses a GPU, beside open_clip's own loop.

    python benchmarks/gpu.py --batch 1024 --steps 50                    # ViT-B-32, amp_bf16, no data read
    python benchmarks/gpu.py --batch 1024 --shards /data/small --workers 14
    python benchmarks/gpu.py --model ViT-tiny-8 --batch 64 --steps 10   # does it run? on a CPU too

Contestants: ``device``, uint8 batches that lie on the device already; ``pinned``, uint8 batches from pinned memory
(needs CUDA); ``loader``, tars of ``--shards`` through the whole loader; ``reference``, ``train_one_epoch`` on float32
batches from pageable memory, as open_clip's loader gives them. The first three run in dcexp's trainer with all its
callbacks. Each run is a process of its own; they take turns, and the table shows medians. The first steps of a run are
left out. Memory is what torch allocated at most (on a CPU, the peak of the process). ``wait`` is the share of the time
that training waited for its data, ``x ref`` the rate as a multiple of the reference's.

MFU is model FLOPs over peak FLOPs. The model's FLOPs of a sample are 3 x forward: once forward, twice backward; what
gradient checkpointing and accumulation compute again does not count. With 2 FLOPs for a multiply-add,

    forward = 2 (V + T + C)
    tower(layers L, width d, tokens t) = L (12 t d^2 + 2 t^2 d)   # qkv, out, MLP of 4 d; scores and values
    V = tower(image) + patches * 3 p^2 d + d e                    # t = patches + 1, patch side p, embedding e
    T = tower(text) + d e                                         # the causal mask is not taken off
    C = batch * e                                                 # one row of logits

which for ViT-B-32 is V + T = 7.39e9; DataComp (arXiv:2304.14108), Table 14, has 7.4e9. Peaks are those of dense bf16
products without sparsity. For other devices, or another precision, give --peak-tflops.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from training import BUILT, Ours, Work, add_work, device, own_process, peak_mib, train_transform

PEAKS = {  # TFLOPS of dense bf16 or fp16 products; the first that the device's name contains
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 4090": 165.0,
    "V100": 125.0,
    "T4": 65.0,
}
HALF = ("amp", "amp_bf16", "bf16", "fp16")
CONTESTANTS = ("device", "pinned", "loader", "reference")
HEAD = ("", "samples/s", "x ref", "step ms", "MFU", "MiB", "wait")


class Outcome(NamedTuple):
    """Seconds of a step, of which ``waited`` for data, and the most memory."""

    seconds: float
    waited: float
    mib: float


def forward_flops(model: str, batch: int) -> float:
    """FLOPs of one sample's forward pass in a batch; see the top of this file."""
    import open_clip

    from dcexp.model import tokenizer

    tokenizer(model)  # open_clip then knows our models too
    config = open_clip.get_model_config(model)
    image, text, embedding = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    patches = (image["image_size"] // image["patch_size"]) ** 2
    into = patches * 3 * image["patch_size"] ** 2 * image["width"]
    out = (image["width"] + text["width"] + batch) * embedding
    towers = tower(image["layers"], image["width"], patches + 1)
    towers += tower(text["layers"], text["width"], text["context_length"])
    return 2.0 * (towers + into + out)


def tower(layers: int, width: int, tokens: int) -> int:
    """Multiply-adds of a transformer on one sequence."""
    return layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


def peak_tflops(args: argparse.Namespace) -> float:
    """What the device can do at most; 0 where it is not known."""
    import torch

    if args.peak_tflops or args.precision not in HALF or not torch.cuda.is_available():
        return args.peak_tflops
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), 0.0)


def one(args: argparse.Namespace) -> None:
    """One run of one contestant, in this process."""
    work = Work.of(args)
    work.prepare()
    side = BUILT["reference" if args.one == "reference" else "ours"](work)
    if args.compile and args.one != "reference":
        side.module.clip.compile()  # as ``train.compile`` does
    with closing(batches_of(args.one, side, args)) as batches:  # a loader that is left open keeps its workers waiting
        feed = side.run(batches)
    print(json.dumps(Outcome(feed.seconds, feed.waited, peak_mib())))


def batches_of(who: str, side: Any, args: argparse.Namespace) -> Generator[Any, None, None]:
    """The batches of a contestant, as many as it wants."""
    if who == "loader":
        yield from through_loader(side, args)
        return
    batches = side.batches()
    if who == "device":
        batches = [b._replace(images=b.images.to(device()), texts=b.texts.to(device())) for b in batches]
    yield from itertools.cycle(batches)


def through_loader(side: Ours, args: argparse.Namespace) -> Iterator[Any]:
    """Batches out of tars; raises SystemExit when there is nothing in them."""
    import open_clip

    from dcexp.model import tokenizer
    from dcexp.training.data import Interval, base_seed
    from dcexp.training.images import halves
    from dcexp.training.reading import NoSamples, ShardList

    tars = tuple(sorted(map(str, args.shards.resolve().rglob("*.tar"))))
    size = open_clip.get_model_config(args.model)["vision_cfg"]["image_size"]
    interval = Interval(
        shards=ShardList(places=tars, sizes=(0,) * len(tars)),
        crop=halves(train_transform(size))[0],
        tokenize=tokenizer(args.model),
        batch_size=side.work.batch // side.work.accumulate,
        batches=side.work.micro_batches + 2 * args.workers,
        seed=base_seed(0, 0),
        index=0,
        workers=args.workers,
    )
    for number, batch in enumerate(interval.loader(pin_memory=device() == "cuda")):
        if isinstance(batch, NoSamples):
            raise SystemExit(str(batch))
        if number >= 2 * args.workers:  # those before it may have been made in the time that the start took
            yield batch


def line(who: str, outcomes: list[Outcome], reference: list[Outcome], flops: float, args: argparse.Namespace) -> str:
    """A line of the table, under ``HEAD``: medians. ``flops`` of a sample are 0 where MFU cannot be told."""
    seconds, waited, mib = (statistics.median(values) for values in zip(*outcomes, strict=True))
    rate, peak = args.batch / seconds, peak_tflops(args)
    ratios = [b.seconds / a.seconds for a, b in zip(outcomes, reference, strict=True)] if reference else []
    times = f"{statistics.median(ratios):.2f}" if ratios else ""
    mfu = f"{rate * flops / peak / 1e12:.1%}" if peak else "?"
    cells = (who, f"{rate:,.1f}", times, f"{1e3 * seconds:,.1f}", mfu, f"{mib:,.0f}", f"{waited / seconds:.1%}")
    return f"| {' | '.join(cells)} |"


def check(args: argparse.Namespace) -> None:
    """Exit when something is asked for that is not to be had."""
    cuda = Work.of(args).prepare() == "cuda"
    if not args.who:
        args.who = [who for who in CONTESTANTS if (who != "pinned" or cuda) and (who != "loader" or args.shards)]
    if "pinned" in args.who and not cuda:
        raise SystemExit("pinned: pinned memory needs a CUDA device, and there is none")
    if "loader" in args.who and not args.shards:
        raise SystemExit("loader: name a folder of tars with --shards (`training.py make FOLDER` makes some)")
    if args.shards and not any(args.shards.rglob("*.tar")):
        raise SystemExit(f"--shards {args.shards}: no tars there; `training.py make {args.shards}` makes some")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_work(parser, batch=256, precision="amp_bf16", steps=30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--who", nargs="+", choices=CONTESTANTS, help="all that can run here unless told")
    parser.add_argument("--shards", type=Path, help="a folder of tars, for the loader")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="of the loader")
    parser.add_argument("--compile", action="store_true", help="ours as train.compile=true makes it")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="what the device can do, in this precision")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.one:
        one(args)
        return
    check(args)
    words = [*Work.of(args).words, "--workers", str(args.workers)]
    words += ["--shards", str(args.shards.resolve())] if args.shards else []
    words += ["--compile"] if args.compile else []
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for run in range(args.runs):
        for who in args.who:
            outcomes[who].append(Outcome(*own_process(*words, "--one", who, script=__file__)))
            print(f"{run + 1}/{args.runs}  {who:<10} {outcomes[who][-1]}", file=sys.stderr, flush=True)
    flops = 3 * forward_flops(args.model, args.batch)
    print(f"{args.model}, {args.precision}, batch {args.batch} in {args.accumulate}, {described()}, ", end="")
    print(f"medians of {args.runs} runs of {args.steps} steps, {flops / 1e9:.2f} GFLOPs a sample\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' + '---:|' * (len(HEAD) - 1)}")
    for who, those in outcomes.items():
        print(line(who, those, outcomes.get("reference", []), flops, args))


def described() -> str:
    """The device and what is taken for its peak."""
    import torch

    if not torch.cuda.is_available():
        return f"CPU with {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
