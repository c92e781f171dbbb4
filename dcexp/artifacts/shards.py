"""Shards: the chosen samples, as webdataset tars with the side files upstream writes, or as an index of the pool's."""

import json
from functools import cached_property

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.place import below

SIZES = "sizes.json"
SAMPLE_IDS = "sample_ids.npy"
META = "meta.json"
TAR_NAME = "{:08d}.tar"
INDEX_NAME = "{:08d}.npz"
STATS_NAME = "{:08d}_stats.json"
ACCOUNT = "tars.json"
MISSING = "missing.parquet"
FILES = "files.json"  # size and digest of tars that are elsewhere


class Shards(Artifact):
    """``sizes.json`` and ``meta.json``; a ``00000000_stats.json`` … and, of every shard, one of two forms.

    Copied: ``00000000.tar`` …, here or in an object store. Indexed: ``00000000.npz`` … (:class:`Entries`), which say
    where the bytes lie in the tars of the pool. ``sample_ids.npy`` is the subset, ``missing.parquet`` what of it no
    tar holds, ``tars.json`` the account of every tar of the pool.
    """

    kind = "shards"

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Samples per shard, by file name, in order."""
        sizes: dict[str, int] = json.loads((self.path / SIZES).read_text())
        return sizes

    @cached_property
    def places(self) -> list[str]:
        """Where the shards are, in order: paths, or URLs."""
        folder = json.loads((self.path / META).read_text()).get("output_dir") or str(self.path.resolve())
        return [below(folder, name) for name in self.sizes]

    @property
    def samples(self) -> int:
        """Samples in all shards, repeats counted."""
        return sum(self.sizes.values())
