"""Time training beside open_clip's own: the optimizer step, and the loader.

    python benchmarks/training.py step --batch 32 --precision amp_bf16 --steps 5 --runs 3
    python benchmarks/training.py step --model ViT-tiny-8 --batch 128 --accumulate 2 --steps 40
    python benchmarks/training.py make /data/small --samples 6000
    python benchmarks/training.py loader /data/small --workers 1 2 --runs 5

``step``: the trainer and callbacks of dcexp's ``fit``, all but the writing of checkpoints, against open_clip's
``train_one_epoch``, on the same model, precision and random batches, in one process, taking turns. Each gets batches
as its loader gives them: ours uint8, which the step normalises (pinned on CUDA), theirs float32, ready. The first
steps of every run are left out. Ratios are medians over pairs of runs that follow each other; on a busy machine the
ratio of CPU time, with ``--threads 1``, says more than the clock's. Peak memory (RSS on a CPU, torch's own count on
CUDA) is that of a process of its own for each side, with two batches in it.

``loader``: samples a second from the same tars, without the start (workers start, the buffers fill as far as the
first batch wants). Contestants: ``ours``; ``normalized``, ours plus the normalising in the main process, which ends
with the very tensors that the reference gives; ``reference``, the loader of ``open_clip_train.data`` with
``dataset_resampled``, which needs the old webdataset of ``make open-clip``; and ``decode``, Pillow, the transform and
the tokenizer in one process without any loader. Each run is a process; they take turns. Memory is the peak of all its
processes together (RSS; a page that two share counts twice). Captions of a small pool come again sooner than those of
a large one, and ours remembers their token ids: ``decode`` says what a caption costs.

Each run goes to stderr, the results to stdout.
"""

import argparse
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from resharding import Tarred, measured

if TYPE_CHECKING:
    from dcexp.training.laps import DataWait

SCALES = {"ViT-tiny-8": "tiny", "ViT-B-32": "small", "ViT-B-16": "large", "ViT-L-14": "xlarge"}
WARM_UP = 2  # steps of a run that are left out
SIDES = ("ours", "reference")
CONTESTANTS = ("ours", "normalized", "reference", "decode")
DECODED = 400  # samples that ``decode`` takes
OPEN_CLIP = Path(".venv/open-clip")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides train: a batch of ``batch`` samples in ``accumulate`` micro-batches, ``steps`` steps a run."""

    model: str
    batch: int
    accumulate: int
    precision: str
    steps: int
    threads: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Work":
        if args.batch % args.accumulate:
            raise SystemExit(f"--batch {args.batch} cannot be split into --accumulate {args.accumulate} micro-batches")
        return cls(**{name: getattr(args, name) for name in cls.__dataclass_fields__})

    @property
    def words(self) -> list[str]:
        """This work as arguments of a command."""
        return [word for name in self.__dataclass_fields__ for word in (f"--{name}", str(getattr(self, name)))]

    @property
    def micro_batches(self) -> int:
        """Of a run, warm-up and all."""
        return (self.steps + WARM_UP) * self.accumulate

    def prepare(self) -> str:
        """Set threads and what open_clip sets on CUDA; the device's type. SystemExit when the hardware is not there."""
        import torch

        from dcexp.training.precision import require_hardware

        try:
            require_hardware(self.precision)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        return device()

    def batches(self, count: int = 2) -> list[Any]:
        """Random micro-batches, as ours takes them."""
        import open_clip
        import torch

        from dcexp.model import tokenizer
        from dcexp.training.batch import Batch

        length = tokenizer(self.model)("a").shape[1]  # so that open_clip knows our models too
        side = open_clip.get_model_config(self.model)["vision_cfg"]["image_size"]
        size, generator = self.batch // self.accumulate, torch.Generator().manual_seed(0)
        return [
            Batch(
                torch.randint(0, 256, (size, side, side, 3), generator=generator, dtype=torch.uint8),
                torch.randint(1, 49407, (size, length), generator=generator),
            )
            for _ in range(count)
        ]


