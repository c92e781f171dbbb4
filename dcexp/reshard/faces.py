"""Faces in the images of a subset: where the metadata say they are."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.columns import ranges
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.lookup import count_in
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.artifacts.uid import UID, Uids, firsts
from dcexp.engines.base import Engine

log = logging.getLogger(__name__)

COLUMN = "face_bboxes"
_FILES = ("uids", "ends", "boxes")
_NO_BOX = (np.nan,) * 4


@dataclass(frozen=True)
class Faces:
    """Boxes by uid: those of ``uids[i]``, sorted, are ``boxes[ends[i-1]:ends[i]]``, shape (n, 4), corners 0 to 1."""

    uids: Uids
    ends: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]

    @classmethod
    def load(cls, folder: Path) -> "Faces":
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _FILES))

    @staticmethod
    def are_in(folder: Path) -> bool:
        """Whether they were saved there, all of them."""
        return all((folder / f"{name}.npy").is_file() for name in _FILES)

    def save(self, folder: Path) -> None:
        for name in _FILES:
            with whole_file(folder / f"{name}.npy", durable=False) as file:
                np.save(file, getattr(self, name))

    def of(self, position: int, rows: int) -> list[list[float]]:
        """The boxes of the uid at ``position``, which has so many ``rows`` in the metadata."""
        start = int(self.ends[position - 1]) if position else 0
        boxes: list[list[float]] = self.boxes[start : self.ends[position + rows - 1]].tolist()
        return boxes


def collect_faces(folder: Path, engine: Engine, pool: Pool, subset: Path) -> None:
    """Write the boxes of all images of the subset that have any into ``folder``.

    Raises ValueError for a pool whose metadata say nothing of faces, or say it in another form.
    """
    if COLUMN not in pool.columns:
        raise ValueError(
            f"reshard.blur needs the column {COLUMN}, which the metadata of this pool do not have; they have: "
            f"{', '.join(pool.columns)}. Leave it out: reshard.blur=none"
        )
    found = list(engine.map(partial(_faces_in, subset, pool.skip_corrupt), list(pool.parts), what="look for faces"))
    *columns, known = zip(*found, strict=True)
    uids, counts, boxes = map(np.concatenate, columns)
    lacking = int(firsts(np.load(subset, mmap_mode="r", allow_pickle=False)).sum()) - sum(known)
    if lacking > 0:
        log.warning("%d of the chosen samples are not in the metadata: nothing is known of faces in them", lacking)
    order = np.lexsort((uids["f1"], uids["f0"]))
    starts = np.cumsum(counts) - counts
    members = ranges(starts[order], counts[order])
    Faces(uids[order], np.cumsum(counts[order]), boxes[members]).save(folder)


def _faces_in(subset: Path, skip_corrupt: bool, part: Part) -> tuple[Uids, Any, Any, int]:
    """Uids, numbers of boxes, and boxes of one part of the pool; and how many chosen samples it has in all."""
    try:
        table = part.table(["uid", COLUMN])
    except DamagedError:
        if not skip_corrupt:
            raise
        return np.empty(0, UID), np.empty(0, np.int64), np.empty((0, 4)), 0
    if not _is_of_boxes(kind := table.schema.field(COLUMN).type):
        raise ValueError(
            f"{part.parquet}: {COLUMN} holds {kind}; wanted lists of boxes of four numbers: x_min, y_min, x_max, y_max"
        )
    uids = part.uids_in(table)
    wanted = np.flatnonzero(count_in(np.load(subset, mmap_mode="r", allow_pickle=False), uids))
    lists = table[COLUMN].take(wanted).to_pylist()
    with_faces = [i for i, boxes in enumerate(lists) if boxes]
    # A box that is none is told where it is used: it concerns one image.
    flat = [box if box and len(box) == 4 and None not in box else _NO_BOX for i in with_faces for box in lists[i]]
    counts = np.array([len(lists[i]) for i in with_faces], np.int64)
    return uids[wanted[with_faces]], counts, np.array(flat, np.float64).reshape(-1, 4), len(wanted)


def _is_of_boxes(kind: Any) -> bool:
    """True for pyarrow's types of lists of lists of numbers; null is the type of lists that are all empty."""
    from pyarrow import types

    for _ in range(2):
        if types.is_null(kind):
            return True
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        kind = kind.value_type
    return bool(types.is_null(kind) or types.is_integer(kind) or types.is_floating(kind))
