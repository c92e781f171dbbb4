"""Time evaluation beside upstream's flow, compare their metrics; and how much of a model's speed a whole task keeps.

    python benchmarks/evaluation.py --images 1700 --repeats 3
    python benchmarks/evaluation.py --throughput --images 5000 --repeats 3    # on a GPU if there is one

The first writes generated sets of all families, ``--images`` pictures of about 256 pixels each, and a checkpoint of the
tiny model with random weights, then lets two processes take turns, timed from start to exit: ``upstream_evaluation.py``
and ``python -m dcexp evaluate`` with a fresh store, so that indexing counts. The tiny model costs next to nothing: what
is timed is all that is around it. Memory is the peak sum over all processes (RSS; a page that two share counts twice).
Every metric that both have must differ by less than 1e-6; those that do not are printed. The generated sets have fewer
classes for each image than upstream's; those in tars use a few hundred different pictures in turns.

``--throughput`` is one process: ViT-B-32 with random weights on one set of JPEGs with three templates. ``bare`` is
``encode_image`` on batches of 256 that lie on the device as float32, ``task`` a whole task but for the loading of the
model, ``images`` the same task with the prompts' features known. They take turns, after one unmeasured batch.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selection import Cost, measured

if TYPE_CHECKING:
    from dcexp.artifacts.evalset import ClassSet
    from dcexp.tasks.zeroshot import ZeroShot

REPOSITORY = Path(__file__).resolve().parent.parent
TINY, REAL = "ViT-tiny-8", "ViT-B-32"
SIDE = 256  # pixels, about
BATCH = 256
TOLERANCE = 1e-6
JPEGS = "wds_vtab-caltech101_test"
SHARDS = 1  # of each set: upstream puts 10,000 samples into a tar
TEMPLATES = 80  # at most, as upstream has them

Metrics = dict[str, dict[str, float | None]]  # by task


def generated(root: Path, images: int, **options: Any) -> dict[str, int]:
    """Write sets below ``root``; the number of items by folder."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.tasks.families import write_families

    return write_families(root, images, SHARDS, side=SIDE, **{"templates": TEMPLATES, **options})


def write_checkpoint(folder: Path) -> Path:
    """The tiny model with such random weights that its answers differ between images."""
    from tests.tasks.sets import Untrained

    folder.mkdir()
    Untrained().run(folder, None, seed=0)  # type: ignore[arg-type]
    return folder / "epoch_latest.pt"


def write_conf(folder: Path, items: dict[str, int]) -> None:
    """``tasks=generated``: DataComp's own entries with the numbers of the generated sets."""
    from omegaconf import OmegaConf

    from tests.tasks.families import FAMILIES

    entries = OmegaConf.load(REPOSITORY / "conf" / "tasks" / "datacomp.yaml")
    tasks: dict[str, Any] = OmegaConf.to_container(entries)  # type: ignore[assignment]
    chosen = {name: task for name, task in tasks.items() if task["data"]["folder"] in items}
    assert len(chosen) == len(items), f"wanted an entry for each of {list(items)}, got {list(chosen)}"
    for task in chosen.values():
        task["size"] = items[task["data"]["folder"]]
        if "classes" in task:
            task["classes"] = FAMILIES[task["data"]["folder"]].classes
    (folder / "tasks").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(chosen), folder / "tasks" / "generated.yaml")


