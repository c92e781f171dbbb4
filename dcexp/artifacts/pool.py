"""The pool: which samples exist, where their metadata, features and shards lie. An index, never a copy."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import INDEX, Indexed
from dcexp.artifacts.files import write_json
from dcexp.artifacts.place import below
from dcexp.artifacts.uid import Uids, uid_bytes, uids_from_bytes

AVAILABLE = "available.npy"


REMEDY = "Download it again, or leave out what is damaged: source.skip_corrupt=true"


class DamagedError(ValueError):
    """A metadata file, or the features beside it, that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One metadata file of a pool, with the features beside it: what a worker is given."""

    parquet: str
    npz: str
    rows: int

    def head(self, columns: Sequence[str], rows: int) -> Any:
        """The named columns of the first ``rows`` rows as a pyarrow Table, without reading on."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.parquet, memory_map=True, pre_buffer=False)
            batch = next(file.iter_batches(max(rows, 1), columns=list(columns), use_threads=False), None)
            return pa.Table.from_batches([batch] if batch else [], file.schema_arrow if batch is None else batch.schema)
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"{self.parquet} cannot be read: {error}. {REMEDY}") from None

    def table(self, columns: Sequence[str]) -> Any:
        """The named columns as a pyarrow Table of ``rows`` rows.

        Raises DamagedError for a file that cannot be read, ValueError for one that has changed since the pool was
        indexed.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Threads of Arrow's own would compete with the other workers.
            file = pq.ParquetFile(self.parquet, memory_map=True, pre_buffer=False)
            table = file.read(columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"{self.parquet} cannot be read: {error}. {REMEDY}") from None
        if table.num_rows != self.rows:
            raise ValueError(
                f"{self.parquet} has {table.num_rows:,} rows; it had {self.rows:,} when the pool was indexed. "
                "Index the pool again: rebuild=pool"
            )
        return table

    def uids(self) -> Uids:
        """The uids in row order, shape (rows,), dtype u8,u8."""
        return self.uids_in(self.table(["uid"]))

    def uids_in(self, table: Any) -> Uids:
        """The uids in a table of this part that has the column ``uid``."""
        return uids_from_bytes(self.uid_bytes_in(table))

    def uid_bytes_in(self, table: Any) -> bytes:
        """The same as 16 big-endian bytes each."""
        try:
            return uid_bytes(table["uid"])
        except ValueError as error:
            raise ValueError(f"{self.parquet}: {error}") from None

    def features(self, name: str) -> npt.NDArray[np.floating]:
        """The CLIP features ``b32_img``, ``b32_txt``, ``l14_img`` or ``l14_txt``, shape (rows, width)."""
        if not self.npz:
            raise FileNotFoundError(f"{self.parquet} has no .npz beside it, so it has no features {name!r}")
        try:
            with np.load(self.npz, allow_pickle=False) as arrays:
                if name in arrays:
                    return arrays[name]
                there = ", ".join(arrays.files)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise DamagedError(f"{self.npz} cannot be read: {error}. {REMEDY}") from None
        raise ValueError(f"{self.npz} has no features {name!r}; it has: {there}")


class Pool(Indexed):
    """The index of a pool: metadata parts, feature widths, shards, and a digest of all uids.

    ``root`` holds ``metadata/`` and ``shards/``.
    """

    kind = "pool"

    @property
    def rows(self) -> int:
        """Samples in the metadata."""
        return int(self.index["rows"])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that every metadata file has."""
        return tuple(self.index["columns"])

    @cached_property
    def features(self) -> dict[str, int]:
        """Features that every part has, and their widths."""
        return dict(self.index["features"])

    @property
    def derived_uids(self) -> bool:
        """Whether a sample whose json holds no uid has one derived from its place (see ``artifacts.samples``)."""
        return bool(self.index.get("derived_uids", False))

    @property
    def skip_corrupt(self) -> bool:
        """Whether a part found damaged later is to be left out and counted, not to stop the work."""
        return bool(self.index["skip_corrupt"])

    @property
    def available(self) -> int | None:
        """How many different uids the shards hold; None without shards, and for shards in an object store."""
        available: int | None = self.index["available"]
        return available

    @property
    def available_uids(self) -> Path | None:
        """A file of the uids in the shards, sorted, each once; None where there are no shards, or none is lacking."""
        path = self.path / AVAILABLE
        return path if path.is_file() else None

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
    def shards(self) -> tuple[str, ...]:
        """The tars, in name order: paths, or URLs (a name in the index may be absolute: joining keeps it)."""
        return tuple(below(str(self.root / "shards"), name) for name in self.index["shards"])


@dataclass(frozen=True, kw_only=True)
class PoolIndex:
    """What ``index.json`` holds.

    ``root`` is absolute, or relative to the artifact's own directory; a shard is a file name below
    ``root/shards``, an absolute path, or a URL. ``features`` maps each feature that every part has to its width.
    ``available`` counts the different uids in the shards (None where they are not looked into).
    """

    root: str
    rows: int
    metadata_digest: str
    columns: list[str]
    features: dict[str, int]
    parts: list[dict[str, Any]]
    shards: list[str]
    available: int | None = None
    derived_uids: bool = False
    skip_corrupt: bool = False

    def write(self, out: Path) -> None:
        """Write ``out/index.json``."""
        write_json(out / INDEX, asdict(self))
