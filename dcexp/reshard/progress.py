"""How far resharding is: samples and bytes a second, and the time that is left."""

import logging
import time
from collections.abc import Iterator

from dcexp.reshard.made import Made

log = logging.getLogger(__name__)


def watched(shards: Iterator[Made], samples: int) -> list[Made]:
    """All ``shards``, of so many ``samples``. A terminal shows how fast they come; the log says it at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("write shards"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}")
    made: list[Made] = []
    started = time.monotonic()
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=samples, speed="")
        for shard in shards:
            made.append(shard)
            bar.update(task, advance=shard.samples, speed=_speed(made, time.monotonic() - started))
    log.info("%s", _speed(made, time.monotonic() - started))
    return made


def _speed(made: list[Made], seconds: float) -> str:
    samples, size = sum(shard.samples for shard in made), sum(int(shard.file["bytes"]) for shard in made)
    seconds = max(seconds, 1e-3)
    rates = f"{samples / seconds:,.0f} samples/s, {size / 1e6 / seconds:,.0f} MB/s"
    return f"{samples:,} samples, {size / 1e6:,.1f} MB: {rates}"
