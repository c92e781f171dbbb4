"""How long steps took, and how much of that was waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class DataWait:
    """The seconds spent waiting for data so far."""

    seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started


@dataclass(frozen=True)
class Lap:
    """Some steps: how many, how long all of them took, and how long they waited for data, in seconds."""

    steps: int
    seconds: float
    waited: float

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.steps / self.seconds

    @property
    def share(self) -> float:
        """The share of the time that was waiting."""
        return self.waited / self.seconds


class Laps:
    """Measures from one lap's end to the next."""

    def __init__(self, wait: DataWait, step: int) -> None:
        self._wait, self._step = wait, step
        self._waited, self._time = wait.seconds, time.monotonic()

    @property
    def age(self) -> float:
        """The seconds since the last lap ended."""
        return time.monotonic() - self._time

    def end(self, step: int) -> Lap:
        """The lap that ends when ``step`` steps are done."""
        now, waited = time.monotonic(), self._wait.seconds
        lap = Lap(step - self._step, now - self._time, waited - self._waited)
        self._step, self._time, self._waited = step, now, waited
        return lap
