"""The machine you sit at: worker processes for ``map``, one process per rank for ``gang``."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

from dcexp.engines.base import WORKER_DIED, Engine, Item, Out, watched
from dcexp.engines.gang import die_with_parent, run_ranks


@dataclass(frozen=True, kw_only=True)
class Local(Engine):
    """Processes on this machine. Workers are spawned, not forked: a fork beside threads can hang."""

    def map(self, fn: Callable[[Item], Out], items: Sequence[Item], what: str = "") -> Iterator[Out]:
        """See :meth:`Engine.map`. Raises RuntimeError when a worker dies (killed, out of memory)."""
        return watched(self._results(fn, items), what, len(items))

    def _results(self, fn: Callable[[Item], Out], items: Sequence[Item]) -> Iterator[Out]:
        workers = self.workers or os.cpu_count() or 1
        if min(workers, len(items)) <= 1:
            yield from map(fn, items)
            return
        try:
            yield from _processes(workers).map(fn, items)
        except BrokenProcessPool:
            _processes.cache_clear()
            raise RuntimeError(WORKER_DIED) from None

    def gang(self, fn: Callable[..., Any], *args: Any) -> None:
        """See :meth:`Engine.gang`. One rank runs in this process; more are spawned, one per device."""
        if self.devices == 1:
            fn(*args)
            return
        run_ranks(self.devices, fn, args)


@cache
def _processes(workers: int) -> ProcessPoolExecutor:
    """One set of workers for all the maps of this process: starting Python costs more than many a map."""
    threads = max((os.cpu_count() or 1) // workers, 1)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    """Share the cores with the other workers, which numpy's, Arrow's and torch's threads would not do by themselves.

    A worker whose parent was killed would wait for work for ever; Ctrl-C is the parent's to answer.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))  # read when these libraries are loaded: later, in this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
