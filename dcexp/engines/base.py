"""Where work runs: two verbs, and nothing about what the work is."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dcexp.typecheck import check_types

Item = TypeVar("Item")
Out = TypeVar("Out")

WORKER_DIED = (
    "a worker process died (killed, or out of memory). Finished pieces are kept: give the same command again, with a "
    "smaller engine.workers if memory was short"
)


@dataclass(frozen=True, kw_only=True)
class Engine(ABC):
    """``map`` for independent items, ``gang`` for ranks that start together.

    ``workers`` is how many items are worked on at once (0: one per CPU core); ``devices`` how many ranks train.
    """

    workers: int = 0
    devices: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        if self.workers < 0 or self.devices < 1:
            raise ValueError(
                f"engine.workers={self.workers} engine.devices={self.devices}: "
                "wanted workers of 0 (one per core) or more, and devices of 1 or more"
            )

    @abstractmethod
    def map(self, fn: Callable[[Item], Out], items: Sequence[Item], what: str = "") -> Iterator[Out]:
        """Yield ``fn(item)`` for every item, in order. ``fn`` and items are picklable; an item may be retried."""

    @abstractmethod
    def gang(self, fn: Callable[..., Any], *args: Any) -> None:
        """Run ``fn(*args)`` on every rank at once, with RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* set."""


def watched(results: Iterable[Out], what: str, count: int) -> Iterator[Out]:
    """``results``, ``count`` in all, with a progress bar where there is a name for them and a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = bool(what) and console.is_terminal
    return iter(track(results, what, count, console=console, transient=True, disable=not shown))


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
