"""How far training is: one bar on a terminal, a line in the log now and then elsewhere."""

import logging
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
LOG_SECONDS = 30.0


class StepProgress:
    """Optimizer steps done of ``total``, shown when ``due``. Draws from the calling thread: workers may be forked."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            transient=True,
            auto_refresh=False,
            disable=not shown,
        )
        self._on_terminal = self._bar.console.is_terminal
        self._total, self._shown, self._last = total, shown, time.monotonic()
        self._task = self._bar.add_task("train", total=total, completed=done, words="")

    def __enter__(self) -> "StepProgress":
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    @property
    def due(self) -> bool:
        """True when it is time to show something again."""
        seconds = REFRESH_SECONDS if self._on_terminal else LOG_SECONDS
        return self._shown and time.monotonic() - self._last >= seconds

    def show(
        self, step: int, loss: float, lr: float, scale: float, samples_per_second: float, data_wait: float
    ) -> None:
        """Say that ``step`` steps are done; ``data_wait`` is the share of the time that was waiting for data."""
        self._last = time.monotonic()
        speed = f"{samples_per_second:,.0f} samples/s  data wait {data_wait:.0%}"
        words = f"loss {loss:.3f}  lr {lr:.2e}  scale {scale:.1f}  {speed}"
        if self._on_terminal:
            self._bar.update(self._task, completed=step, words=words, refresh=True)
        else:
            log.info("step %d of %d  %s", step, self._total, words)
