"""The training curve: one line of ``metrics.jsonl`` per logged step, the progress bar, and the complaints."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.artifacts.files import whole_file
from dcexp.training.batch import Batch
from dcexp.training.module import ClipTraining
from dcexp.training.progress import StepProgress
from dcexp.training.schedule import interval_of

log = logging.getLogger(__name__)


class Curve(Callback):
    """Writes a step's line when its index in its interval divides by ``log_every``, and the interval's last.

    The loss is rank 0's, as in open_clip; ``corrupt`` counts all ranks. Raises FloatingPointError when a loss to be
    logged is not finite.
    """

    def __init__(
        self, path: Path, *, ends: list[int], batch_size: int, log_every: int, corrupt: int, progress: StepProgress
    ) -> None:
        self.path, self.ends, self.batch_size, self.log_every = path, ends, batch_size, log_every
        self.corrupt = self.all_corrupt = corrupt
        self._progress = progress
        self._known: set[str] = set()
        last = last_line(path)
        self._step = int(last.get("step", -1)) + 1
        self._seconds = float(last.get("seconds", 0.0))
        self._time = self._shown_time = time.monotonic()
        self._shown_step = self._step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """See the class."""
        self.corrupt += batch.corrupt
        for complaint in set(batch.complaints) - self._known:
            self._known.add(complaint)
            log.warning("corrupt samples are skipped: %s", complaint)
        if not outputs:
            return
        assert isinstance(module, ClipTraining)
        step = module.step - 1
        if self._logged(step):
            corrupt = torch.tensor(self.corrupt, device=module.device)
            self.all_corrupt = int(trainer.strategy.reduce(corrupt, reduce_op="sum"))
            if trainer.is_global_zero:
                self._write(step, outputs)
        if self._progress.due:
            self._show(step, outputs)

    def _logged(self, step: int) -> bool:
        _, start, end = interval_of(step, self.ends)
        return (step - start) % self.log_every == 0 or step == end - 1

    def _write(self, step: int, outputs: Mapping[str, Any]) -> None:
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}, with learning rate {outputs['lr']:.3g}")
        now = time.monotonic()
        elapsed = now - self._time
        line = {
            "step": step,
            "train/loss": loss,
            "train/scale": float(outputs["scale"]),
            "train/lr": outputs["lr"],
            "train/samples_per_second": round((step + 1 - self._step) * self.batch_size / elapsed, 1),
            "samples_seen": (step + 1) * self.batch_size,
            "corrupt": self.all_corrupt,
            "seconds": round(self._seconds + elapsed, 3),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self._time, self._step, self._seconds = now, step + 1, self._seconds + elapsed

    def _show(self, step: int, outputs: Mapping[str, Any]) -> None:
        now = time.monotonic()
        speed = (step + 1 - self._shown_step) * self.batch_size / (now - self._shown_time)
        self._progress.show(step + 1, float(outputs["loss"]), outputs["lr"], speed)
        self._shown_time, self._shown_step = now, step + 1


def lines(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a ``metrics.jsonl``, without a last line that was cut off; empty if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def last_line(path: Path) -> dict[str, Any]:
    """The last logged step; empty if there is none."""
    return next(reversed(lines(path)), {})


def cut(path: Path, step: int) -> None:
    """Keep the lines of the steps before ``step``."""
    kept = [line for line in lines(path) if line["step"] < step]
    with whole_file(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept).encode())


def sync(path: Path) -> None:
    """Bring the file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