class Feed:
    """Gives the micro-batches of a run, and takes the time from the end of the warm-up on.

    Lightning asks for one batch more than it works on, at the beginning as at the end, so the same number of steps
    lies between the two points in time on either side. Plays open_clip's ``data`` too.
    """

    def __init__(self, work: Work, batches: Iterable[Any], wait: "DataWait") -> None:
        self._work, self._batches, self._wait = work, batches, wait
        self.seconds = self.cpu = self.waited = 0.0  # a step
        self.num_batches, self.num_samples = work.micro_batches, work.micro_batches * work.batch // work.accumulate
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on it here."""

    def __iter__(self) -> Iterator[Any]:
        batches, started, used, before = iter(self._batches), 0.0, 0.0, 0.0
        for number in range(self._work.micro_batches):
            if number == WARM_UP * self._work.accumulate:
                started, used, before = now(), time.process_time(), self._wait.seconds
            with self._wait.timed():
                batch = next(batches)
            yield batch
        self.seconds = (now() - started) / self._work.steps
        self.cpu = (time.process_time() - used) / self._work.steps
        self.waited = (self._wait.seconds - before) / self._work.steps


def device() -> str:
    """``cuda`` or ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """The time when everything that was asked of the device is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Ours:
    """dcexp's training."""

    def __init__(self, work: Work) -> None:
        import open_clip

        from dcexp.model import build_model
        from dcexp.scale import PUBLISHED, locked
        from dcexp.training.images import halves
        from dcexp.training.module import ClipTraining
        from dcexp.training.precision import grad_scaler

        self.work, self.scale = work, locked(name=SCALES[work.model], **PUBLISHED[SCALES[work.model]])
        clip, transform = build_model(work.model, work.precision, 0)
        clip.set_grad_checkpointing()
        self.module = ClipTraining(
            clip,
            open_clip.ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True),
            grad_scaler(work.precision, device()),
            halves(transform)[1],
            scale=self.scale,
            precision=work.precision,
            accumulate=work.accumulate,
        )

    def batches(self) -> list[Any]:
        """Some micro-batches as our loader gives them."""
        batches = self.work.batches()
        if device() == "cpu":
            return batches
        return [b._replace(images=b.images.pin_memory(), texts=b.texts.pin_memory()) for b in batches]

    def run(self, batches: Iterable[Any]) -> Feed:
        """Train on them for as many steps as the work has: how long that took."""
        from dcexp.training.laps import DataWait
        from dcexp.training.trainer import quiet_lightning, trainer

        wait, self.module.step = DataWait(), 0
        feed = Feed(self.work, batches, wait)
        with tempfile.TemporaryDirectory() as folder, quiet_lightning():
            trainer(1, 1, self._callbacks(Path(folder), wait)).fit(self.module, feed)
        return feed

    def _callbacks(self, out: Path, wait: "DataWait") -> list[Any]:
        """Those of ``fit``; no checkpoint is written, which would be after the last step."""
        from dcexp.training.curve import Curve
        from dcexp.training.finite import Finite
        from dcexp.training.progress import StepProgress
        from dcexp.training.ranks import Ranks
        from dcexp.training.snapshot import Keeper
        from dcexp.training.stop import Stop

        class Unsaved(Keeper):
            def on_train_epoch_end(self, *_: Any) -> None:
                pass

        finite, ranks, steps = Finite(), Ranks(0, 1), self.work.steps + WARM_UP
        curve = Curve(
            out / "metrics.jsonl",
            ends=[steps],
            batch_size=self.work.batch,
            log_every=100,
            corrupt=0,
            finite=finite,
            progress=StepProgress(steps, 0, shown=True),
            ranks=ranks,
            wait=wait,
        )
        keeper = Unsaved(out, scale=self.scale, seed=0, curve=curve, ranks=ranks, positions={})
        return [finite, curve, keeper, Stop(keeper, ranks)]


class Reference:
    """open_clip's loop."""

    def __init__(self, work: Work) -> None:
        import open_clip
        import torch

        from dcexp.model import build_model
        from dcexp.scale import PUBLISHED, Recipe
        from dcexp.training.images import halves

        self.work, recipe = work, Recipe(**PUBLISHED[SCALES[work.model]]["recipe"])
        clip, transform = build_model(work.model, work.precision, 0)
        clip.set_grad_checkpointing()
        self.clip, self.normalize = clip.to(device()), halves(transform)[1]
        self.args = argparse.Namespace(
            model=work.model, precision=work.precision, accum_freq=work.accumulate, device=device(), distill=False,
            batch_size=work.batch // work.accumulate, skip_scheduler=False, grad_clip_norm=None, log_every_n_steps=100,
            world_size=1, rank=0, local_rank=0, wandb=False, horovod=False, distributed=False, siglip=False,
            local_loss=True, gather_with_grad=True,
        )  # fmt: skip
        self.recipe, self.loss = recipe, open_clip.create_loss(self.args)
        self.scaler = torch.amp.GradScaler(device()) if work.precision == "amp" else None

    def batches(self) -> list[Any]:
        """Some micro-batches as open_clip's loader gives them."""
        return [(self.normalize(batch.images), batch.texts) for batch in self.work.batches()]

    def run(self, batches: Iterable[Any]) -> Feed:
        """Train on them for as many steps as the work has: how long that took."""
        from open_clip_train.scheduler import cosine_lr
        from open_clip_train.train import train_one_epoch

        from dcexp.training.laps import DataWait
        from dcexp.training.optimizer import adamw

        feed, optimizer = Feed(self.work, batches, DataWait()), adamw(self.clip, self.recipe)
        schedule = cosine_lr(optimizer, self.recipe.lr, self.recipe.warmup, self.work.steps + WARM_UP)
        train_one_epoch(self.clip, {"train": feed}, self.loss, 0, optimizer, self.scaler, schedule, None, self.args)
        return feed


