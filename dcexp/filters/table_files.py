"""Tables of scores that others publish, read piece by piece: a uid and numbers in every row."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.uid import UID, Uids, parse_uids

Piece = tuple[Uids, npt.NDArray[np.float64]]

SUFFIXES = (".parquet", ".csv", ".npz", ".npy")
FORMATS = (
    "a .parquet or .csv with a column uid, a .npz with an array uid, a .npy of numbers with its uids beside it in "
    "NAME.uids.npy, or a folder of such files"
)
BESIDE = ".uids.npy"
UID_NAME, ONLY = "uid", "score"  # ONLY: what the numbers of a .npy are called
ROWS = 1 << 20  # of a table that are held at once


def table_files(path: Path) -> tuple[Path, ...]:
    """The files of a table, in name order; none when there is no such file or folder."""
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()) if path.is_dir() else [path]
    return tuple(p for p in found if p.is_file() and not p.name.endswith(BESIDE))


def pieces(path: Path, column: str) -> Iterator[Piece]:
    """The uids and the numbers in ``column`` of one file, at most ``ROWS`` rows at a time; NaN where there is none.

    Raises ValueError, naming the file, for a column that is not there or holds no numbers, for uids that are none,
    and for files that cannot be read. An .npz is unpacked whole, 24 bytes a row.
    """
    import pyarrow as pa

    read = {".parquet": _parquet, ".csv": _csv, ".npz": _npz, ".npy": _npy}.get(path.suffix)
    try:
        if read is None:
            raise ValueError(f"wanted {FORMATS}")
        yield from read(path, column)
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from None


def _parquet(path: Path, column: str) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    _require(file.schema_arrow.names, column)
    return _of_batches(file.iter_batches(ROWS, columns=[UID_NAME, column], use_threads=False), column)


def _csv(path: Path, column: str) -> Iterator[Piece]:
    import pyarrow as pa
    from pyarrow import csv

    with path.open(encoding="utf-8-sig") as text:
        _require([name.strip('"') for name in text.readline().strip().split(",")], column)
    options = csv.ConvertOptions(
        column_types={UID_NAME: pa.string(), column: pa.float64()}, include_columns=[UID_NAME, column]
    )
    return _of_batches(csv.open_csv(path, convert_options=options), column)


def _of_batches(batches: Iterable[Any], column: str) -> Iterator[Piece]:
    import pyarrow as pa

    for batch in batches:
        kind = batch[column].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"column {column!r} holds {kind}, not numbers")
        yield parse_uids(batch[UID_NAME]), batch[column].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _npz(path: Path, column: str) -> Iterator[Piece]:
    with np.load(path, allow_pickle=False) as archive:
        _require(archive.files, column)
        uids, values = archive[UID_NAME], archive[column]
    return _of_arrays(uids, values, column)


def _npy(path: Path, column: str) -> Iterator[Piece]:
    beside = path.with_name(path.stem + BESIDE)
    if not beside.is_file():
        raise ValueError(f"its uids are to lie beside it in {beside.name}, which is not there")
    _require([UID_NAME, ONLY], column)
    uids, values = (np.load(p, mmap_mode="r", allow_pickle=False) for p in (beside, path))
    return _of_arrays(uids, values, column)


def _of_arrays(uids: npt.NDArray[Any], values: npt.NDArray[Any], column: str) -> Iterator[Piece]:
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        raise ValueError(f"column {column!r} holds {values.dtype} of shape {values.shape}, not one number a row")
    if uids.shape != values.shape or not (uids.dtype == UID or uids.dtype.kind in "US"):
        raise ValueError(f"wanted {len(values):,} uids as text or u8,u8, got {uids.dtype} of shape {uids.shape}")
    for start in range(0, len(values), ROWS):
        own, numbers = uids[start : start + ROWS], values[start : start + ROWS]
        yield own if uids.dtype == UID else parse_uids(own.astype(str).tolist()), numbers.astype(np.float64)


def _require(names: list[str], column: str) -> None:
    if lacking := [name for name in (UID_NAME, column) if name not in names]:
        raise ValueError(f"no column {lacking[0]!r}; it has: {', '.join(names)}")
