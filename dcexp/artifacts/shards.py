"""Shards: the chosen samples, as webdataset tars with the side files upstream writes, or as an index of the pool's."""

import json
import os
from functools import cached_property
from typing import Any

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.place import below, is_url, size_of

SIZES = "sizes.json"
SAMPLE_IDS = "sample_ids.npy"
META = "meta.json"
TAR_NAME = "{:08d}.tar"
INDEX_NAME = "{:08d}.npz"
STATS_NAME = "{:08d}_stats.json"
ACCOUNT = "tars.json"
MISSING = "missing.parquet"
FILES = "files.json"


class Shards(Artifact):
    """``sizes.json`` and ``meta.json``; a ``00000000_stats.json`` … and, of every shard, one of two forms.

    Copied: ``00000000.tar`` …, here or in an object store. Indexed: ``00000000.npz`` … (:class:`Entries`), which say
    where the bytes lie in the tars of the pool. ``sample_ids.npy`` is the subset, ``missing.parquet`` what of it no
    tar holds, ``tars.json`` the account of every tar of the pool, ``files.json`` size and digest of every shard.

    A mixture has neither, but names the shards of its parts: by the way to them from here, or by their whole place.
    """

    kind = "shards"

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Samples per shard, by name, in order."""
        sizes: dict[str, int] = json.loads((self.path / SIZES).read_text())
        return sizes

    @cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """Size and digest of every shard, by the same names."""
        files: dict[str, dict[str, Any]] = json.loads((self.path / FILES).read_text())
        return files

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What ``meta.json`` says: upstream's counts and formats, and where shards lie or what they weigh."""
        meta: dict[str, Any] = json.loads((self.path / META).read_text())
        return meta

    @property
    def folder(self) -> str:
        """Where the shards are; empty where that is this artifact."""
        folder: str = self.meta.get("output_dir", "")
        return folder

    @cached_property
    def places(self) -> list[str]:
        """Where the shards are, in order: paths, or URLs."""
        places = [below(self.folder or str(self.path.resolve()), name) for name in self.sizes]
        return [place if is_url(place) else os.path.normpath(place) for place in places]

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """How much each shard weighs when training draws one; empty where all are drawn evenly."""
        return tuple(self.meta.get("weights", ()))

    def check(self) -> None:
        """Raise ValueError when a shard on this machine is not as long as it was written.

        Shards need not be on disk when they are finished, so what a crash of the machine loses is noticed here.
        """
        for name, place in zip(self.sizes, self.places, strict=True):
            wanted = self.files[name]["bytes"]
            found = wanted if is_url(place) else max(size_of(place), 0)
            if found != wanted:
                raise ValueError(f"{place} has {found:,} bytes, {wanted:,} were written. Make it anew: rebuild=shards")

    @property
    def samples(self) -> int:
        """Samples in all shards, repeats counted."""
        return sum(self.sizes.values())
