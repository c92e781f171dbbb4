"""A table of scores in the order of its uids, so that the rows of any part of a pool find theirs."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.merge import Range, UidFile, ranges, write_uids
from dcexp.artifacts.uid import UID, Uids, firsts, format_uid
from dcexp.engines.base import Engine
from dcexp.filters.table_files import pieces

NOTE = "table.json"
Numbers = npt.NDArray[np.float64]


class ScoreTable(Artifact):
    """``uids.npy``, sorted, each once, and ``values.npy``; ``found-*.npy`` say which rows a part of the pool has."""

    kind = "table"

    def look_up(self, uids: Uids, number: int) -> Numbers:
        """The score of each uid, NaN where there is none, shape (len(uids),); notes which rows part ``number`` has."""
        table, values = (np.load(self.path / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ("uids", "values"))
        at, count = find_in(table, uids)
        there = count > 0
        scores = np.full(len(uids), np.nan)
        scores[there] = values[at[there]]
        with whole_file(self.path / f"found-{number:08d}.npy") as file:
            np.save(file, at[there])
        return scores

    def counts(self) -> dict[str, int]:
        """What :func:`write_table` returned, from the note beside."""
        counts: dict[str, int] = json.loads((self.path / NOTE).read_text())
        return counts

    def unknown(self, total: int) -> int:
        """How many of the table's ``total`` uids no part of the pool has."""
        found = np.zeros(total, dtype=bool)
        for path in self.path.glob("found-*.npy"):
            found[np.load(path, allow_pickle=False)] = True
        return total - int(found.sum())


def write_table(folder: Path, engine: Engine, files: tuple[Path, ...], column: str) -> dict[str, int]:
    """Write the table of ``files`` into ``folder``; returns how many ``rows`` and ``distinct`` uids it has.

    Files are sorted piece by piece and merged range by range. Raises ValueError for a uid with two different scores.
    """
    note = folder / NOTE
    if note.is_file():
        return ScoreTable(folder).counts()
    counts = list(engine.map(partial(_sort, folder, column), list(enumerate(files)), what="sort the table of scores"))
    sources = [folder / f"{number:05d}-{piece:05d}.uids.npy" for number, n in enumerate(counts) for piece in range(n)]
    rows, values = 0, folder / "values.raw"

    def merged(raw: Any) -> Iterator[Uids]:
        nonlocal rows
        for edges in ranges([UidFile(path) for path in sources]):
            uids, numbers = _merged(sources, edges)
            new = _distinct(uids, numbers)
            rows += len(uids)
            raw.write(numbers[new].data)
            yield uids[new]

    with values.open("wb") as raw:
        distinct = write_uids(folder / "uids.npy", merged(raw))
    with whole_file(folder / "values.npy") as file:
        np.save(file, np.memmap(values, np.float64, "r", shape=(distinct,)) if distinct else np.empty(0))
    values.unlink()
    made = {"rows": rows, "distinct": distinct}
    write_json(note, made)
    for path in sources:
        path.unlink()
        path.with_name(path.name.replace(".uids", ".values")).unlink()
    return made


def _sort(folder: Path, column: str, item: tuple[int, Path]) -> int:
    """Write the sorted pieces of one file; returns how many."""
    number, path = item
    note = folder / f"{number:05d}.json"
    if note.is_file():
        return int(json.loads(note.read_text()))
    count = 0
    for uids, values in pieces(path, column):
        order = np.lexsort((uids["f1"], uids["f0"]))
        for name, array in (("uids", uids[order]), ("values", values[order])):
            with whole_file(folder / f"{number:05d}-{count:05d}.{name}.npy") as file:
                np.save(file, array)
        count += 1
    write_json(note, count)
    return count


def _merged(sources: list[Path], edges: Range) -> tuple[Uids, Numbers]:
    uids, values = [np.empty(0, UID)], [np.empty(0)]
    for path in sources:
        first, last = (file := UidFile(path)).span(edges)
        uids.append(file.slice(edges))
        beside = path.with_name(path.name.replace(".uids", ".values"))
        values.append(np.load(beside, mmap_mode="r", allow_pickle=False)[first:last])
    own, numbers = np.concatenate(uids), np.concatenate(values)
    order = np.lexsort((own["f1"], own["f0"]))
    return own[order], numbers[order]


def _distinct(uids: Uids, values: Numbers) -> npt.NDArray[np.bool_]:
    """True where a sorted uid stands first. Raises ValueError when it stands again with another score."""
    new = firsts(uids)
    again = np.flatnonzero(~new)
    a, b = values[again - 1], values[again]
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if differ.any():
        i = int(differ.argmax())
        raise ValueError(
            f"the table gives the uid {format_uid(uids[again[i]])} two scores, {a[i]} and {b[i]}; leave one of them out"
        )
    return new
