"""Threads that work a little ahead, with results in the order of the items; and items in chunks."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ahead(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], depth: int) -> Iterator[Out]:
    """``work(item)`` of each item, in order, by the threads of ``pool``; at most ``depth`` are begun ahead."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def lone_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """``count`` threads (0: one per core) in which torch uses no others: so what they compute depends on no number.

    Nor do they wait for each other after every matrix product, as torch's own threads do.
    """
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count or os.cpu_count() or 1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # new threads would take over what was set last


def chunks(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """``items`` in lists of ``size``; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
