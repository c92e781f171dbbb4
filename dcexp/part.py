"""Part: one more source of a mixture, with all that makes shards of it."""

from dataclasses import dataclass

from dcexp.filters.base import Filter
from dcexp.reshard.base import Reshard
from dcexp.sources.base import Source
from dcexp.stage import Step
from dcexp.typecheck import check_types


@dataclass(frozen=True, kw_only=True)
class Part:
    """A source beside the run's own, what is chosen of it, and how that becomes shards.

    ``weight`` is that of each of its shards when training draws one: upstream's ``--data_weights``. The
    :class:`Mixture` it enters refuses one that is not above 0.
    """

    source: Source
    filter: Filter
    reshard: Reshard
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)

    def step(self) -> Step:
        """Its shards."""
        pool = self.source.step()
        return self.reshard.step(pool, self.filter.step(pool))
