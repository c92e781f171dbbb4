"""What a filter sees of a pool: some rows of one part at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.pool import DamagedError, Part
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.uid import Uids, is_text
from dcexp.engines.base import Engine

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one part that a filter is asked about, and in which nothing that it needs is missing.

    ``table`` is a pyarrow Table of the filter's columns, without nulls or NaNs, texts valid UTF-8. ``where`` says
    which rows of the part these are, shape (part.rows,); ``number`` is the part's place in the pool.
    """

    part: Part
    number: int
    table: Any
    where: Mask

    def __len__(self) -> int:
        return int(self.where.sum())

    def features(self, name: str) -> npt.NDArray[np.floating]:
        """CLIP features of these rows, shape (len(rows), width)."""
        return self.of_part(self.part.features(name))

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A column of these rows, floating point or whole. Raises ValueError when it does not hold numbers."""
        import pyarrow as pa

        kind = self.table[name].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"{self.part.parquet}: column {name!r} holds {kind}, not numbers")
        values: npt.NDArray[Any] = self.table[name].to_numpy()
        return values

    def of_part(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What belongs to these rows of an array with one entry for each row of the part."""
        return values if self.where.all() else values[self.where]

    def uids(self) -> Uids:
        """The uids of these rows."""
        return self.part.uids_in(self.table)

    def those(self, mask: Mask) -> "Rows":
        """Some of these rows: ``mask`` has shape (len(self),)."""
        where = self.where.copy()
        where[where] = mask
        return Rows(part=self.part, number=self.number, table=self.table.filter(mask), where=where)


@dataclass(frozen=True, kw_only=True)
class View:
    """Which rows are looked at: those that stand in every list ``within`` (sorted .npy files) and lack nothing.

    ``columns`` are read and have to be there in every row, and so has the number in ``scores``, if any; ``within``
    maps a name for the funnel to a file. ``skip_corrupt`` is the pool's (see :func:`unless_damaged`).
    """

    columns: tuple[str, ...] = ()
    within: dict[str, Path] = field(default_factory=dict)
    scores: Scores | None = None
    skip_corrupt: bool = False

    def rows(self, number: int, part: Part, *, uids: bool = True) -> tuple[Rows, dict[str, int]]:
        """The rows of one part, and how many others there are, by reason: names of ``within``, missing, corrupt."""
        names = dict.fromkeys([*(["uid"] if uids or self.within else []), *self.columns])
        table = plain(part.table(list(names)))
        if "text" in names and not is_text(kind := table["text"].type):
            raise ValueError(f"{part.parquet}: column 'text' holds {kind}, not text")
        where, others = np.ones(part.rows, dtype=bool), {}
        if self.within:
            own = part.uids_in(table)
            for name, path in self.within.items():
                inside = find_in(np.load(path, mmap_mode="r", allow_pickle=False), own)[1] > 0
                others[name] = int((where & ~inside).sum())
                where &= inside
        readable, complete = _readable(table, self.columns), complete_rows(table, self.columns)
        if self.scores:
            complete &= ~np.isnan(self.scores.of_part(number))
            readable &= not self.scores.is_damaged(number)
        others |= {"corrupt": int((where & ~readable).sum()), "missing": int((where & readable & ~complete).sum())}
        where &= readable & complete
        rows = Rows(part=part, number=number, table=table if where.all() else table.filter(where), where=where)
        return rows, others


Made = TypeVar("Made")


def unless_damaged(skip: bool, work: Callable[[], Made], otherwise: Made) -> Made:
    """What ``work`` makes of a part; ``otherwise`` where its files cannot be read and the pool says to skip that."""
    try:
        return work()
    except DamagedError:
        if not skip:
            raise
        return otherwise


def count_rows(engine: Engine, parts: Sequence[Part], view: View) -> int:
    """How many rows of all parts are in a view."""
    return sum(engine.map(partial(_count, view), list(enumerate(parts)), what="count"))


def _count(view: View, item: tuple[int, Part]) -> int:
    return unless_damaged(view.skip_corrupt, lambda: len(view.rows(*item)[0]), 0)


def plain(table: Any) -> Any:
    """A table without the types that writers choose by themselves: dictionaries, and null for an empty column."""
    import pyarrow as pa

    for i, (name, kind) in enumerate(zip(table.column_names, table.schema.types, strict=True)):
        if pa.types.is_dictionary(kind):
            table = table.set_column(i, name, table[name].cast(kind.value_type))
        elif pa.types.is_null(kind):
            meant = pa.string() if name in ("uid", "text") else pa.float64()
            table = table.set_column(i, name, table[name].cast(meant))
    return table


def complete_rows(table: Any, columns: Iterable[str]) -> Mask:
    """True for the rows of a pyarrow Table in which no named column is null or NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    complete = np.ones(table.num_rows, dtype=bool)
    for name in columns:
        column = table[name]
        if column.null_count or pa.types.is_floating(column.type):
            complete &= ~pc.is_null(column, nan_is_null=True).to_numpy()
    return complete


def _readable(table: Any, columns: Iterable[str]) -> Mask:
    """True for the rows whose texts are valid UTF-8 (a lone surrogate is not)."""
    import pyarrow as pa

    readable = np.ones(table.num_rows, dtype=bool)
    for name in columns:
        column = table[name]
        if name == "uid" or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            readable &= np.array([_is_utf8(raw) for raw in column.cast(pa.large_binary()).to_pylist()])
    return readable


def _is_utf8(raw: bytes | None) -> bool:
    try:
        return raw is None or raw.decode() is not None
    except UnicodeDecodeError:
        return False
