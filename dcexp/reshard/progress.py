"""How far the tars are: a bar with samples and bytes a second and the time left; elsewhere a line now and then."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0
Result = TypeVar("Result")
Amount = tuple[int, int]  # samples and bytes


def with_speed(results: Iterator[Result], what: str, count: int, amount: Callable[[Result], Amount]) -> list[Result]:
    """All ``results``, of which there are ``count``. It is shown how fast they come; at the end the log says it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    made: list[Result] = []
    samples = size = 0
    started = said = time.monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=count)
        for result in results:
            made.append(result)
            samples, size = samples + amount(result)[0], size + amount(result)[1]
            now = time.monotonic()
            bar.update(task, advance=1, description=_rates(samples, size, now - started))
            if not console.is_terminal and now - said > LOG_SECONDS:
                said = now
                log.info("%s: %d of %d  %s", what, len(made), count, _rates(samples, size, now - started))
    rates = _rates(samples, size, time.monotonic() - started)
    log.info("%s: %s samples, %s MB: %s", what, f"{samples:,}", f"{size / 1e6:,.1f}", rates)
    return made


def _rates(samples: int, size: int, seconds: float) -> str:
    seconds = max(seconds, 1e-3)
    return f"{samples / seconds:,.0f} samples/s, {size / 1e6 / seconds:,.0f} MB/s"
