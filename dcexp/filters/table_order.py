"""The uids of a table in order, so that any part of a pool finds its own: sorted piece by piece, merged by ranges."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.merge import Range, UidFile, ranges, write_uids
from dcexp.artifacts.uid import UID, Indices, Uids, begins, firsts
from dcexp.engines.base import Engine
from dcexp.filters.table_files import uid_pieces

UIDS, ROWS, AGAIN = "uids.npy", "rows.npy", "again.npy"
NOTE = "rows.json"

Source = tuple[Path, int]  # a sorted piece of a file, and how many rows of the table there are before that file


def sort_table(folder: Path, engine: Engine, files: tuple[Path, ...]) -> list[int]:
    """Write the order of the table of ``files`` into ``folder``; returns how many rows each file has.

    ``uids.npy`` holds every uid once, sorted; ``rows.npy`` the first row in which it stands, counted through all
    files; ``again.npy`` pairs each other row with that first one, shape (n, 2).
    """
    if (note := folder / NOTE).is_file():
        return list(json.loads(note.read_text()))
    lengths = list(engine.map(partial(_sort, folder), list(enumerate(files)), what="sort the table of scores"))
    rows = [sum(pieces) for pieces in lengths]
    before = np.append(0, np.cumsum(rows)).tolist()
    sources = [(_piece(folder, i, k), before[i]) for i, pieces in enumerate(lengths) for k, _ in enumerate(pieces)]
    _merge(folder, sources)
    write_json(note, rows)
    for path, _ in sources:
        path.unlink()
        _rows_beside(path).unlink()
    return rows


def _sort(folder: Path, item: tuple[int, Path]) -> list[int]:
    """Write the sorted pieces of one file; returns how many rows each has."""
    number, path = item
    note = folder / f"{number:05d}.json"
    if note.is_file():
        return list(json.loads(note.read_text()))
    lengths: list[int] = []
    for uids in uid_pieces(path):
        order = np.lexsort((uids["f1"], uids["f0"]))
        piece = _piece(folder, number, len(lengths))
        for name, array in ((piece, uids[order]), (_rows_beside(piece), order + sum(lengths))):
            with whole_file(name) as file:
                np.save(file, array)
        lengths.append(len(uids))
    write_json(note, lengths)
    return lengths


def _merge(folder: Path, sources: list[Source]) -> None:
    """Write what the sorted pieces hold together."""

    def chunks(rows: IO[bytes], again: IO[bytes]) -> Iterator[Uids]:
        for edges in ranges([UidFile(path) for path, _ in sources]):
            uids, numbers = _merged(sources, edges)
            new = firsts(uids)
            first = numbers[begins(new)]
            rows.write(numbers[new].data)
            again.write(np.stack([numbers[~new], first[~new]], axis=1).data)
            yield uids[new]

    raw = {name: (folder / name).with_suffix(".raw") for name in (ROWS, AGAIN)}
    with raw[ROWS].open("wb") as rows, raw[AGAIN].open("wb") as again:
        write_uids(folder / UIDS, chunks(rows, again))
    for name, path in raw.items():
        _save_raw(path, folder / name, (-1,) if name == ROWS else (-1, 2))


def _merged(sources: list[Source], edges: Range) -> tuple[Uids, Indices]:
    """The uids of a range, sorted, and the row of each; equal uids in the order of their rows."""
    uids, rows = [np.empty(0, UID)], [np.empty(0, np.int64)]
    for path, before in sources:
        first, last = (file := UidFile(path)).span(edges)
        uids.append(file.slice(edges))
        rows.append(np.load(_rows_beside(path), mmap_mode="r", allow_pickle=False)[first:last] + before)
    own, numbers = np.concatenate(uids), np.concatenate(rows)
    order = np.lexsort((own["f1"], own["f0"]))
    return own[order], numbers[order]


def _save_raw(raw: Path, path: Path, shape: tuple[int, ...]) -> None:
    """Write the whole numbers of a bare file as a .npy, and take the bare file away."""
    size = raw.stat().st_size
    numbers: npt.NDArray[np.int64] = np.memmap(raw, np.int64, "r") if size else np.empty(0, np.int64)
    with whole_file(path) as file:
        np.save(file, numbers.reshape(shape))
    raw.unlink()


def _piece(folder: Path, number: int, piece: int) -> Path:
    return folder / f"{number:05d}-{piece:05d}.uids.npy"


def _rows_beside(path: Path) -> Path:
    return path.with_name(path.name.replace(".uids", ".rows"))
