"""The machine you sit at: worker processes for ``map``, one process per rank for ``gang``."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, parent_process
from typing import Any

from dcexp.engines.base import WORKER_DIED, Engine, Item, Out, free_port, watched


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
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

        try:
            start_processes(_rank, (self.devices, free_port(), fn, args), nprocs=self.devices, start_method="spawn")
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise RuntimeError(f"rank {error.error_index} of {self.devices} failed: {error}") from None


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
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _rank(rank: int, ranks: int, port: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    fn(*args)
