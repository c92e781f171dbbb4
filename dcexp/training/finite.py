"""A loss that is lost: NaN or infinite."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dcexp.training.batch import Batch
from dcexp.training.module import ClipTraining


class Finite(Callback):
    """Ends training when a loss is not finite: raises FloatingPointError with the shards of its batch.

    A step's loss is looked at while the device works on the next step, so that it never stands idle for it.
    """

    def __init__(self) -> None:
        self._shards: list[str] = []
        self._waiting: tuple[str, Tensor, torch.cuda.Event | None, list[str]] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """See the class."""
        self._shards += batch.shards
        if not outputs:
            return
        self.check()
        assert isinstance(module, ClipTraining)
        loss = outputs["loss"].to("cpu", non_blocking=True)
        arrived = torch.cuda.Event() if outputs["loss"].is_cuda else None
        if arrived:
            arrived.record()
        self._waiting = (f"step {module.step - 1}, learning rate {outputs['lr']:.3g}", loss, arrived, self._shards)
        self._shards = []

    def check(self) -> None:
        """Look at the loss that was not looked at yet."""
        if self._waiting is None:
            return
        when, loss, arrived, shards = self._waiting
        self._waiting = None
        if arrived:
            arrived.synchronize()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss)} at {when}. Its batch came from {_listed(shards)}")


def _listed(shards: Iterable[str], most: int = 20) -> str:
    names = sorted(set(shards))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no shard that is known") + more
