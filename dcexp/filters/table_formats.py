"""The kinds of files that tables of scores come in: the names of their columns, and one column chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMATS = (
    "a .parquet or .csv with a column uid, a .npz with an array uid, a .npy of numbers with its uids beside it in "
    "NAME.uids.npy, or a folder of such files"
)
BESIDE = ".uids.npy"
UID_NAME, ONLY = "uid", "score"  # ONLY: what the numbers of a .npy are called
CHUNK = 1 << 16  # rows that are decoded at once, which takes several times as much memory


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How files of one kind are read: what their columns are called; and a column, as arrays of pyarrow or numpy."""

    names: Callable[[Path], list[str]]
    chunks: Callable[[Path, str], Iterable[Any]]


def kind_of(path: Path) -> Kind:
    """How a file is read. Raises ValueError when it is none of a table."""
    if path.suffix not in KINDS:
        raise ValueError(f"wanted {FORMATS}")
    return KINDS[path.suffix]


def uids_beside(path: Path) -> Path:
    """Where the uids of a .npy lie."""
    return path.with_name(path.stem + BESIDE)


def _parquet_names(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.ParquetFile(path).schema_arrow.names)


def _parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    return (batch[column] for batch in file.iter_batches(CHUNK, columns=[column], use_threads=False))


def _csv_names(path: Path) -> list[str]:
    return list(_open_csv(path, {}).schema.names)


def _csv(path: Path, column: str) -> Iterator[Any]:
    import pyarrow as pa

    kind = pa.string() if column == UID_NAME else pa.float64()
    return (batch[column] for batch in _open_csv(path, {"column_types": {column: kind}, "include_columns": [column]}))


def _open_csv(path: Path, convert: dict[str, Any]) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(**convert),
    )


def _npz_names(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.files)


def _npz(path: Path, column: str) -> Iterator[Any]:
    with np.load(path, allow_pickle=False) as archive:
        return _slices(archive[column])


def _npy_names(path: Path) -> list[str]:
    if not (beside := uids_beside(path)).is_file():
        raise ValueError(f"its uids are to lie beside it in {beside.name}, which is not there")
    return [UID_NAME, ONLY]


def _npy(path: Path, column: str) -> Iterator[Any]:
    return _slices(np.load(uids_beside(path) if column == UID_NAME else path, mmap_mode="r", allow_pickle=False))


def _slices(array: npt.NDArray[Any]) -> Iterator[Any]:
    if array.ndim != 1:
        raise ValueError(f"it has the shape {array.shape}, not one entry a row")
    return (array[start : start + CHUNK] for start in range(0, len(array), CHUNK))


KINDS = {
    ".parquet": Kind(names=_parquet_names, chunks=_parquet),
    ".csv": Kind(names=_csv_names, chunks=_csv),
    ".npz": Kind(names=_npz_names, chunks=_npz),
    ".npy": Kind(names=_npy_names, chunks=_npy),
}
