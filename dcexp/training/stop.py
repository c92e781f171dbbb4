"""A training that is asked to end before its last step, and goes on another time."""

import logging
import signal
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.training.batch import Batch
from dcexp.training.module import ClipTraining
from dcexp.training.ranks import Ranks
from dcexp.training.snapshot import Keeper

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Training was asked to end by a signal, and everything is saved."""

    def __init__(self, number: int, steps: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after {steps:,} steps; the same command goes on")
        self.number = number


class Stop(Callback):
    """Ends training when one of the ranks is asked to: all of them after the same step, with everything saved.

    ``take_signals`` comes from :func:`dcexp.signals.answered`: Lightning takes SIGTERM for itself when it starts.
    """

    def __init__(self, keeper: Keeper, ranks: Ranks) -> None:
        self._keeper, self._ranks, self._asked = keeper, ranks, 0
        self.take_signals: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """See the class."""
        self.take_signals()

    def ask(self, number: signal.Signals) -> None:
        """Note that this rank is to end."""
        self._asked = number
        if self._ranks.rank == 0:
            log.warning("%s: stopping after this step, with everything saved", number.name)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """See the class."""
        assert isinstance(module, ClipTraining)
        if outputs and (number := self._ranks.highest(self._asked)) and module.step < module.scale.steps:
            self._keeper.save(module)
            raise Stopped(number, module.step)
