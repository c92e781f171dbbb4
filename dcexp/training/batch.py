"""What the loader hands to the training step."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A micro-batch of one rank, and what was lost on the way to it.

    ``images`` [n, 3, height, width] float32, ``texts`` [n, context length] int64; ``corrupt`` samples were skipped
    since the batch before it, for the reasons in ``complaints``.
    """

    images: Tensor
    texts: Tensor
    corrupt: int = 0
    complaints: tuple[str, ...] = ()
