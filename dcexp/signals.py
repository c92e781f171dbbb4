"""Signals that ask a process to end: something may be put away first."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
        came.append(signal.Signals(number))
        if len(came) == 1:
            answer(came[0])
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def take() -> None:
        for number in ENDING:
            signal.signal(number, handle)

    before = {number: signal.getsignal(number) for number in ENDING}
    take()
    try:
        yield take
    except SystemExit:
        if signal.SIGINT in came[1:]:  # Lightning makes this of a KeyboardInterrupt
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        if callable(before[came[0]]):
            os.kill(os.getpid(), came[0])
        raise SystemExit(128 + came[0])


def left_to_parent() -> None:
    """Let nobody but the process that started this one end it: SLURM and terminals signal whole groups."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who sent a signal
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # Linux does not ignore what is blocked, so one can wait

    def wait() -> None:
        while (info := signal.sigwaitinfo({signal.SIGTERM})) and info.si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
