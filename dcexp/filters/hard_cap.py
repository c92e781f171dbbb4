"""Hard-cap sampling: samples are drawn by softmax of a score, and none more than so many times."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.files import write_json
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Scores
from dcexp.engines.base import Engine
from dcexp.filters.draws import Weigh
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.filters.sampling import Sample
from dcexp.filters.score import Numbers, Score

NOTE = "highest.json"


@dataclass(frozen=True, kw_only=True)
class HardCap(Sample):
    """Samples in proportion to exp(``score`` / ``temperature``), each at most ``cap`` times (HCS of FLYT, 2503.08805).

    ``cap=1`` draws without replacement: the soft selection of negCLIPLoss' code (2405.19547, ``soft_type`` below 0,
    in proportion to exp(-soft_type * score)), with ``temperature`` -1 / soft_type. Rows without a score are missing.
    Weights are those of the score less the pool's highest, so they are 1 or less; what is more than 745 temperatures
    below it weighs nothing, as -inf does, and is never drawn.
    """

    temperature: float = 1.0
    cap: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"filter.temperature={self.temperature}: wanted more than 0")

    def weigher(self, folder: Path, engine: Engine, pool: Pool, view: View, **inputs: Any) -> Weigh:
        """Find the highest score; then weigh by what the others are below it. Raises ValueError when it is infinite."""
        scores, note = inputs.get("scores"), folder / NOTE
        if not note.is_file():  # it stays: parts may be weighed already when an attempt is given up
            work = partial(_highest, self.score, scores, view, pool.skip_corrupt)
            highest = max(engine.map(work, list(enumerate(pool.parts)), what="find the highest score"))
            if highest == np.inf:
                raise ValueError(f"{self.label}: a score is infinite; wanted numbers whose exponentials can be weighed")
            write_json(note, highest if np.isfinite(highest) else 0.0)
        return partial(_weights, self.score, scores, json.loads(note.read_text()), self.temperature)


def _highest(score: Score, scores: Scores | None, view: View, skip_corrupt: bool, item: tuple[int, Part]) -> float:
    def highest() -> float:
        return float(score.read(view.rows(*item, uids=False)[0], scores).max(initial=-np.inf))

    return unless_damaged(skip_corrupt, highest, -np.inf)


def _weights(score: Score, scores: Scores | None, highest: float, temperature: float, rows: Rows) -> Numbers:
    with np.errstate(over="ignore", under="ignore"):  # far below the highest is a weight of 0
        weights: Numbers = np.exp((score.read(rows, scores).astype(np.float64) - highest) / temperature)
    return weights