BUILT: dict[str, Callable[[Work], Any]] = {"ours": Ours, "reference": Reference}


def peak_mib() -> float:
    """The most memory this process has held: torch's on CUDA, all of it on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def own_process(*words: str, script: str = __file__) -> Any:
    """The last line that a verb of ``script`` says, run as a process of its own."""
    ran = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{ran.stderr[-3000:]}\nfailed ({ran.returncode}): {' '.join(words)}")
    return json.loads(ran.stdout.splitlines()[-1])


def step(args: argparse.Namespace) -> None:
    """The verb ``step``."""
    work = Work.of(args)
    work.prepare()
    memory = {side: own_process("memory", side, *replace(work, steps=2).words)["mib"] for side in SIDES}
    sides = {side: BUILT[side](work) for side in SIDES}
    batches = {side: sides[side].batches() for side in SIDES}
    runs: dict[str, list[Feed]] = {side: [] for side in SIDES}
    for run in range(args.runs):
        for side in SIDES:
            runs[side].append(sides[side].run(itertools.cycle(batches[side])))
        said = "  ".join(f"{side} {runs[side][-1].seconds:.4f} s ({runs[side][-1].cpu:.4f} CPU)" for side in SIDES)
        print(f"{run + 1}/{args.runs}  {said}", file=sys.stderr, flush=True)
    print(
        f"{work.model}, {work.precision}, batch {work.batch} in {work.accumulate}, {device()}, {work.threads} threads, "
        f"{args.runs} runs of {work.steps} steps"
    )
    for side in SIDES:
        seconds, cpu = (statistics.median(getattr(feed, what) for feed in runs[side]) for what in ("seconds", "cpu"))
        print(f"{side:<10} {seconds:.4f} s a step ({cpu:.4f} CPU)  {memory[side]:,.0f} MiB")
    print(
        f"ratio      {ratio(runs, 'seconds')}, CPU {ratio(runs, 'cpu')}, "
        f"memory {memory['ours'] / memory['reference']:.3f}"
    )


def ratio(runs: dict[str, list[Feed]], what: str) -> str:
    """Ours over the reference's: the median of the pairs and their range."""
    pairs = zip(runs["ours"], runs["reference"], strict=True)
    ratios = [getattr(ours, what) / getattr(theirs, what) for ours, theirs in pairs]
    return f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"


def memory(args: argparse.Namespace) -> None:
    """The verb ``memory``: one side alone."""
    work = Work.of(args)
    work.prepare()
    side = BUILT[args.side](work)
    side.run(itertools.cycle(side.batches()))
    print(json.dumps({"mib": peak_mib()}))


class Rate(NamedTuple):
    """Samples a second, and the milliseconds of CPU time that all processes together take for one."""

    samples: float
    cpu: float


