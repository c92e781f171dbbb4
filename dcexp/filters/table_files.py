"""Tables of scores that others publish, read a column at a time and piece by piece: a uid and numbers in every row."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.uid import UID, Uids, parse_uids

Numbers = npt.NDArray[np.float64]

FORMATS = (
    "a .parquet or .csv with a column uid, a .npz with an array uid, a .npy of numbers with its uids beside it in "
    "NAME.uids.npy, or a folder of such files"
)
BESIDE = ".uids.npy"
UID_NAME, ONLY = "uid", "score"  # ONLY: what the numbers of a .npy are called
ROWS = 1 << 20  # of a table that are held at once
CHUNK = 1 << 16  # rows that are decoded at once, which takes several times as much memory


def table_files(path: Path) -> tuple[Path, ...]:
    """The files of a table, in name order; none when there is no such file or folder."""
    found = sorted(p for p in path.iterdir() if p.suffix in KINDS) if path.is_dir() else [path]
    return tuple(p for p in found if p.is_file() and not p.name.endswith(BESIDE))


def uids_beside(path: Path) -> Path:
    """Where the uids of a .npy lie."""
    return path.with_name(path.stem + BESIDE)


def require_column(path: Path, column: str) -> None:
    """Raise ValueError, naming the file, when it has no uids or no ``column``, or two of that name."""
    with _speaking_of(path):
        names = _kind(path).names(path)
        for name in (UID_NAME, column):
            if (times := names.count(name)) != 1:
                many = f"{times} columns" if times else "no column"
                raise ValueError(f"{many} {name!r}; it has: {', '.join(names)}")


def uid_pieces(path: Path) -> Iterator[Uids]:
    """The uids of one file, row by row, about ``ROWS`` at a time.

    Raises ValueError, naming the file, for uids that are none, and for files that cannot be read.
    """
    return _pieces(path, UID_NAME, _uids)


def number_pieces(path: Path, column: str) -> Iterator[Numbers]:
    """The numbers in ``column`` of one file, row by row, about ``ROWS`` at a time; NaN where there is none.

    Raises ValueError, naming the file, for what holds no numbers, and for files that cannot be read. An array of a
    .npz is unpacked whole.
    """
    return _pieces(path, column, _numbers)


def _pieces(path: Path, column: str, convert: Callable[[Any], Any]) -> Iterator[Any]:
    require_column(path, column)
    held: list[Any] = []
    with _speaking_of(path, column):
        for chunk in _converted(_kind(path).chunks(path, column), convert):
            if held and sum(map(len, held)) + len(chunk) > ROWS:
                yield np.concatenate(held)
                held = []
            held.append(chunk)
        if held:
            yield np.concatenate(held)


def _converted(chunks: Iterable[Any], convert: Callable[[Any], Any]) -> Iterator[Any]:
    start = 0
    for chunk in chunks:
        try:
            yield convert(chunk)
        except ValueError as error:
            raise ValueError(f"{error} (rows counted from row {start:,} on)" if start else str(error)) from None
        start += len(chunk)


@contextmanager
def _speaking_of(path: Path, column: str = "") -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        raise ValueError(f"{path}: {f'column {column!r}: ' * bool(column)}{error}") from None


def _uids(chunk: Any) -> Uids:
    if not isinstance(chunk, np.ndarray):
        return parse_uids(chunk)
    if chunk.dtype == UID:
        return chunk
    if chunk.dtype.kind not in "US":
        raise ValueError(f"wanted uids as text or u8,u8, got {chunk.dtype}")
    return parse_uids(chunk.astype(str).tolist())


def _numbers(chunk: Any) -> Numbers:
    import pyarrow as pa

    if isinstance(chunk, np.ndarray):
        if chunk.dtype.kind not in "fiu":
            raise ValueError(f"it holds {chunk.dtype}, not numbers")
        return chunk.astype(np.float64)
    kind = chunk.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise ValueError(f"it holds {kind}, not numbers")
    numbers: Numbers = chunk.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How files of one kind are read: the names of their columns, and one column chunk by chunk."""

    names: Callable[[Path], list[str]]
    chunks: Callable[[Path, str], Iterable[Any]]


def _kind(path: Path) -> Kind:
    if path.suffix not in KINDS:
        raise ValueError(f"wanted {FORMATS}")
    return KINDS[path.suffix]


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
