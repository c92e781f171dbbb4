"""Processes that start together and end together: when one fails, so do all, and the first to fail is named."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from dcexp.engines.base import free_port
from dcexp.signals import ENDING, answered

LONGEST = 20_000  # characters of a traceback: a pipe that nobody reads takes 64 KiB
GRACE = 1.0  # seconds in which others may report that they failed too, and earlier


class Report(NamedTuple):
    """When a rank failed, on the clock of the machine, and its traceback."""

    time: float
    text: str


def run_ranks(count: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call ``fn(*args)`` in ``count`` processes, with RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* set.

    Raises RuntimeError as soon as one of them fails, with the traceback of the one that was first; the others are
    killed, for they may wait for it for ever. A signal that ends this process is passed on to the ranks first.
    """
    context, port = get_context("spawn"), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ranks = [context.Process(target=_rank, args=(r, count, port, pipes[r][1], fn, args)) for r in range(count)]

    told: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        told.append(number)
        for rank in ranks:
            if rank.is_alive() and rank.pid:
                os.kill(rank.pid, signal.SIGTERM)  # not SIGINT, which a terminal sends to them too

    with answered(pass_on):
        try:
            for rank in ranks:
                rank.start()
            for _, end in pipes:
                end.close()
            _join(ranks, [reports for reports, _ in pipes], told)
        finally:
            for rank in ranks:
                if rank.pid:
                    rank.kill()
                    rank.join()
    if stopped := [
        rank.exitcode for rank in ranks if _stopped(rank, told)
    ]:  # by a signal that this process did not get
        raise SystemExit(stopped[0])


def _join(ranks: Sequence[BaseProcess], reports: list[Connection], told: list[signal.Signals]) -> None:
    """Wait for all to end well, or as they were ``told``. Raises RuntimeError when one does not."""
    running = list(ranks)
    while running:
        ended = wait([rank.sentinel for rank in running])
        for rank in [rank for rank in running if rank.sentinel in ended]:
            running.remove(rank)
            rank.join()
            if rank.exitcode and not _stopped(rank, told):
                until = time.monotonic() + GRACE
                while (left := [r for r in running if r.exitcode is None]) and time.monotonic() < until:
                    wait([rank.sentinel for rank in left], timeout=until - time.monotonic())
                raise RuntimeError(_cause(ranks, reports, told))


def _stopped(rank: BaseProcess, told: list[signal.Signals]) -> bool:
    """True for one that put its things away and ended as it was told, or was told before it had anything."""
    code = rank.exitcode or 0
    return code - 128 in ENDING or bool(told and -code in ENDING)


def _cause(ranks: Sequence[BaseProcess], reports: list[Connection], told: list[signal.Signals]) -> str:
    """What happened first: a process that died cannot tell when, but those that miss it fail after it."""
    failed = [n for n, rank in enumerate(ranks) if rank.exitcode and not _stopped(rank, told)]
    said = {n: report for n in failed if (report := _report(reports[n]))}
    dead = [n for n in failed if n not in said]
    first = dead[0] if dead else min(said, key=lambda n: said[n].time)
    what = said[first].text if first in said else f"its process died ({_name(ranks[first].exitcode or 0)})"
    others = "".join(
        f"\n\nrank {n} failed after it: {said[n].text.splitlines()[-1]}" for n in sorted(said) if n != first
    )
    return f"rank {first} of {len(ranks)} failed: {what}{others}"


def _report(reports: Connection) -> Report | None:
    """What a rank that has ended said of it."""
    try:
        report: Report = reports.recv()
    except (EOFError, OSError):  # it was killed while it spoke
        return None
    return report


def _name(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL; out of memory?"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _rank(rank: int, ranks: int, port: int, report: Connection, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    die_with_parent()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        fn(*args)
    except KeyboardInterrupt:  # a terminal sends it to all processes
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception:
        report.send(Report(time.monotonic(), traceback.format_exc().strip()[-LONGEST:]))
        raise SystemExit(1) from None


def die_with_parent() -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
