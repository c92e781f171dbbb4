"""Fusion: one score out of several, each brought to a common scale over the whole pool and weighted."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.artifacts.scores import Scores
from dcexp.engines.base import Engine
from dcexp.filters.imported import ImportedScore
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.filters.scales import Scales
from dcexp.filters.score import Column, Numbers, Score
from dcexp.stage import Step

FOLDER = "scales"  # what is known of each score over the pool; gone with the last fused score
PREFIX = "score_"


@dataclass(frozen=True, kw_only=True)
class Fusion(Score):
    """The sum over k of ``weights[k]`` * norm(score k); a row without one of the scores has none.

    A name in ``weights`` is one of the scores ``of``; else, where there is a ``table``, a column of that (see
    :class:`~dcexp.filters.imported.ImportedScore`, as for ``coverage``); else a column of the pool. ``norm`` is over
    all rows that have that score: ``minmax`` (s - lowest) / (highest - lowest), as SIEVE; ``rank`` ranks / N, 1 / N
    for the lowest, equal scores sharing the mean of their ranks; ``z`` (s - mean) / deviation, dividing by N;
    ``raw`` s itself. A score that is the same everywhere adds nothing by minmax and z. Infinite scores are ranked;
    the others refuse them. A weight of 0 leaves a score out: it need not be there.

    Memory: in a worker about 60 bytes for each row of the largest part; for ``rank`` the parent sorts one score at a
    time, 16 bytes a row of the pool, and leaves 8 bytes a row and score on the disk meanwhile, which the workers map.
    """

    weights: dict[str, float]
    norm: Literal["minmax", "rank", "z", "raw"] = "minmax"
    of: dict[str, Score] = field(default_factory=dict)
    table: str = field(default="", compare=False)
    coverage: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            raise ValueError("weights={}: wanted a weight for each score, such as weights={clip: 0.5, mine: 0.5}")
        if lacking := [name for name in self.of if name not in self.weights]:
            raise ValueError(f"weights has none for {lacking[0]!r} of {', '.join(self.of)}; 0 leaves a score out")
        if not any(self.weights.values()):
            raise ValueError(f"weights={self.weights}: all are 0, so no score is left; wanted one that is not")

    def scores(self) -> dict[str, Score]:
        """Every score that has a weight, by name, in the order of the names."""
        return {name: self.of.get(name) or self._column(name) for name in sorted(self.weights) if self.weights[name]}

    def _column(self, name: str) -> Score:
        table = self.table
        return ImportedScore(table=table, column=name, coverage=self.coverage) if table else Column(column=name)

    def needs(self) -> tuple[str, ...]:
        """The columns, where scores are some."""
        return tuple(dict.fromkeys(column for score in self.scores().values() for column in score.reads()))

    def extra(self, pool: Step) -> dict[str, Any]:
        """The scores, where they have to be made."""
        made = {name: score.inputs(pool).get("scores") for name, score in self.scores().items()}
        return {f"{PREFIX}{name}": step for name, step in made.items() if step}

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks one of the columns."""
        try:
            super().check_pool(pool)
        except ValueError as error:
            raise ValueError(f"{error}. Where it is in a table of yours: filter.score.table=…") from None

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """Measure every score over the pool, then fuse them part by part. Raises ValueError for infinite scores."""
        self.check_pool(pool)
        (folder := out / FOLDER).mkdir(exist_ok=True)
        scales = Scales(folder)
        for number, (name, score) in enumerate(self.scores().items() if self.norm != "raw" else ()):
            read = partial(_values, score, extra.get(f"{PREFIX}{name}"), pool.skip_corrupt)
            scales.measure(engine, pool.parts, read, number, name, self.norm)
        summary = super().run(out, engine, pool=pool, scales=scales, **extra)
        remove_folder(folder)
        return summary

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The sums, float64; NaN where a score is missing."""
        total, scales = np.zeros(len(rows)), extra["scales"]
        assert isinstance(scales, Scales)
        for number, (name, score) in enumerate(self.scores().items()):
            given = extra.get(f"{PREFIX}{name}")
            scores = given if isinstance(given, Scores) else None
            if scores and scores.is_damaged(rows.number):
                raise DamagedError(f"{rows.part.parquet} could not be read when {name} was made")
            values = score.read(rows, scores).astype(np.float64)
            if self.norm == "raw" and np.isinf(values).any():
                raise ValueError(f"the score {name!r} is infinite, which norm=raw cannot add up; use norm=rank")
            total += self.weights[name] * scales.normed(number, self.norm, values)
        return total


def _values(score: Score, scores: Scores | None, skip_corrupt: bool, item: tuple[int, Part]) -> Numbers:
    """The numbers of one part that are there, float64."""

    def values() -> Numbers:
        read = score.read(View(columns=score.reads()).rows(*item, uids=False)[0], scores)
        return read[~np.isnan(read)].astype(np.float64)

    return unless_damaged(skip_corrupt, values, np.empty(0))
