"""What every filter is: a stage that makes a subset of a pool; and the part-by-part kind most filters are of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.subset import Subset, write_subset
from dcexp.artifacts.uid import UID, Uids, firsts
from dcexp.engines.base import Engine
from dcexp.stage import Stage, Step

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Filter(Stage):
    """Chooses samples. Write ``run``, which ends with :func:`finish`; or use :class:`ShardFilter`."""

    makes = Subset

    def step(self, pool: Step) -> Step:
        """This filter applied to a pool. A filter that needs other steps (other subsets, scores) adds them here."""
        return Step(self, {"pool": pool})


@dataclass(frozen=True)
class Rows:
    """The rows of one part in which nothing that the filter needs is missing.

    ``table`` is a pyarrow Table of the filter's columns, without nulls or NaNs.
    """

    part: Part
    table: Any
    complete: Mask

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def features(self, name: str) -> npt.NDArray[np.floating]:
        """CLIP features of these rows, shape (len(rows), width)."""
        features = self.part.features(name)
        return features if self.complete.all() else features[self.complete]


@dataclass(frozen=True, kw_only=True)
class ShardFilter(Filter):
    """A filter that decides row by row: write ``keep``, and name the ``columns`` and ``features`` it needs.

    Rows where one of the columns is null or NaN are counted as missing; ``keep`` never meets them.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def needs(self) -> tuple[str, ...]:
        """The columns needed; for filters where a field decides that."""
        return self.columns

    def keep(self, rows: Rows) -> Mask:
        """True for the rows to keep, shape (len(rows),)."""
        raise NotImplementedError(f"{type(self).__name__} has no keep()")

    def run(self, out: Path, engine: Engine, *, pool: Pool) -> Summary:
        """Apply ``keep`` to every part of the pool and write the subset."""
        require(self, pool, self.needs(), self.features)
        kept = engine.map(partial(_keep, self), pool.parts, what=f"filter: {self.label}")
        return finish(self, out, pool, kept)


def _keep(stage: ShardFilter, part: Part) -> tuple[Uids, int]:
    """The kept uids of one part, and how many rows lack something."""
    columns = stage.needs()
    table = part.table(("uid", *(name for name in columns if name != "uid")))
    complete = complete_rows(table, columns)
    rows = Rows(part=part, table=table if complete.all() else table.filter(complete), complete=complete)
    mask = np.asarray(stage.keep(rows), dtype=bool)
    assert mask.shape == (len(rows),), f"{type(stage).__name__}.keep: wanted {len(rows)} answers, got {mask.shape}"
    chosen = np.flatnonzero(complete)[mask]
    return part.uids_in(table)[chosen], int(part.rows - complete.sum())


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


def require(stage: Stage, pool: Pool, columns: Sequence[str], features: Sequence[str] = ()) -> None:
    """Raise ValueError when the pool lacks a column or feature, naming it and those that exist."""
    for what, needed, there in (("column", columns, pool.columns), ("feature", features, pool.features)):
        lacking = [name for name in needed if name not in there]
        if lacking:
            raise ValueError(
                f"{type(stage).__name__} needs the {what} {lacking[0]!r}, which not every metadata file of the pool at "
                f"{pool.root} has; they all have: {', '.join(there) or 'none'}"
            )


def finish(stage: Stage, out: Path, pool: Pool, kept: Iterable[tuple[Uids, int]]) -> Summary:
    """Write the subset from the kept uids and the missing rows of every part, and account for all rows.

    Raises ValueError when nothing is kept. A uid that the pool has in several rows stays that often.
    """
    chosen, filled, missing = np.empty(pool.rows, UID), 0, 0
    for uids, lacking in kept:
        chosen[filled : filled + len(uids)] = uids
        filled, missing = filled + len(uids), missing + lacking
    if filled == 0:
        without = f" ({missing:,} of them lack what it looks at)" if missing else ""
        raise ValueError(f"{stage.label} kept 0 of {pool.rows:,} samples{without}; loosen the filter's settings")
    chosen = write_subset(out, chosen[:filled])
    counts = Counts(total=pool.rows, kept=filled, dropped=pool.rows - filled - missing, missing=missing)
    return Summary(counts=counts, facts={"taken": len(chosen), "distinct": int(firsts(chosen).sum())})
