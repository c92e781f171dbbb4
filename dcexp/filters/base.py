"""What every filter is: a stage that makes a subset of a pool; and the row-by-row kind most filters are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.engines.base import Engine
from dcexp.filters.examples import Scored, no_scores
from dcexp.filters.rows import Mask, Rows, View
from dcexp.filters.selection import Decision, select
from dcexp.stage import Stage, Step

FractionOf = Literal["pool", "input"]

BESIDE = ("scores", "centroids", "clusters", "moment")  # kinds of artifacts that filters need, beside pool and subsets


@dataclass(frozen=True, kw_only=True)
class Filter(Stage):
    """Chooses samples. Write ``run``, which ends with :func:`select`; or use :class:`ShardFilter`."""

    makes = Subset

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """This filter applied to a pool, or to those of its samples that another subset, ``within``, has kept.

        ``fraction_of`` says of what a fraction is one then: of the pool, or of that subset. A filter that needs
        other steps (subsets, scores) adds them in :meth:`extra`.
        """
        return Step(self, {"pool": pool, **self.extra(pool), **({"within": within} if within else {})})

    def extra(self, pool: Step) -> dict[str, Any]:
        """What is needed besides the pool: other steps, and values that tell outside files apart."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ShardFilter(Filter):
    """A filter that decides row by row: write ``keep``, and name the ``columns`` and ``features`` it needs.

    Rows where one of the columns is null or NaN are counted as missing; ``keep`` never meets them. What decides
    row by row can be done together: an intersection asks such filters in the order of their ``effort`` (0 numbers,
    1 text, 2 a language model, 3 features), each about the rows that the ones before have kept.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()
    effort: ClassVar[int] = 1

    def needs(self) -> tuple[str, ...]:
        """The columns needed; for filters where a field decides that."""
        return self.columns

    def keep(self, rows: Rows, **extra: Artifact) -> Mask:
        """True for the rows to keep, shape (len(rows),). ``extra`` are the artifacts of :meth:`extra`'s steps."""
        raise NotImplementedError(f"{type(self).__name__} has no keep()")

    def scored(self, **extra: Any) -> Scored:
        """What gives the numbers that decide, where it is a number that does; they are shown with examples."""
        return no_scores

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks one of the columns or features."""
        require(self, pool, self.needs(), self.features)

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """Apply ``keep`` to every part of the pool and write the subset."""
        self.check_pool(pool)
        artifacts = {name: value for name, value in extra.items() if isinstance(value, Artifact)}
        scores = artifacts.get("scores")
        view = View(columns=self.needs(), within=inside(within), scores=scores if isinstance(scores, Scores) else None)
        decide, scored = partial(_decide, self, artifacts), self.scored(**artifacts)
        return select(self, out, engine, pool=pool, view=view, decide=decide, scored=scored)


def _decide(stage: ShardFilter, artifacts: dict[str, Artifact], rows: Rows, _: Any) -> Decision:
    return Decision(times=kept_rows(stage, rows, artifacts))


def kept_rows(stage: ShardFilter, rows: Rows, artifacts: dict[str, Artifact]) -> Mask:
    """What a row-by-row filter answers, with its form checked."""
    mask = np.asarray(stage.keep(rows, **artifacts), dtype=bool)
    assert mask.shape == (len(rows),), f"{type(stage).__name__}.keep: wanted {len(rows)} answers, got {mask.shape}"
    return mask


def inside(within: Subset | None) -> dict[str, Path]:
    """The list of an earlier filter's survivors, under its name, as :class:`View` wants it."""
    return {within.path.name: within.path / SUBSET} if within else {}


def require(stage: Stage, pool: Pool, columns: Sequence[str], features: Sequence[str] = ()) -> None:
    """Raise ValueError when the pool lacks a column or feature, naming it and those that exist."""
    for what, needed, there in (("column", columns, pool.columns), ("feature", features, pool.features)):
        lacking = [name for name in needed if name not in there]
        if lacking:
            raise ValueError(
                f"{type(stage).__name__} needs the {what} {lacking[0]!r}, which not every metadata file of the pool at "
                f"{pool.root} has; they all have: {', '.join(there) or 'none'}" + _bare(pool) * (what == "feature")
            )


def _bare(pool: Pool) -> str:
    """How many metadata files have no features at all, one of them, and what can be done."""
    if not (bare := [Path(part.parquet).name for part in pool.parts if not part.npz]):
        return ""
    some = f"{len(bare):,} of its {len(pool.parts):,} files have no .npz beside them, as {bare[0]}"
    return f". {some}; for tars of your own, python -m dcexp score makes them"
