"""The digits pool: a CommonPool in miniature, made of real scans with the dirt of the web, without a download.

The scans are those of `dcexp.embedded.scans` (UCI Optical Recognition of Handwritten Digits, CC BY 4.0).
"""

from pathlib import Path

import numpy as np

from dcexp.embedded.dirt import dead_links
from dcexp.embedded.metadata import write_metadata
from dcexp.embedded.samples import samples
from dcexp.embedded.shards import MAX_SHARD_SIZE, write_shards


def write_pool(out: Path, *, size: int, seed: int, shard_size: int = 1600) -> None:
    """Write a pool of `size` samples to `out/metadata` and `out/shards`.

    The same arguments give the same bytes; what an interrupted attempt left there is replaced. About 1.5 % of the
    samples are dead links: they have metadata and are in no shard. Shards and metadata differ in order.

    Raises:
        ValueError: `size` is below 1, `seed` below 0, or `shard_size` not within 1 to 10,000.
    """
    if size < 1 or seed < 0 or not 1 <= shard_size <= MAX_SHARD_SIZE:
        raise ValueError(
            f"a digits pool wants size >= 1, seed >= 0 and shard_size from 1 to {MAX_SHARD_SIZE}; "
            f"got size={size}, seed={seed}, shard_size={shard_size}"
        )
    everything = samples(size=size, seed=seed)
    dead = frozenset(everything[index].uid for index in dead_links(size=size, seed=seed))
    order = np.random.default_rng([seed, size]).permutation(size)
    write_metadata(out / "metadata", everything, seed=seed)
    write_shards(out / "shards", [everything[i] for i in order], dead, shard_size=shard_size)
