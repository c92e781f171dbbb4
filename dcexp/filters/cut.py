"""Cuts: keep rows by one number each, a column of the metadata, above a value or within the top of the pool."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter, finish, require

Scores = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Cut(Filter):
    """A filter that looks at one score per row. A row whose score is null or NaN is missing and never kept."""

    @property
    def score(self) -> str:
        """The column that is looked at."""
        raise NotImplementedError(f"{type(self).__name__} has no score")


@dataclass(frozen=True, kw_only=True)
class ThresholdCut(Cut):
    """Keeps rows whose score is ``threshold`` or higher (the code's rule; the paper's text says "exceed")."""

    threshold: float

    def run(self, out: Path, engine: Engine, *, pool: Pool) -> Summary:
        """Cut every part at the threshold."""
        require(self, pool, [self.score])
        items = [(part, self.threshold, part.rows) for part in pool.parts]
        return finish(self, out, pool, engine.map(partial(_cut, self.score), items, what=f"filter: {self.label}"))


@dataclass(frozen=True, kw_only=True)
class FractionCut(Cut):
    """Keeps the top ``fraction`` of the pool, 0 to 1.

    With N rows and n = int(N * fraction), the threshold is the score at index n in descending order, counted from
    0, and ``ties="include"`` keeps all scores that reach it: n + 1 rows, or more when scores are equal. That is
    upstream's rule. ``ties="exact"`` keeps n rows; of equal scores the first in the pool's own order. Missing
    scores count in N and come last. ``fraction=1`` keeps every row that has a score.
    """

    fraction: float
    ties: Literal["include", "exact"] = "include"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"filter.fraction={self.fraction}: wanted more than 0 and at most 1 (0.3 is 30 %)")

    def run(self, out: Path, engine: Engine, *, pool: Pool) -> Summary:
        """Find the threshold over the whole pool, then cut every part at it."""
        require(self, pool, [self.score])
        read = engine.map(partial(read_scores, self.score), pool.parts, what=f"read {self.score}")
        parts = list(read)
        threshold, ties = top(np.concatenate(parts), self.fraction, exact=self.ties == "exact")
        items = list(_with_ties(pool.parts, parts, threshold, ties))
        del parts
        kept = engine.map(partial(_cut, self.score), items, what=f"filter: {self.label}")
        summary = finish(self, out, pool, kept)
        return Summary(counts=summary.counts, facts={**summary.facts, "threshold": threshold})


@dataclass(frozen=True, kw_only=True)
class Threshold(ThresholdCut):
    """Keeps rows whose number in ``column`` is ``threshold`` or higher."""

    column: str

    @property
    def score(self) -> str:
        return self.column


@dataclass(frozen=True, kw_only=True)
class TopFraction(FractionCut):
    """Keeps the top ``fraction`` of the pool by the number in ``column``."""

    column: str

    @property
    def score(self) -> str:
        return self.column


def top(scores: Scores, fraction: float, *, exact: bool) -> tuple[float, int]:
    """The threshold for the top ``fraction`` of ``scores``, and how many of the scores equal to it to keep."""
    n, present = int(len(scores) * fraction), scores[~np.isnan(scores)]
    if len(present) == 0 or (exact and n == 0):
        return float("inf"), 0
    if fraction == 1 or n >= len(present) + exact:
        return float(present.min()), len(present)
    place = len(present) - 1 - (n - exact)
    threshold = np.partition(present, place)[place]
    ties = n - int((present > threshold).sum()) if exact else len(present)
    return float(threshold), ties


def _with_ties(
    parts: Sequence[Part], scores: Sequence[Scores], threshold: float, ties: int
) -> Iterator[tuple[Part, float, int]]:
    """Hand out the ties that are to be kept, first come, first served."""
    for part, mine in zip(parts, scores, strict=True):
        take = min(ties, int((mine == threshold).sum()))
        ties -= take
        yield part, threshold, take


def read_scores(column: str, part: Part) -> Scores:
    """One number per row of a part, shape (rows,); NaN where there is none. Raises ValueError for a text column."""
    return _scores_in(part, part.table([column]), column)


def _scores_in(part: Part, table: Any, column: str) -> Scores:
    import pyarrow as pa

    kind = table[column].type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise ValueError(f"{part.parquet}: column {column!r} holds {kind}, not numbers, so there is nothing to cut")
    return table[column].to_numpy()


def _cut(column: str, item: tuple[Part, float, int]) -> tuple[Uids, int]:
    """The uids above the threshold, with the first ``ties`` of those at it; and the rows without a score."""
    part, threshold, ties = item
    table = part.table(["uid", column])
    scores = _scores_in(part, table, column)
    mask = scores >= threshold
    if ties < part.rows:
        mask[np.flatnonzero(scores == threshold)[ties:]] = False
    return part.uids_in(table)[mask], int(np.isnan(scores).sum())
