"""Signals that ask a process to end: something may be put away first."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def answered(answer: Callable[[signal.Signals], None]) -> Iterator[Callable[[], None]]:
    """While the block runs, ``answer`` is called with the first signal that comes, instead of ending the process.

    Further ones change nothing (SLURM sends several), but for Ctrl-C: a second one interrupts. When the block has come
    to its end, the signal goes to whoever handled it before; where that was nobody, SystemExit is raised, so that
    whoever holds something can let go of it. Does nothing outside the main thread, which alone can handle signals.

    Yields a function that takes the signals again, after a library that took them for itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(signal.Signals(number))
            answer(came[0])
        elif number == signal.SIGINT and callable(interrupt := before[signal.SIGINT]):
            interrupt(number, frame)

    def take() -> None:
        for number in ENDING:
            signal.signal(number, handle)

    before = {number: signal.getsignal(number) for number in ENDING}
    take()
    try:
        yield take
    finally:
        _restore(before)
    if came:
        if callable(before[came[0]]):
            os.kill(os.getpid(), came[0])
        raise SystemExit(128 + came[0])


@contextmanager
def ignored() -> Iterator[None]:
    """Leave it to the process that started this one to end it: SLURM and terminals signal whole groups."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