def cpu_of_tree() -> float:
    """CPU seconds of this process and its children."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


class Loaded(NamedTuple):
    """A run of a loader: its rate, and the most MiB that all processes of it held."""

    samples: float
    cpu: float
    mib: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """A run of a loader: ``batches`` of ``batch`` samples each of ``workers`` gives, after its first two."""

    tars: list[str]
    batch: int
    batches: int
    workers: int
    seed: int

    @property
    def total(self) -> int:
        """Batches in all."""
        return (self.batches + 2) * self.workers

    def rate(self, loader: Iterable[Any], see: Callable[[Any], object] = lambda batch: None) -> Rate:
        """The rate of a loader whose batches are ``see``-n."""
        batches = iter(loader)
        for _ in range(2 * self.workers):
            see(next(batches))
        started, used = time.perf_counter(), cpu_of_tree()
        for _ in range(self.batches * self.workers):
            see(next(batches))
        samples = self.batches * self.workers * self.batch
        return Rate(samples / (time.perf_counter() - started), 1e3 * (cpu_of_tree() - used) / samples)

    def ours(self) -> Rate:
        return self.rate(self._ours())

    def normalized(self) -> Rate:
        import torch

        from dcexp.training.images import halves

        torch.set_num_threads(1)
        normalize = halves(train_transform())[1]
        return self.rate(self._ours(), lambda batch: normalize(batch.images))

    def _ours(self) -> Iterable[Any]:
        from dcexp.model import tokenizer
        from dcexp.training.data import Interval, base_seed
        from dcexp.training.images import halves
        from dcexp.training.reading import ShardList

        interval = Interval(
            shards=ShardList(places=tuple(self.tars), sizes=(0,) * len(self.tars)),
            crop=halves(train_transform())[0],
            tokenize=tokenizer("ViT-B-32"),
            batch_size=self.batch,
            batches=self.total,
            seed=base_seed(self.seed, 0),
            index=0,
            workers=self.workers,
        )
        return interval.loader(pin_memory=False)

    def reference(self) -> Rate:
        import torch
        import webdataset
        from open_clip_train.data import get_wds_dataset

        from dcexp.model import tokenizer

        if not webdataset.__version__.startswith("0.2."):
            raise SystemExit(f"open_clip's loader does not work with webdataset {webdataset.__version__}: --open-clip")
        torch.manual_seed(self.seed)
        args = argparse.Namespace(
            train_data="::".join(self.tars), train_num_samples=self.total * self.batch, dataset_resampled=True,
            train_data_upsampling_factors=None, batch_size=self.batch, workers=self.workers, world_size=1, rank=0,
            seed=self.seed,
        )  # fmt: skip
        info = get_wds_dataset(args, train_transform(), is_train=True, epoch=0, tokenizer=tokenizer("ViT-B-32"))
        return self.rate(info.dataloader)

    def decode(self) -> Rate:
        """What one core can do: neither tars nor processes nor batches. Says what the parts take."""
        import torch
        from PIL import Image

        from dcexp.model import tokenizer

        def opened(content: bytes) -> Image.Image:
            image = Image.open(io.BytesIO(content))
            image.load()
            return image.convert("RGB")

        torch.set_num_threads(1)
        values, texts = some_samples(self.tars, DECODED)
        files, tokenize = len(values), tokenizer("ViT-B-32")
        stages, seconds, used = train_transform().transforms, [], time.process_time()
        for part in (opened, *stages):
            started = time.perf_counter()
            values = [part(value) for value in values]
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        for text in texts:
            tokenize(text)
        seconds.append(time.perf_counter() - started)
        used = time.process_time() - used
        names = ("JPEG", *(type(stage).__name__ for stage in stages), "tokenizer")
        said = ", ".join(f"{name} {1e3 * took / files:.2f}" for name, took in zip(names, seconds, strict=True))
        print(f"decode: milliseconds a sample: {said}", file=sys.stderr)
        return Rate(files / sum(seconds), 1e3 * used / files)


def train_transform(size: int = 224) -> Any:
    """open_clip's image transform for training a ViT on images of ``size``, without building the model."""
    import open_clip

    return open_clip.image_transform(size, is_train=True)


def some_samples(tars: list[str], count: int) -> tuple[list[bytes], list[str]]:
    """Image files and captions of the first samples."""
    files: dict[str, list[bytes]] = defaultdict(list)
    for path in tars:
        with tarfile.open(path) as tar:
            for info in tar:
                content = tar.extractfile(info)
                if content:
                    files[info.name.rpartition(".")[2]].append(content.read())
                if len(files["txt"]) == count:
                    return files["jpg"], [text.decode() for text in files["txt"]]
    return files["jpg"], [text.decode() for text in files["txt"]]


def loader(args: argparse.Namespace) -> None:
    """The verb ``loader``."""
    tars = sorted(map(str, args.folder.resolve().rglob("*.tar")))
    if not tars:
        raise SystemExit(f"no tars in {args.folder}: make them with `training.py make {args.folder}`")
    if "reference" in args.who and not (args.open_clip / "webdataset").is_dir():
        raise SystemExit(f"{args.open_clip} holds no webdataset: `make open-clip`, or --who ours decode")
    for workers in args.workers:
        load = Load(tars=tars, batch=args.batch, batches=args.batches, workers=workers, seed=args.seed)
        runs: dict[str, list[Loaded]] = defaultdict(list)
        for run in range(args.runs):
            for who in args.who:
                runs[who].append(loaded(who, load, args))
                print(f"{run + 1}/{args.runs}  {line(workers, who, runs[who][-1])}", file=sys.stderr, flush=True)
        for who, those in runs.items():
            samples, cpu, mib = (statistics.median(values) for values in zip(*those, strict=True))
            middle = Loaded(samples, cpu, mib)
            print(line(workers, who, middle) + versus(those, runs.get("reference", [])), flush=True)


