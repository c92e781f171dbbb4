"""Which of many vectors is nearest: the same code on CPU and GPU, in memory that grows with neither side."""

import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dcexp.fp32 import full_fp32

Features = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int64]
Measure = Literal["product", "cosine", "euclidean"]

# Rows and targets that are compared at once, and bytes of targets that may stay on the device between row blocks.
BLOCKS = {"cpu": (4096, 2048, 0), "cuda": (65536, 4096, 4 << 30)}
NONE = -1  # the id where no target is nearest


def nearest(features: Features, centroids: Features) -> Ids:
    """The id of the centroid with the highest inner product, for each row; the first one on ties.

    ``features`` has shape (n, width), ``centroids`` (k, width), both of any floating type; the outcome (n,).
    Products are taken in float32, and nothing is normalised: upstream's rule, so a long centroid draws more rows.
    A row that holds NaN or infinity has no nearest centroid: -1. (Where two products differ by less than rounding,
    devices, and blocks of another size, may disagree.)

    Memory: at most 4096 x 2048 products on a CPU, 65536 x 4096 on a GPU, beside the rows and targets of such a block.
    """
    return best(features, centroids, "product")[1]


def highest_similarity(features: Features, targets: Features) -> npt.NDArray[np.float32]:
    """The highest cosine of each row with any target, shape (n,); NaN for rows that hold NaN or infinity.

    Shapes, types and memory as for :func:`nearest`. A vector of zeros has cosine 0 with everything.
    """
    return best(features, targets, "cosine")[0]


def best(features: Features, targets: Features, measure: Measure) -> tuple[npt.NDArray[np.float32], Ids]:
    """How near each row's nearest target is, and which that is: see :func:`nearest` and :func:`highest_similarity`.

    What is highest for the nearest is the inner ``product``, the ``cosine``, or, where the ``euclidean`` distance is
    lowest, the product less half the target's square.
    """
    import torch

    _fit(features, targets)
    device = compute_device()
    rows, columns, stay = BLOCKS[device.type]
    values, ids = np.empty(len(features), np.float32), np.empty(len(features), np.int64)
    few, cosine = 4 * targets.size <= stay, measure == "cosine"
    with torch.inference_mode(), full_fp32():
        kept = list(blocks_of(targets, columns, device, cosine)) if few else None
        for start, block in blocks_of(features, rows, device, cosine):
            best = torch.full((len(block),), -torch.inf, device=device)
            place = torch.full((len(block),), NONE, device=device)
            for first, others in kept or blocks_of(targets, columns, device, cosine):
                products = block @ others.T
                if measure == "euclidean":
                    products -= (others * others).sum(dim=1) / 2
                high, at = products.max(dim=1)
                better = high > best  # strictly: of equal ones the first stays
                best, place = torch.where(better, high, best), torch.where(better, at + first, place)
            whole = torch.isfinite(block).all(dim=1)
            stop = start + len(block)
            values[start:stop] = torch.where(whole, best, torch.nan).cpu().numpy()
            ids[start:stop] = torch.where(whole, place, NONE).cpu().numpy()
    return values, ids


def blocks_of(array: Features, size: int, device: Any, cosine: bool) -> Iterator[tuple[int, Any]]:
    """The array piece by piece, float32 on the device, with where each piece begins."""
    import torch
    from torch.nn.functional import normalize

    for start in range(0, len(array), size):
        piece = np.ascontiguousarray(array[start : start + size])
        piece = piece if piece.dtype in (np.float16, np.float32) else piece.astype(np.float32)
        tensor = torch.from_numpy(piece if piece.flags.writeable else piece.copy()).to(device).float()
        yield start, normalize(tensor, dim=1) if cosine else tensor


def compute_device() -> Any:
    """A GPU where there is one; several processes share several GPUs evenly."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", os.getpid() % torch.cuda.device_count())


def _fit(features: Features, targets: Features) -> None:
    if features.ndim != 2 or targets.ndim != 2 or features.shape[1] != targets.shape[1] or len(targets) == 0:
        raise ValueError(
            f"wanted rows and at least one target of the same width, got shapes {features.shape} and {targets.shape}"
        )
