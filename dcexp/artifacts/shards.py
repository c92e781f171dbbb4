"""Shards: the chosen samples as webdataset tars, with the side files upstream writes."""

import json
import tarfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.tar import BLOCK, header

SIZES = "sizes.json"
SAMPLE_IDS = "sample_ids.npy"
META = "meta.json"
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


def write_shard(out: Path, number: int, files: Iterable[tuple[str, bytes | memoryview]], samples: int) -> None:
    """Write ``files`` (name in the tar, content) as shard ``number`` of the directory ``out``, and its stats.

    The bytes depend on the names and contents alone: no times, no owners.
    """
    written = 0
    with whole_file(out / SHARD_NAME.format(number)) as tar:
        for name, content in files:
            head, padding = header(name, len(content)), bytes(-len(content) % BLOCK)
            tar.writelines((head, content, padding))
            written += len(head) + len(content) + len(padding)
        tar.write(bytes(2 * BLOCK + -(written + 2 * BLOCK) % tarfile.RECORDSIZE))
    write_json(out / STATS_NAME.format(number), {"successes": samples})