def loaded(who: str, load: Load, args: argparse.Namespace) -> Loaded:
    """A run of a contestant in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), "load", who, str(args.folder.resolve())]
    words += ["--workers", str(load.workers), "--batch", str(load.batch), "--batches", str(load.batches)]
    if who == "reference":
        path = os.pathsep.join(filter(None, [str(args.open_clip.resolve()), os.environ.get("PYTHONPATH")]))
        words = ["env", f"PYTHONPATH={path}", *words]
    with tempfile.TemporaryDirectory() as folder:
        cost, said = measured([*words, "--seed", str(load.seed)], Path(folder))
    sys.stderr.writelines(line + "\n" for line in said.splitlines() if line.startswith("decode:"))
    rate = Rate(*json.loads(said.splitlines()[-1]))
    return Loaded(rate.samples, rate.cpu, cost["mib"])


def line(workers: int, who: str, run: Loaded) -> str:
    """A run, or the medians of several, in words."""
    rate = f"{run.samples:7.1f} samples/s {run.cpu:6.2f} ms CPU a sample"
    return f"{workers} workers  {who:<10} {rate} {run.mib:6.0f} MiB"


def versus(ours: list[Loaded], reference: list[Loaded]) -> str:
    """How many times the reference's rate ours is, by the clock and by CPU time: medians of pairs."""
    if not reference:
        return ""
    by_clock = statistics.median(a.samples / b.samples for a, b in zip(ours, reference, strict=True))
    by_cpu = statistics.median(b.cpu / a.cpu for a, b in zip(ours, reference, strict=True))
    return f"  {by_clock:.2f}x reference, {by_cpu:.2f}x by CPU time"


def load(args: argparse.Namespace) -> None:
    """The verb ``load``: one run of one contestant."""
    tars = sorted(map(str, args.folder.rglob("*.tar")))
    run = Load(tars=tars, batch=args.batch, batches=args.batches, workers=args.workers, seed=args.seed)
    print(json.dumps(getattr(run, args.who)()))


def make(args: argparse.Namespace) -> None:
    """The verb ``make``."""
    Tarred(samples=args.samples, per_tar=args.per_tar).write(args.folder.resolve(), workers=2)


def add_work(verb: argparse.ArgumentParser, batch: int, precision: str, steps: int) -> None:
    """The arguments that make a ``Work``, with some of their defaults."""
    verb.add_argument("--model", choices=list(SCALES), default="ViT-B-32")
    verb.add_argument("--batch", type=int, default=batch, help="samples of an optimizer step")
    verb.add_argument("--accumulate", type=int, default=1, help="micro-batches of a step")
    verb.add_argument("--precision", choices=["fp32", "amp", "amp_bf16", "bf16", "fp16"], default=precision)
    verb.add_argument("--steps", type=int, default=steps, help=f"of a run, after {WARM_UP} for warming up")
    verb.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch, on the CPU")


def add_load(verb: argparse.ArgumentParser) -> None:
    """The arguments of a loader's run."""
    verb.add_argument("folder", type=Path)
    verb.add_argument("--batch", type=int, default=128)
    verb.add_argument("--batches", type=int, default=12, help="of each worker that are timed, after its first two")
    verb.add_argument("--seed", type=int, default=0)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="step | make | loader")

    verb = verbs.add_parser("step", help="the optimizer step")
    verb.set_defaults(verb=step)
    add_work(verb, batch=32, precision="fp32", steps=5)
    verb.add_argument("--runs", type=int, default=5)

    verb = verbs.add_parser("make", help="tars for the loader")
    verb.set_defaults(verb=make)
    verb.add_argument("folder", type=Path)
    verb.add_argument("--samples", type=int, default=6000)
    verb.add_argument("--per-tar", type=int, default=500)

    verb = verbs.add_parser("loader", help="the loader")
    verb.set_defaults(verb=loader)
    add_load(verb)
    verb.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    verb.add_argument("--runs", type=int, default=5)
    verb.add_argument("--who", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    verb.add_argument("--open-clip", type=Path, default=OPEN_CLIP, help="the old webdataset of `make open-clip`")

    verb = verbs.add_parser("memory")
    verb.set_defaults(verb=memory)
    verb.add_argument("side", choices=SIDES)
    add_work(verb, batch=32, precision="fp32", steps=5)

    verb = verbs.add_parser("load")
    verb.set_defaults(verb=load)
    verb.add_argument("who", choices=CONTESTANTS)
    add_load(verb)
    verb.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.verb(args)


if __name__ == "__main__":
    main()
