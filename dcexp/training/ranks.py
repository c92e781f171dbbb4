"""What ranks tell each other beside gradients: on the CPU, so that no device has to wait for it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """Rank ``rank`` of ``count``. Every method is called by all ranks at once, and returns the same on each."""

    rank: int
    count: int

    @cached_property
    def _group(self) -> Any:
        return dist.new_group(backend="gloo")

    def highest(self, number: int) -> int:
        """The highest of the ranks' numbers."""
        return self._reduced(number, dist.ReduceOp.MAX)

    def total(self, number: int) -> int:
        """The sum of the ranks' numbers."""
        return self._reduced(number, dist.ReduceOp.SUM)

    def gathered(self, thing: Any) -> list[Any]:
        """What each rank gave, in their order."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing, group=self._group)
        return things

    def _reduced(self, number: int, operation: Any) -> int:
        if self.count == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, operation, group=self._group)
        return int(value)
