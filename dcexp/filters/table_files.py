"""Tables of scores that others publish, read a column at a time and piece by piece: a uid and numbers in every row."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.uid import UID, Uids, parse_uids
from dcexp.filters.table_formats import BESIDE, KINDS, UID_NAME, kind_of

Numbers = npt.NDArray[np.float64]

ROWS = 1 << 20  # of a table that are held at once


def table_files(path: Path) -> tuple[Path, ...]:
    """The files of a table, in name order; none when there is no such file or folder."""
    found = sorted(p for p in path.iterdir() if p.suffix in KINDS) if path.is_dir() else [path]
    return tuple(p for p in found if p.is_file() and not p.name.endswith(BESIDE))


def require_column(path: Path, column: str) -> None:
    """Raise ValueError, naming the file, when it has no uids or no ``column``, or two of that name."""
    with _speaking_of(path):
        names = kind_of(path).names(path)
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
        for chunk in _converted(kind_of(path).chunks(path, column), convert):
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
