"""What the loader hands to the training step."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Position(NamedTuple):
    """Where a loader worker stands after a batch: all it takes to go on from there.

    ``interval`` and ``opened`` say how many shards it has opened in which interval, ``taken`` how many samples it has
    taken of the last one. ``buffer`` [samples, 2] holds the shuffle buffer as numbers of shard and sample, ``shuffle``
    [625] the state of the generator that draws from it (Mersenne Twister), ``augment`` torch's, for the crops.
    """

    worker: int
    interval: int
    opened: int
    taken: int
    buffer: npt.NDArray[np.int64]
    shuffle: npt.NDArray[np.int64]
    augment: npt.NDArray[np.uint8]


class Batch(NamedTuple):
    """A micro-batch of one rank, and what was lost on the way to it.

    ``images`` [n, height, width, 3] uint8, cropped; ``texts`` [n, context length] int64; ``corrupt`` samples were
    skipped since the batch before it, for the reasons in ``complaints``; its samples come from ``shards``.
    """

    images: Tensor
    texts: Tensor
    corrupt: int = 0
    complaints: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    position: Position | None = None
