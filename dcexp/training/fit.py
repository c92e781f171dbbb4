"""One rank of a training: builds everything, goes on where an earlier attempt stopped, and trains to the end."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from dcexp.artifacts.checkpoint import METRICS
from dcexp.model import build_model, seed_all, tokenizer
from dcexp.scale import Scale
from dcexp.training.batch import Batch
from dcexp.training.curve import Curve, cut
from dcexp.training.data import Interval, base_seed
from dcexp.training.module import ClipTraining
from dcexp.training.precision import grad_scaler, require_hardware
from dcexp.training.progress import StepProgress
from dcexp.training.samples import NoSamples
from dcexp.training.schedule import interval_ends, interval_of
from dcexp.training.snapshot import Keeper, Snapshot, latest


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is told. ``shards`` maps tar paths to sample counts; the rest are the words of ``Train``."""

    out: Path
    shards: Mapping[str, int]
    scale: Scale
    seed: int
    precision: str
    checkpoints: int
    workers: int
    accumulate: int
    log_every: int

    @property
    def ends(self) -> list[int]:
        """The optimizer steps after which the intervals end."""
        return interval_ends(self.scale.steps, self.checkpoints)

    def batch_size(self, ranks: int) -> int:
        """Samples of a micro-batch of one rank."""
        size, rest = divmod(self.scale.recipe.batch_size, ranks * self.accumulate)
        assert not rest, "Train.check refuses this"
        return size


def fit(job: Job) -> None:
    """Train on this rank (RANK, WORLD_SIZE of the environment; alone without them) until all steps are done."""
    job.scale.check()
    require_hardware(job.precision)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    before = latest(job.out)
    if before and before.step == job.scale.steps:
        return
    with cpu_threads(ranks_here(ranks) * (1 + job.workers)):
        _train(job, before, rank, ranks)


def _train(job: Job, before: Snapshot | None, rank: int, ranks: int) -> None:
    if rank == 0:
        cut(job.out / METRICS, before.step if before else 0)
    module, transform = _module(job, rank, ranks, before)
    batches = Intervals(job, module, transform, rank=rank, micro_batch=job.batch_size(ranks))
    with quiet_lightning(), StepProgress(job.scale.steps, module.step, shown=rank == 0) as progress:
        curve = Curve(
            job.out / METRICS,
            ends=job.ends,
            batch_size=job.scale.recipe.batch_size,
            log_every=job.log_every,
            corrupt=before.corrupt if before and rank == 0 else 0,
            progress=progress,
        )
        keeper = Keeper(job.out, scale=job.scale, seed=job.seed, curve=curve)
        left = job.checkpoints - (before.intervals if before else 0)
        trainer(ranks, epochs=left, callbacks=[curve, keeper]).fit(module, batches)


def _module(job: Job, rank: int, ranks: int, before: Snapshot | None) -> tuple[ClipTraining, Any]:
    """The model where it stands, and its image transform. Leaves torch, numpy and random seeded with seed + rank."""
    clip, transform = build_model(job.scale.recipe.model, job.precision, job.seed)
    if before:
        clip.load_state_dict(before.content["state_dict"])
    clip.set_grad_checkpointing()
    loss = open_clip.ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True, rank=rank, world_size=ranks)
    scaler = grad_scaler(job.precision, "cuda" if torch.cuda.is_available() else "cpu")
    if before and "scaler" in before.content:
        scaler.load_state_dict(before.content["scaler"])
    module = ClipTraining(
        clip,
        loss,
        scaler,
        scale=job.scale,
        precision=job.precision,
        accumulate=job.accumulate,
        step=before.step if before else 0,
        optimizer_state=before.content["optimizer"] if before else None,
    )
    seed_all(job.seed + rank)
    return module, transform


class Intervals:
    """The micro-batches of one rank: each iteration is the interval that the module's next step lies in.

    Raises ValueError when the shards give nothing to train on.
    """

    def __init__(self, job: Job, module: ClipTraining, transform: Any, *, rank: int, micro_batch: int) -> None:
        self._job, self._module, self._transform = job, module, transform
        self._tokenize = tokenizer(job.scale.recipe.model)
        self._seed, self._micro_batch = base_seed(job.seed, rank), micro_batch

    def __iter__(self) -> Iterator[Batch]:
        index, start, end = interval_of(self._module.step, self._job.ends)
        interval = Interval(
            shards=self._job.shards,
            transform=self._transform,
            tokenize=self._tokenize,
            batch_size=self._micro_batch,
            batches=(end - start) * self._job.accumulate,
            seed=self._seed,
            index=index,
            workers=self._job.workers,
        )
        for batch in interval.loader(pin_memory=torch.cuda.is_available()):
            if isinstance(batch, NoSamples):
                raise ValueError(f"nothing to train on: {batch}")
            yield batch


def trainer(ranks: int, epochs: int, callbacks: list[Callback]) -> Trainer:
    """A Lightning trainer that only runs the loop: it starts no process, and saves, logs and samples nothing."""
    cuda = torch.cuda.is_available()
    on_this_node = ranks_here(ranks)
    torch.backends.cuda.matmul.allow_tf32 = True
    environment = TorchElasticEnvironment() if ranks > 1 else LightningEnvironment()
    return Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=on_this_node,
        num_nodes=ranks // on_this_node,
        strategy=DDPStrategy(static_graph=False) if ranks > 1 else "auto",
        plugins=[environment],
        max_epochs=epochs,
        callbacks=callbacks,
        benchmark=cuda,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def ranks_here(ranks: int) -> int:
    """How many of the ranks run on this node: LOCAL_WORLD_SIZE, or all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks))


@contextmanager
def cpu_threads(processes: int) -> Iterator[None]:
    """Give this process its share of the cores: torch's threads wait for each other by spinning, so one thread that
    shares its core with a loader worker makes all of them crawl. OMP_NUM_THREADS, where set, is left alone.
    """
    before = torch.get_num_threads()
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Remarks of libraries on hardware, loader workers, missing loggers and their own use of torch help no user."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"open_clip\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
