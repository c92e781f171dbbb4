"""Where work runs: two verbs, and nothing about what the work is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dcexp.typecheck import check_types

Item = TypeVar("Item")
Out = TypeVar("Out")


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
