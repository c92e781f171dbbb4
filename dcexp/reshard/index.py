"""Index: no copy. Every shard is a list of places in the pool's tars, and training reads from there."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcexp.artifacts.files import content_digest
from dcexp.artifacts.shards import INDEX_NAME
from dcexp.engines.base import Engine
from dcexp.reshard.base import Inputs, Reshard
from dcexp.reshard.made import Made, finished, noted, planned


@dataclass(frozen=True, kw_only=True)
class Index(Reshard):
    """Say where the chosen samples lie, in the shards and the order in which :class:`Copy` would write them.

    The tars of the pool have to stay as they are; reading notices when they do not.
    """

    def shards(self, out: Path, engine: Engine, count: int, inputs: Inputs) -> Iterator[Made]:
        """See :meth:`Reshard.shards`."""
        return engine.map(partial(_index, out, inputs.pool.path, inputs.locations.path), range(count))

    @property
    def meta(self) -> dict[str, object]:
        """See :attr:`Reshard.meta`."""
        return {"index_shard_format": INDEX_NAME}


def _index(out: Path, pool: Path, locations: Path, number: int) -> Made:
    if done := noted(out, str(out), number):
        return done
    entries, path = planned(out, pool, locations, number), out / INDEX_NAME.format(number)
    entries.save(path)
    return finished(
        out, number, Made(path.name, len(entries), {"bytes": path.stat().st_size, "sha256": content_digest(path)})
    )
