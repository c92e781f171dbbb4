"""NormSim-2-D: thin out a pool, round by round, to the images that are most like those still in it."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Scores, damaged_mark, write_scores
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import UID, Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import FractionOf, require
from dcexp.filters.features import Features, features_of, have_direction, operations
from dcexp.filters.rows import Mask, Rows, View, unless_damaged
from dcexp.filters.score import Numbers
from dcexp.filters.selection import Decision, select
from dcexp.filters.share import Counted, Share, check_fraction, tell_of_idle
from dcexp.filters.thinning import STAYS, Candidates, thin

FOLDER = "thinning"  # the candidates' features and the rounds so far; gone when the subset is written


@dataclass(frozen=True, kw_only=True)
class NormSimD(Share):
    """Keeps int(N * ``fraction``) images; N is as in :class:`~dcexp.filters.cut.FractionCut`.

    NormSim-2-D of arXiv:2405.19547 (VAS-D of arXiv:2402.02055), which needs no target: the pool, or what an earlier
    filter has kept, is its own. In each round every image x that is left gets x S x, where S is the mean outer product
    of all that are left, each at length 1; and the lowest ceil((n - int(N * fraction)) / ``rounds``) are dropped, n
    being how many there were at first. The last round drops what then is too many, so there may be fewer rounds. Scores
    are compared to twelve decimals; of equal ones the lower uids stay. Rows without a direction (NaN, infinity, all
    zeros) are missing. A uid that stands in several rows is several candidates, and kept where one of them is.

    Workers copy the candidates' features, then this process alone goes through the rounds, with all its cores or a
    GPU; so neither workers nor the order of files matter. A round takes 2 n width^2 floating-point operations.

    For n candidates with features of width w in b bytes a number, on the disk: n (b w + 16) bytes. Memory: 60 n bytes,
    24 w^2, and that of a block (see :mod:`dcexp.filters.moments`); a worker holds the features of one part.
    """

    fraction: float = 0.2
    rounds: int = 500
    feature: str = "l14_img"
    pool: Counted = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction)
        if self.rounds < 1:
            raise ValueError(f"filter.rounds={self.rounds}: wanted 1 or more (published: 500)")

    def cost(self, *, pool: Pool | None = None, **_: Any) -> str:
        """What all rounds take when none is dropped."""
        if pool is None or self.feature not in pool.features:
            return ""
        return operations(2.0 * pool.rows * pool.features[self.feature] ** 2 * self.rounds)

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks the feature."""
        require(self, pool, (), (self.feature,))

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
    ) -> Summary:
        """Copy the candidates' features, thin them out, and write the subset; an interrupted thinning goes on."""
        self.check_pool(pool)
        folder = out / FOLDER
        folder.mkdir(exist_ok=True)
        lists, total = self.share(engine, pool, within, fraction_of)
        view = View(within=lists)
        candidates = Candidates(folder=folder, parts=len(pool.parts), width=pool.features[self.feature])
        gather = partial(_gather, candidates, self.feature, view, pool.skip_corrupt)
        list(engine.map(gather, list(enumerate(pool.parts)), what=f"{self.label}: copy features"))
        wanted, count = int(total * self.fraction), sum(candidates.sizes())
        if self.fraction < 1:
            tell_of_idle(self.label, count, wanted)
        dropped = thin(candidates, wanted, self.rounds)
        for number, of_part in enumerate(np.split(dropped, np.cumsum(candidates.sizes())[:-1])):
            where = candidates.where(number)
            values = np.full(len(where), np.nan)
            values[where] = np.where(of_part == STAYS, np.inf, of_part)
            write_scores(folder, number, values)
        scores = Scores(folder)
        summary = select(
            self, out, engine, pool=pool, view=replace(view, scores=scores, skip_corrupt=pool.skip_corrupt),
            decide=partial(_stayed, scores), scored=partial(_last_round, scores),
            facts={"candidates": count, "rounds": int(dropped.max(initial=0)), "fraction_of": total},
        )  # fmt: skip
        remove_folder(folder)
        return summary


def _gather(candidates: Candidates, feature: str, view: View, skip_corrupt: bool, item: tuple[int, Part]) -> None:
    """Copy what the rounds need of one part, unless an earlier attempt has; of a damaged one, nothing."""
    number, part = item
    if candidates.has(number):
        return
    copy = unless_damaged(skip_corrupt, lambda: _read(candidates.width, feature, view, number, part), None)
    if copy is None:
        damaged_mark(candidates.folder, number).touch()
        copy = np.zeros(part.rows, dtype=bool), np.empty(0, UID), np.empty((0, candidates.width), np.float16)
    candidates.write(number, *copy)


def _read(width: int, feature: str, view: View, number: int, part: Part) -> tuple[Mask, Uids, Features]:
    """Which rows of a part are candidates, their uids and their features."""
    rows, _ = view.rows(number, part)
    features = features_of(rows, feature, width, "those of the pool when it was indexed")
    whole = have_direction(features)
    where = rows.where.copy()
    where[where] = whole
    return where, rows.uids()[whole], features[whole]


def _stayed(scores: Scores, rows: Rows, _: Any) -> Decision:
    """Keep the rows that no round has dropped."""
    return Decision(times=np.isinf(rows.of_part(scores.of_part(rows.number))))


def _last_round(scores: Scores, number: int, part: Part) -> Numbers:
    """The round in which each row was dropped; infinity for those that stay, NaN for those that are no candidates."""
    return scores.of_part(number)
