"""Copy: the chosen samples of a pool, byte for byte, in webdataset tars of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcexp.artifacts.shards import TAR_NAME
from dcexp.artifacts.tarball import write_tarball
from dcexp.engines.base import Engine
from dcexp.reshard.base import Inputs, Reshard
from dcexp.reshard.made import Made, finished, noted, planned


@dataclass(frozen=True, kw_only=True)
class Copy(Reshard):
    """Copy the chosen samples into tars."""

    def shards(self, out: Path, engine: Engine, count: int, inputs: Inputs) -> Iterator[Made]:
        """See :meth:`Reshard.shards`."""
        return engine.map(partial(_copy, out, inputs.pool.path, inputs.locations.path), range(count))

    @property
    def meta(self) -> dict[str, object]:
        """See :attr:`Reshard.meta`."""
        return {"output_shard_format": TAR_NAME}


def _copy(out: Path, pool: Path, locations: Path, number: int) -> Made:
    if done := noted(out, number):
        return done
    entries, name = planned(out, pool, locations, number), TAR_NAME.format(number)
    return finished(out, number, Made(name, len(entries), write_tarball(str(out / name), entries)))
