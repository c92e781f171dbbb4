"""The training curve: one line of ``metrics.jsonl`` per logged step, the progress bar, and the complaints."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.artifacts.records import records_in, write_records
from dcexp.training.batch import Batch
from dcexp.training.finite import Finite
from dcexp.training.laps import DataWait, Laps
from dcexp.training.module import ClipTraining
from dcexp.training.progress import StepProgress
from dcexp.training.ranks import Ranks
from dcexp.training.schedule import interval_of

log = logging.getLogger(__name__)

SLOW = 0.2  # of the time waited for data: worth a warning
WATCHED = 30.0  # seconds over which that is looked at


class Curve(Callback):
    """Writes a step's line when its index in its interval divides by ``log_every``, and the interval's last.

    Names are open_clip's. The loss is rank 0's, as there; times are means since the line before, ``data_time`` what
    rank 0 waited for its data in a step; ``corrupt`` counts all ranks.
    """

    def __init__(
        self,
        path: Path,
        *,
        ends: list[int],
        batch_size: int,
        log_every: int,
        corrupt: int,
        finite: Finite,
        progress: StepProgress,
        ranks: Ranks,
        wait: DataWait,
    ) -> None:
        self.path, self.ends, self.batch_size, self.log_every = path, ends, batch_size, log_every
        self.corrupt, self.finite, self.ranks = corrupt, finite, ranks
        self._progress, self._wait = progress, wait
        self._known: set[str] = set()
        self._warned, self._first = False, 0
        self._seconds = float(last_line(path).get("seconds", 0.0))
        self._written = self._shown = self._watched = Laps(wait, 0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        assert isinstance(module, ClipTraining)
        self._first = module.step
        self._written, self._shown, self._watched = (Laps(self._wait, module.step) for _ in range(3))

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
        _, start, end = interval_of(step, self.ends)
        if (step - start) % self.log_every == 0 or step == end - 1:
            self.finite.check()
            corrupt = self.ranks.total(self.corrupt)
            if self.ranks.rank == 0:
                self._write(step, outputs, corrupt)
        self._watch(step, begins=step in (start, self._first))
        if self._progress.due:
            lap = self._shown.end(step + 1)
            speed = lap.rate * self.batch_size
            self._progress.show(
                step + 1, float(outputs["loss"]), outputs["lr"], float(outputs["scale"]), speed, lap.share
            )

    def _write(self, step: int, outputs: Mapping[str, Any], corrupt: int) -> None:
        loss, lap = float(outputs["loss"]), self._written.end(step + 1)
        speed = lap.rate * self.batch_size
        self._seconds += lap.seconds
        line = {
            "step": step,
            "train/loss": loss,
            "train/contrastive_loss": loss,
            "train/scale": float(outputs["scale"]),
            "train/lr": outputs["lr"],
            "train/data_time": round(lap.waited / lap.steps, 6),
            "train/batch_time": round(lap.seconds / lap.steps, 6),
            "train/samples_per_second": round(speed, 1),
            "train/samples_per_second_per_gpu": round(speed / self.ranks.count, 1),
            "samples_seen": (step + 1) * self.batch_size,
            "corrupt": corrupt,
            "seconds": round(self._seconds, 3),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def _watch(self, step: int, *, begins: bool) -> None:
        """Warn once when the device waits for its data; not where the loader starts."""
        if not begins and self._watched.age < WATCHED:
            return
        lap = self._watched.end(step + 1)
        if lap.share > SLOW and not begins and not self._warned and self.ranks.rank == 0:
            self._warned = True
            log.warning(
                "%.0f %% of the last %d steps was waiting for data: the loader cannot keep up with the device. Give it "
                "more CPU cores, faster storage, or more processes (train.workers: they decide the order of samples, "
                "so that is another training, which starts anew)",
                100 * lap.share, lap.steps,
            )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a ``metrics.jsonl``, without a last line that was cut off; empty if there is no file."""
    if not path.exists():
        return []
    return records_in(path.read_text())


def last_line(path: Path) -> dict[str, Any]:
    """The last logged step; empty if there is none."""
    return next(reversed(lines(path)), {})


def cut(path: Path, step: int) -> None:
    """Keep the lines of the steps before ``step``."""
    write_records(path, [line for line in lines(path) if line["step"] < step])


def sync(path: Path) -> None:
    """Bring the file to the disk."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())
