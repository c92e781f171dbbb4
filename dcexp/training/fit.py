"""One rank of a training: builds everything, goes on where an earlier attempt stopped, and trains to the end."""

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch

from dcexp.artifacts.checkpoint import METRICS
from dcexp.model import build_model, seed_all
from dcexp.scale import Scale
from dcexp.signals import answered
from dcexp.training.curve import Curve, cut
from dcexp.training.finite import Finite
from dcexp.training.images import Crop, halves
from dcexp.training.intervals import Intervals
from dcexp.training.module import ClipTraining
from dcexp.training.monitor import Monitor, evaluate
from dcexp.training.precision import grad_scaler, require_hardware
from dcexp.training.progress import StepProgress
from dcexp.training.ranks import Ranks
from dcexp.training.reading import ShardList
from dcexp.training.schedule import interval_ends, interval_of
from dcexp.training.snapshot import Keeper, Snapshot, latest
from dcexp.training.stop import Stop, Stopped
from dcexp.training.train import Watch
from dcexp.training.trainer import cpu_threads, quiet_lightning, ranks_here, trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is told; beside the shards, the words of ``Train``."""

    out: Path
    shards: ShardList
    scale: Scale
    seed: int
    precision: str
    checkpoints: int
    workers: int
    accumulate: int
    compile: bool
    log_every: int
    watch: Watch

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
    """Train on this rank (RANK, WORLD_SIZE of the environment; alone without them) until all steps are done.

    Raises SystemExit when it was stopped by a signal, with everything saved.
    """
    job.scale.check()
    require_hardware(job.precision)
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    with cpu_threads(ranks_here(ranks.count) * (1 + job.workers)):
        _train(job, ranks)


def _train(job: Job, ranks: Ranks) -> None:
    first, before = ranks.rank == 0, latest(job.out)
    if first:
        cut(job.out / METRICS, before.step if before else 0)
    if before and before.step == job.scale.steps:
        if first:
            evaluate(job.out, dict(enumerate(job.ends, 1)), job.watch)
        return
    module, crop = _module(job, ranks, before)
    positions, corrupt = (before.positions(ranks.rank), before.corrupt) if before else ({}, 0)
    del before  # which is as large as model and optimizer
    batches = Intervals(job, module, crop, ranks, positions)
    with (
        quiet_lightning(),
        closing(batches),
        StepProgress(job.scale.steps, module.step, shown=first) as progress,
    ):
        finite = Finite()
        curve = Curve(
            job.out / METRICS,
            ends=job.ends,
            batch_size=job.scale.recipe.batch_size,
            log_every=job.log_every,
            corrupt=corrupt if first else 0,
            finite=finite,
            progress=progress,
            ranks=ranks,
            wait=batches.wait,
        )
        keeper = Keeper(job.out, scale=job.scale, seed=job.seed, curve=curve, ranks=ranks, positions=positions)
        stop = Stop(keeper, ranks)
        monitor = Monitor(job.out, job.watch, curve, ranks)
        left = job.checkpoints - interval_of(module.step, job.ends)[0]
        stopped: Stopped | None = None
        with answered(stop.ask) as stop.take_signals:
            try:
                trainer(ranks.count, left, [finite, curve, keeper, stop, monitor]).fit(module, batches)
            except Stopped as reason:
                stopped = reason
                if first:
                    log.warning("%s", reason)
        if stopped:
            raise SystemExit(128 + stopped.number)


def _module(job: Job, ranks: Ranks, before: Snapshot | None) -> tuple[ClipTraining, Crop]:
    """The model where it stands, and its random crop. Leaves torch, numpy and random seeded with seed + rank."""
    clip, transform = build_model(job.scale.recipe.model, job.precision, job.seed)
    if before:
        clip.load_state_dict(before.content["state_dict"])
    clip.set_grad_checkpointing()
    if job.compile:
        clip.compile()
    loss = open_clip.ClipLoss(
        local_loss=True, gather_with_grad=True, cache_labels=True, rank=ranks.rank, world_size=ranks.count
    )
    scaler = grad_scaler(job.precision, "cuda" if torch.cuda.is_available() else "cpu")
    if before and "scaler" in before.content:
        scaler.load_state_dict(before.content["scaler"])
    crop, normalize = halves(transform)
    module = ClipTraining(
        clip,
        loss,
        scaler,
        normalize,
        scale=job.scale,
        precision=job.precision,
        accumulate=job.accumulate,
        step=before.step if before else 0,
        optimizer_state=before.content["optimizer"] if before else None,
    )
    seed_all(job.seed + ranks.rank)
    return module, crop
