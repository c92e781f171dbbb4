"""Scores: one number per sample, made once, by which any number of selections can cut."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Scores, damaged_mark, scores_file, write_scores
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.base import inside, require
from dcexp.filters.rows import Rows, View, count_rows, unless_damaged
from dcexp.stage import Stage, Step

Numbers = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    """Gives every row of a pool a number. Write ``score``; name the ``columns`` and ``features`` it needs.

    Rows where one of the columns is null or NaN have no score (NaN). A score is ``relative`` when it depends on which
    other rows there are: after another filter, on those that this has kept.
    """

    makes = Scores

    columns: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()
    relative: ClassVar[bool] = False

    def needs(self) -> tuple[str, ...]:
        """The columns needed; for scores where a field decides that."""
        return self.columns

    def step(self, pool: Step, within: Step | None = None) -> Step:
        """This score of a pool; a relative one, of what the subset ``within`` has kept of it."""
        within = within if self.relative else None
        return Step(self, {"pool": pool, **self.extra(pool), **({"within": within} if within else {})})

    def extra(self, pool: Step) -> dict[str, Any]:
        """What is needed besides the pool: other steps, and values that tell outside files apart."""
        return {}

    def inputs(self, pool: Step, within: Step | None = None) -> dict[str, Step]:
        """What a cut by this score needs: the step that makes it."""
        return {"scores": self.step(pool, within)}

    def reads(self) -> tuple[str, ...]:
        """The columns a cut by this score reads."""
        return ()

    def read(self, rows: Rows, scores: Scores | None) -> Numbers:
        """The score of every row, as a cut meets it, shape (len(rows),)."""
        assert scores is not None
        return rows.of_part(scores.of_part(rows.number))

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """One floating-point number per row, shape (len(rows),)."""
        raise NotImplementedError(f"{type(self).__name__} has no score()")

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks one of the columns or features."""
        require(self, pool, self.needs(), self.features)

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """Score every part of the pool; parts that an interrupted attempt has scored are kept."""
        self.check_pool(pool)
        artifacts = {name: value for name, value in extra.items() if isinstance(value, Artifact)}
        view = View(columns=self.needs(), within=inside(within), skip_corrupt=pool.skip_corrupt)
        work = partial(_score_part, self, artifacts, out, view)
        missing, corrupt, low, high = 0, 0, np.inf, -np.inf
        for part_missing, part_corrupt, part_low, part_high in engine.map(
            work, list(enumerate(pool.parts)), what=f"score: {self.label}"
        ):
            missing, corrupt = missing + part_missing, corrupt + part_corrupt
            low, high = min(low, part_low), max(high, part_high)
        dropped = pool.rows - corrupt - count_rows(engine, pool.parts, replace(view, columns=())) if within else 0
        counts = Counts(
            total=pool.rows,
            kept=pool.rows - missing - corrupt,
            dropped=dropped,
            missing=missing - dropped,
            corrupt=corrupt,
        )
        return Summary(counts=counts, facts={"lowest": low, "highest": high} if low <= high else {})


@dataclass(frozen=True, kw_only=True)
class Column(Score):
    """A number that stands in the metadata already; it is read there, not stored again."""

    column: str

    def inputs(self, pool: Step, within: Step | None = None) -> dict[str, Step]:
        """Nothing has to be made."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def read(self, rows: Rows, scores: Scores | None = None) -> Numbers:
        """The column's numbers. Raises ValueError when it does not hold numbers."""
        numbers = rows.numbers(self.column)
        return numbers.astype(np.float64) if numbers.dtype.kind in "iu" else numbers  # one kind in every part


def _score_part(
    stage: Score, artifacts: dict[str, Artifact], out: Path, view: View, item: tuple[int, Part]
) -> tuple[int, int, float, float]:
    """Write the scores of one part; returns rows without a score, rows of a damaged part, lowest and highest."""
    number, part = item
    if not scores_file(out, number).is_file():
        values = unless_damaged(view.skip_corrupt, lambda: _values(stage, artifacts, view, number, part), None)
        damaged_mark(out, number).unlink(missing_ok=True)  # of an attempt that could not read what can be read now
        if values is None:
            damaged_mark(out, number).touch()
        write_scores(out, number, np.full(part.rows, np.nan) if values is None else values)
    values = np.load(scores_file(out, number), allow_pickle=False)
    corrupt = part.rows if damaged_mark(out, number).is_file() else 0
    present = values[np.isfinite(values)]
    low, high = (float(present.min()), float(present.max())) if len(present) else (np.inf, -np.inf)
    return int(np.isnan(values).sum()) - corrupt, corrupt, low, high


def _values(stage: Score, artifacts: dict[str, Artifact], view: View, number: int, part: Part) -> Numbers:
    rows, _ = view.rows(number, part, uids=False)
    given = np.asarray(stage.score(rows, **artifacts))
    assert given.shape == (len(rows),), f"{type(stage).__name__}.score: wanted {len(rows)} numbers, got {given.shape}"
    values = np.full(part.rows, np.nan, dtype=given.dtype if given.dtype.kind == "f" else np.float64)
    values[rows.where] = given
    return values
