"""The subset: the chosen uids, sorted, repeats side by side; upstream's own file format."""

from pathlib import Path

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.uid import UID, Uids, is_sorted

SUBSET = "subset.npy"
EXAMPLES = "examples.parquet"  # some kept and some dropped samples, to look at
UNAVAILABLE = "unavailable.npy"  # chosen uids that no shard of the pool holds; absent when there are none


class Subset(Artifact):
    """``subset.npy``: shape (n,), dtype ``u8,u8``, in lexicographic order."""

    kind = "subset"
    aside = frozenset({EXAMPLES})

    def uids(self) -> Uids:
        """The chosen uids, memory-mapped and checked."""
        return read_subset(self.path / SUBSET)


def read_subset(path: Path) -> Uids:
    """Memory-map a subset file. Raises ValueError for anything upstream would misread in silence."""
    try:
        uids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npy file: {error}") from None
    if uids.dtype != UID or uids.ndim != 1:
        raise ValueError(
            f"{path}: a subset is a one-dimensional array of dtype 'u8,u8'; "
            f"this one has shape {uids.shape} and dtype {uids.dtype}"
        )
    if not is_sorted(uids):
        raise ValueError(f"{path}: uids are not in lexicographic order; sort them (numpy: a.sort()) and save again")
    return uids
