"""k-means: the centres of many vectors, by torch on CPU and GPU, or by faiss."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.engines.base import watched
from dcexp.filters.codes import library, unit
from dcexp.filters.nearest import Features, Ids, best, blocks_of

log = logging.getLogger(__name__)

Centres = npt.NDArray[np.float32]

BLOCK = 1 << 13  # rows that are added up at once


def by_faiss(rows: Features, clusters: int, iterations: int, seed: int, *, spherical: bool) -> Centres:
    """The centres that faiss finds, shape (clusters, width); see :func:`by_torch`. It holds the rows as float32."""
    faiss = library()
    vectors = unit(rows) if spherical else np.ascontiguousarray(rows, np.float32)
    kmeans = faiss.Kmeans(
        vectors.shape[1], clusters, niter=iterations, seed=seed % 2**31, spherical=spherical,
        min_points_per_centroid=1, max_points_per_centroid=len(vectors), gpu=faiss.get_num_gpus() > 0,
    )  # fmt: skip
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, np.float32)


def by_torch(rows: Features, clusters: int, iterations: int, seed: int, *, spherical: bool, state: Path) -> Centres:
    """The centres after ``iterations``, or when nothing changes any more, shape (clusters, width).

    ``rows`` has shape (n, width), any floating type, and ``clusters`` is n at most. The first centres are rows drawn by
    ``seed``. ``spherical``: rows count at length 1, a row belongs to the centre of the highest cosine, and centres
    are brought to length 1; without it distances are Euclidean. A centre that no row belongs to becomes the row that
    is furthest from its own. Sums are float64 and made on the CPU, one row after the other, so that nothing but near
    ties depends on the device. Each iteration is noted in the file ``state``, from which a further attempt goes on.
    Memory: that of :func:`~dcexp.filters.nearest.best`, 12 bytes a row, and 24 for each number of the centres.
    """
    if not state.is_file():
        _note(state, _first(rows, clusters, seed, spherical), 0)
    _, done = _noted(state)
    for _ in watched(_improved(rows, iterations, spherical, state), "cluster", iterations - done):
        pass
    return _noted(state)[0]


def _improved(rows: Features, iterations: int, spherical: bool, state: Path) -> Iterator[None]:
    """Improve the centres noted in ``state``, one iteration after the other."""
    centres, done = _noted(state)
    while done < iterations:
        nearness, ids = best(rows, centres, "cosine" if spherical else "euclidean")
        moved = _means(rows, ids, centres, nearness, spherical)
        done = iterations if np.array_equal(moved, centres) else done + 1
        centres = moved
        _note(state, centres, done)
        yield


def _note(state: Path, centres: Centres, done: int) -> None:
    with whole_file(state, durable=False) as file:
        np.savez(file, centres=centres, done=done)


def _noted(state: Path) -> tuple[Centres, int]:
    with np.load(state, allow_pickle=False) as arrays:
        return arrays["centres"], int(arrays["done"])


def _first(rows: Features, clusters: int, seed: int, spherical: bool) -> Centres:
    drawn = np.random.default_rng(seed % 2**64).choice(len(rows), clusters, replace=False)
    return _lengthened(rows[np.sort(drawn)], spherical)


def _means(rows: Features, ids: Ids, centres: Centres, nearness: Any, spherical: bool) -> Centres:
    """The mean of the rows of each centre."""
    import torch

    sums = torch.zeros(centres.shape, dtype=torch.float64)
    for start, block in blocks_of(rows, BLOCK, torch.device("cpu"), spherical):
        sums.index_add_(0, torch.from_numpy(ids[start : start + len(block)]), block.double())
    counts = np.bincount(ids, minlength=len(centres))
    means: npt.NDArray[np.float64] = sums.numpy() / np.maximum(counts, 1)[:, None]
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        log.debug("%s clusters are empty; they begin anew at the rows that are furthest from theirs", len(empty))
        far = nearness if spherical else 2 * nearness - np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        means[empty] = _lengthened(rows[np.sort(np.argsort(far, kind="stable")[: len(empty)])], spherical)
    return _lengthened(means, spherical)


def _lengthened(rows: npt.NDArray[np.floating], spherical: bool) -> Centres:
    """Rows as float32, at length 1 where that is wanted; a row of zeros stays."""
    vectors = rows.astype(np.float64)
    if spherical:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(np.float32)