def ours(root: Path, folder: Path) -> tuple[Cost, Metrics]:
    """One run of dcexp, and the metrics in its store."""
    words = ["evaluate", "--config-dir", str(root / "conf"), "tasks=generated", f"model={TINY}"]
    words += [f"checkpoint={root / 'checkpoint' / 'epoch_latest.pt'}", f"evalsets={root / 'sets'}"]
    words += [f"store.root={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]
    cost = measured([sys.executable, "-m", "dcexp", *words], folder)
    lines = [json.loads(path.read_text()) for path in folder.glob("store/result/*/result.json")]
    return cost, {line["key"]: line["metrics"] for line in lines}


def upstream(root: Path, folder: Path) -> tuple[Cost, Metrics]:
    """One run of upstream's flow."""
    program, out = Path(__file__).resolve().with_name("upstream_evaluation.py"), folder / "upstream.json"
    words = [str(root / "checkpoint" / "epoch_latest.pt"), TINY, str(root / "sets"), str(out)]
    cost = measured([sys.executable, str(program), *words], folder)
    return cost, json.loads(out.read_text())


def differences(found: Metrics, wanted: Metrics) -> list[str]:
    """Tasks that only one has, and metrics of both that are not the same."""
    said = [f"{key}: only one of the two has it" for key in sorted(found.keys() ^ wanted.keys())]
    for key in sorted(found.keys() & wanted.keys()):
        for name in sorted(found[key].keys() & wanted[key].keys()):
            a, b = (math.nan if value is None else value for value in (found[key][name], wanted[key][name]))
            if not (math.isnan(a) and math.isnan(b)) and not abs(a - b) < TOLERANCE:
                said.append(f"{key} {name}: ours {a:.8f}, upstream {b:.8f}, difference {a - b:+.2g}")
    return said


def compared(root: Path, repeats: int) -> None:
    """Let the two take turns, and print the table of medians and what differs."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    said: set[str] = set()
    metrics = {}
    for repeat in range(repeats):
        for run in (upstream, ours):
            with tempfile.TemporaryDirectory() as scratch:
                cost, metrics[run.__name__] = run(root, Path(scratch))
            costs[run.__name__].append(cost)
            print(f"{repeat + 1}/{repeats} {run.__name__:<8} {cost}", file=sys.stderr, flush=True)
        said |= set(differences(metrics["ours"], metrics["upstream"]))
    print(f"{'':<10}{'upstream':>10}{'ours':>10}{'ratio':>8}")
    for what, title in (("wall", "wall s"), ("cpu", "CPU s"), ("mib", "MiB")):
        theirs, own = (statistics.median(getattr(cost, what) for cost in costs[who]) for who in ("upstream", "ours"))
        print(f"{title:<10}{theirs:>10,.1f}{own:>10,.1f}{theirs / own:>7.1f}×")
    both = {key: metrics["ours"][key].keys() & metrics["upstream"][key].keys() for key in metrics["upstream"]}
    print(
        f"{sum(map(len, both.values()))} metrics of {len(both)} tasks compared, {len(said)} differ",
        *sorted(said),
        sep="\n",
    )


def beside_upstream(images: int, repeats: int) -> None:
    """The comparison of whole evaluations."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        items = generated(root / "sets", images, templates=80)
        write_checkpoint(root / "checkpoint")
        write_conf(root / "conf", items)
        print(f"{sum(items.values()):,} items of {len(items)} tasks", file=sys.stderr, flush=True)
        compared(root, repeats)


def prepared(root: Path, images: int) -> "tuple[Path, ZeroShot, ClassSet]":
    """Random weights of the real model, and a task on a set of JPEGs, indexed."""
    import torch

    from dcexp.artifacts.evalset import ClassSet
    from dcexp.engines.local import Local
    from dcexp.model import build_model
    from dcexp.store import Store
    from dcexp.tasks.evalsets import ClassFolder
    from dcexp.tasks.zeroshot import ZeroShot

    generated(root / "sets", images, only=[JPEGS])
    weights = root / "random.pt"
    torch.save({"state_dict": build_model(REAL, "fp32", seed=0)[0].state_dict()}, weights)
    data = ClassFolder(root=str(root / "sets"), folder=JPEGS)
    evalset = Store(root=str(root / "store")).build(data.step(), Local())
    assert isinstance(evalset, ClassSet)
    classes = len(evalset.classnames)
    task = ZeroShot(key="generated", name="generated", size=images, classes=classes, metric="acc1", data=data)
    return weights, task, evalset


def seconds(work: Callable[[], object]) -> float:
    """The time until all is done that ``work`` asked of the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def throughput(images: int, repeats: int) -> None:
    """Print images a second of the bare model, of a whole task, and of its images alone."""
    import torch

    from dcexp.engines.local import Local
    from dcexp.fp32 import full_fp32
    from dcexp.model import load_model
    from dcexp.tasks.clip import Clip

    with tempfile.TemporaryDirectory() as name:
        weights, task, evalset = prepared(Path(name), images)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(weights, REAL)[0].to(device)
        pixels = [torch.randn(BATCH, 3, 224, 224, device=device) for _ in range(2)]
        batches = -(-images // BATCH)

        def bare(count: int = batches) -> None:
            with torch.inference_mode(), full_fp32():
                for i in range(count):
                    model.encode_image(pixels[i % 2])

        bare(1)
        rates: dict[str, list[float]] = defaultdict(list)
        for repeat in range(repeats):
            clip = Clip(weights, REAL, "parity")
            rates["bare"].append(batches * BATCH / seconds(bare))
            for what in ("task", "images"):  # the second time it knows the prompts
                rates[what].append(images / seconds(partial(task.measure, clip, evalset, Local().workers)))
            those = " ".join(f"{what} {values[-1]:,.1f}" for what, values in rates.items())
            print(f"{repeat + 1}/{repeats} images/s: {those}", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{REAL} on {where}, {images:,} images, fp32")
    for what, values in rates.items():
        share = statistics.median(a / b for a, b in zip(values, rates["bare"], strict=True))
        print(f"{what:<8}{statistics.median(values):>10,.1f} images/s{share:>8.1%} of bare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughput", action="store_true", help="of a real model, instead of the comparison")
    parser.add_argument("--images", type=int, help="of each set: 1700, or 5000 with --throughput")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    if args.throughput:
        throughput(args.images or 5000, args.repeats)
    else:
        beside_upstream(args.images or 1700, args.repeats)


if __name__ == "__main__":
    main()
