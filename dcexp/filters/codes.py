"""Product-quantised features in inverted lists: a few bytes per row, and the nearest of them, by faiss."""

import functools
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

PER_CENTROID = 64  # training rows for each list
LEAST = 39  # training rows for each centroid below which faiss warns
PER_LIST = 1000  # rows below which a list is not worth having
BITS = 8
QUERIES = 1024  # rows whose neighbours are held at once
FLOOR = 1e-6  # squared distances below this are what rounding to float16 makes of unit vectors


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """How vectors are coded: in one of ``lists``, then one byte for each of ``subvectors`` pieces of the residual.

    Small pools get fewer lists and bits, so that there are enough rows to train each, and widths that ``subvectors``
    does not divide the next smaller number that does. ``seed`` decides the training.
    """

    lists: int
    subvectors: int
    seed: int

    def lists_for(self, rows: int) -> int:
        """The number of lists for a pool of so many rows."""
        return max(1, min(self.lists, rows // PER_LIST))

    def sample_for(self, rows: int) -> int:
        """How many of a pool's rows are to be trained on."""
        return min(rows, max(PER_CENTROID * self.lists_for(rows), LEAST << BITS))

    def trained(self, sample: Vectors, rows: int) -> Any:
        """An empty faiss index for a pool of ``rows`` rows; ``sample`` has shape (n, width)."""
        faiss = library()
        width, lists = sample.shape[1], self.lists_for(rows)
        subvectors = next(m for m in range(min(self.subvectors, width), 0, -1) if width % m == 0)
        bits = max(1, min(BITS, (len(sample) // LEAST).bit_length() - 1))
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(width), width, lists, subvectors, bits)
        index.cp.seed = index.pq.cp.seed = self.seed % 2**31
        index.train(sample if len(sample) >= 2**bits else np.repeat(sample, 2**bits, axis=0))
        return index


def need_faiss() -> None:
    """Raise ValueError when faiss is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise ValueError("this is done with faiss, which is not installed: pip install dcexp[cluster]")


def library() -> Any:
    """faiss, which tells everybody how it looks for its fastest build while it is imported."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    return faiss


def unit(features: npt.NDArray[np.floating]) -> Vectors:
    """Rows of length 1, float32; rows of zeros stay as they are."""
    vectors = features.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return vectors


def write_index(index: Any, path: Path) -> None:
    """Write a faiss index, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    library().write_index(index, str(unfinished))
    unfinished.replace(path)


def read_index(path: Path) -> Any:
    """A faiss index whose lists stay on the disk, mapped: processes of one machine share them."""
    return _read(path, path.stat().st_ino, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(path: Path, inode: int, mtime: int) -> Any:
    return library().read_index(str(path), library().IO_FLAG_MMAP)


def duplicate_distance(
    index: Any,
    vectors: Vectors,
    codes: Codes,
    first: int,
    scores: npt.NDArray[np.float32],
    *,
    neighbours: int,
    probes: int,
) -> npt.NDArray[np.float32]:
    """How near each vector is to the nearest better one: |d(x, x) - d(x, y)| / d(x, x), infinity for none.

    d(x, y) is the Euclidean distance of the vector x to what the code of y stands for. y is any of the index's rows
    that are among the ``neighbours`` nearest to x so measured, in the ``probes`` nearest lists, and are better: of a
    higher score, or of the same and earlier. ``vectors`` are rows ``first`` and so on of the index, ``codes`` theirs;
    ``scores`` has one number for each row of the index.
    """
    found = np.empty(len(vectors), np.float32)
    index.nprobe = min(probes, index.nlist)
    for start in range(0, len(vectors), QUERIES):
        x = vectors[start : start + QUERIES]
        own = first + start + np.arange(len(x))[:, None]
        squares, rows = index.search(x, min(neighbours, index.ntotal))
        to_own = x - index.sa_decode(codes[start : start + QUERIES])
        itself = np.sqrt(np.maximum((to_own * to_own).sum(axis=1, keepdims=True), FLOOR))
        ratio = np.abs(np.sqrt(np.maximum(squares, FLOOR)) - itself) / itself
        theirs, mine = scores[rows], scores[own]
        better = (rows >= 0) & ((theirs > mine) | ((theirs == mine) & (rows < own)))
        found[start : start + QUERIES] = np.where(better, ratio, np.inf).min(axis=1)
    return found
