"""Shards: the chosen samples as webdataset tars, with the side files upstream writes."""

import json
from functools import cached_property
from pathlib import Path

from dcexp.artifacts.base import Artifact

SIZES = "sizes.json"
SHARD_NAME = "{:08d}.tar"
STATS_NAME = "{:08d}_stats.json"


class Shards(Artifact):
    """``00000000.tar`` …, ``00000000_stats.json`` …, ``sizes.json``, ``meta.json``, ``sample_ids.npy``."""

    kind = "shards"

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Samples per shard, by file name, in order."""
        sizes: dict[str, int] = json.loads((self.path / SIZES).read_text())
        return sizes

    @property
    def tars(self) -> list[Path]:
        """The tars, in order."""
        return [self.path / name for name in self.sizes]

    @property
    def samples(self) -> int:
        """Samples in all shards, repeats counted."""
        return sum(self.sizes.values())
