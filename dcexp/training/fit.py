"""One rank of a training: builds everything, goes on where an earlier attempt stopped, and trains to the end."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

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
from dcexp.training.trainer import cpu_threads, quiet_lightning, ranks_here, trainer


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
