"""The monitor: how good the weights of each interval are, found out between its steps and without a trace."""

import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng

from dcexp.artifacts.checkpoint import MONITOR
from dcexp.artifacts.records import write_records
from dcexp.training.curve import Curve, lines
from dcexp.training.module import ClipTraining
from dcexp.training.ranks import Ranks
from dcexp.training.train import Watch

log = logging.getLogger(__name__)

PATIENCE = timedelta(days=7)  # of ranks that wait: a collective of NCCL or of Lightning would give up after minutes


class Monitor(Callback):
    """Brings ``monitor.jsonl`` up to date at the end of each interval, and when a training begins or goes on.

    The first rank evaluates, the others wait; the clock of ``curve`` stands still. What fails is tried again when the
    training is, not before.
    """

    def __init__(self, out: Path, watch: Watch, curve: Curve, ranks: Ranks) -> None:
        self._out, self._watch, self._curve, self._ranks = out, watch, curve, ranks

    @cached_property
    def _group(self) -> Any:
        return dist.new_group(backend="gloo", timeout=PATIENCE)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """See the class."""
        assert isinstance(module, ClipTraining)
        self._look(trainer, module, {n: end for n, end in enumerate(self._curve.ends, 1) if end <= module.step})

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """See the class."""
        assert isinstance(module, ClipTraining)
        self._look(trainer, module, {n: end for n, end in enumerate(self._curve.ends, 1) if end == module.step})

    def _look(self, trainer: Trainer, module: ClipTraining, intervals: Mapping[int, int]) -> None:
        if not self._watch:
            return
        if self._ranks.rank == 0:
            evaluate(self._out, intervals, self._watch)
        if self._ranks.count > 1:
            dist.barrier(self._group)
        self._curve.on_train_start(trainer, module)


def evaluate(out: Path, intervals: Mapping[int, int], watch: Watch) -> None:
    """Put ``epoch_<k>.pt`` of each of ``intervals`` (k, and the step after its last) to each function of ``watch``.

    One line of ``monitor.jsonl`` comes of each, under open_clip's names; what has its line already is left out. An
    error is logged, for it is no reason to end a training. Random generators are left as they were: to build a model
    draws from them.
    """
    known = {(line["epoch"], metric) for line in lines(out / MONITOR) for metric in line}
    for epoch, end in intervals.items():
        for name, scores in watch.items():
            prefix, weights = f"val/{name}-zeroshot-val-", out / f"epoch_{epoch}.pt"
            if any(k == epoch and metric.startswith(prefix) for k, metric in known) or not weights.exists():
                continue
            with isolate_rng(), torch.no_grad():
                try:
                    found = scores(weights)
                    line = {"step": end - 1, "epoch": epoch, **{prefix + k: v for k, v in found.items()}}
                    write_records(out / MONITOR, [*lines(out / MONITOR), line])
                    log.info("epoch %d: %s %s", epoch, name, ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
                except Exception as error:
                    log.warning("epoch %d was not evaluated on %s, training goes on: %r", epoch, name, error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the evaluation needed is in blocks of other sizes than training's
