"""Sums over the squared cosines of features with a whole set, by the set's second moment: on CPU and GPU.

For features x and f_1 … f_m of length 1, the sum of (x f_j)^2 over j is x M x, where M is the sum of the outer products
f_j f_j: one matrix of width x width stands for the set, however large it is. All of it in float64, for what differs
by rounding only would be in another order on another device.
"""

import numpy as np
import numpy.typing as npt

from dcexp.filters.features import Features
from dcexp.filters.nearest import blocks_of, compute_device

Matrix = npt.NDArray[np.float64]

BLOCK = {"cpu": 4096, "cuda": 65536}  # rows at once


def moment(features: Features) -> Matrix:
    """The sum of the outer products of all rows at length 1, shape (width, width). Every row must be finite.

    ``features`` has shape (n, width) and any floating type. Memory: 12 width bytes for each row of a block, of 4096
    rows on a CPU and 65536 on a GPU.
    """
    import torch

    device, width = compute_device(), features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=device)
    for _, block in blocks_of(features, BLOCK[device.type], device, True):
        rows = block.double()
        total += rows.T @ rows
    return np.asarray(total.cpu().numpy())


def squares(features: Features, matrix: Matrix) -> npt.NDArray[np.float64]:
    """x M x of every row x at length 1 with ``matrix`` M, shape (n,); NaN for rows that hold NaN or infinity.

    A row of zeros has 0. Memory: 20 width bytes for each row of a block.
    """
    import torch

    device = compute_device()
    values, middle = np.empty(len(features)), torch.from_numpy(matrix).to(device)
    for start, block in blocks_of(features, BLOCK[device.type], device, True):
        rows = block.double()
        values[start : start + len(block)] = (rows @ middle).mul_(rows).sum(dim=1).cpu().numpy()
    return values
