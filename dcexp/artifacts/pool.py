"""The pool: which samples exist, where their metadata, features and shards lie. An index, never a copy."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import write_json
from dcexp.artifacts.uid import Uids, parse_uids

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One metadata file of a pool, with the features beside it: what a worker is given."""

    parquet: str
    npz: str
    rows: int

    def table(self, columns: Sequence[str]) -> Any:
        """The named columns as a pyarrow Table of ``rows`` rows."""
        import pyarrow.parquet as pq

        return pq.read_table(self.parquet, columns=list(columns), memory_map=True)

    def uids(self) -> Uids:
        """The uids in row order, shape (rows,), dtype u8,u8."""
        try:
            return parse_uids(self.table(["uid"])["uid"])
        except ValueError as error:
            raise ValueError(f"{self.parquet}: {error}") from None

    def features(self, name: str) -> npt.NDArray[np.floating]:
        """The CLIP features ``b32_img``, ``b32_txt``, ``l14_img`` or ``l14_txt``, shape (rows, width)."""
        if not self.npz:
            raise FileNotFoundError(f"{self.parquet} has no .npz beside it, so it has no features {name!r}")
        with np.load(self.npz, allow_pickle=False) as arrays:
            return arrays[name]


class Pool(Artifact):
    """The index of a pool: metadata parts, feature widths, shards, and a digest of all uids."""

    kind = "pool"

    @cached_property
    def index(self) -> dict[str, Any]:
        index: dict[str, Any] = json.loads((self.path / INDEX).read_text())
        return index

    @cached_property
    def root(self) -> Path:
        """The directory that holds ``metadata/`` and ``shards/``."""
        return (self.path / self.index["root"]).resolve()

    @property
    def rows(self) -> int:
        """Samples in the metadata."""
        return int(self.index["rows"])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that every metadata file has."""
        return tuple(self.index["columns"])

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The metadata files, in name order."""
        folder = self.root / "metadata"
        return tuple(
            Part(
                parquet=str(folder / part["parquet"]),
                npz=str(folder / part["npz"]) if part["npz"] else "",
                rows=part["rows"],
            )
            for part in self.index["parts"]
        )

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """The tars, in name order."""
        return tuple(self.root / "shards" / name for name in self.index["shards"])


@dataclass(frozen=True, kw_only=True)
class PoolIndex:
    """What ``index.json`` holds. ``root`` is absolute, or relative to the artifact's own directory."""

    root: str
    rows: int
    uids_digest: str
    columns: list[str]
    features: dict[str, int]
    parts: list[dict[str, Any]]
    shards: list[str]

    def write(self, out: Path) -> None:
        """Write ``out/index.json``."""
        write_json(out / INDEX, asdict(self))


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an npz, from their headers alone.

    Raises ValueError for arrays of pickled objects and for files that are no npz.
    """
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, pickled = _npy_header(file)
                if pickled:
                    raise ValueError(f"{path}: array {member!r} holds pickled objects, which could run code; refused")
                shapes[member.removesuffix(".npy")] = shape
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is not a readable npz file (truncated, or something else)") from None
    return shapes


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, bool(dtype.hasobject)
