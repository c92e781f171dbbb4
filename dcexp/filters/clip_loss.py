"""The contrastive loss of every pair of a batch: on CPU and GPU, without the whole matrix of similarities."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.filters.features import Features, same_width
from dcexp.filters.nearest import BLOCKS, blocks_of, compute_device
from dcexp.fp32 import full_fp32

WIDE = 80.0  # exponentials of numbers that are no further apart than this are normal in float32: e^-80 is 2e-35


def negative_losses(images: Features, texts: Features, temperature: float) -> npt.NDArray[np.float32]:
    """Minus ``temperature`` times the CLIP loss of each pair of a batch, shape (n,); higher is better, 0 is best.

    With s_ij the cosine of image i and text j, and t the temperature, it is (arXiv:2405.19547, section 3)

        s_ii - t/2 (log sum_j exp(s_ij / t) + log sum_j exp(s_ji / t))

    ``images`` and ``texts`` have shape (n, width) and any floating type, and every row a direction. Products are taken
    in float32, in blocks; of each block the logarithms of the sums are added to those before without ever leaving
    float32's range. Raises ValueError when the widths differ.

    Memory: 16 n width bytes, and three times a block of products (4096 x 2048 on a CPU, 65536 x 4096 on a GPU).
    """
    import torch

    same_width(images.shape[1], "the images' features", texts.shape[1], "the texts'")
    device = compute_device()
    rows, columns, _ = BLOCKS[device.type]
    with torch.inference_mode(), full_fp32():
        sides = [torch.cat([block for _, block in blocks_of(x, rows, device, True)]) for x in (images, texts)]
        left, right = sides[0].div_(temperature), sides[1]
        sums = torch.full((2, len(left)), -torch.inf, device=device)  # of each image over texts; of each text
        for start in range(0, len(left), rows):
            for first in range(0, len(right), columns):
                block = left[start : start + rows] @ right[first : first + columns].T
                of_rows, of_columns = sums[0, start : start + rows], sums[1, first : first + columns]
                for before, more in zip((of_rows, of_columns), _log_sums(block), strict=True):
                    torch.logaddexp(before, more, out=before)
        own = (left * right).sum(dim=1)
        scores: npt.NDArray[np.float32] = (temperature * (own - sums.mean(dim=0))).cpu().numpy()
    return scores


def _log_sums(block: Any) -> tuple[Any, Any]:
    """log sum exp of every row and of every column of a block, which is overwritten.

    One exponential of each number serves both, unless numbers are so far apart that some would vanish.
    """
    low, high = block.aminmax()
    if high - low > WIDE:
        return block.logsumexp(dim=1), block.logsumexp(dim=0)
    powers = block.sub_(high).exp_()
    return powers.sum(dim=1).log_() + high, powers.sum(dim=0).log_() + high
