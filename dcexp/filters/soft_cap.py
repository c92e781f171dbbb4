"""Soft-cap sampling: the best are taken most often, and each time that they are, a little less."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import remove_folder, whole_file
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine, watched
from dcexp.filters.base import FractionOf, require
from dcexp.filters.batch_draws import draw_in_batches
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.filters.score import Numbers, Score
from dcexp.filters.selection import Decision, select
from dcexp.filters.share import Counted, Share
from dcexp.stage import Step

log = logging.getLogger(__name__)

FOLDER = "draws"  # counts of single parts; gone when the subset is written

Read = Callable[[tuple[int, Part]], Numbers]


@dataclass(frozen=True, kw_only=True)
class SoftCap(Share):
    """int(N * ``draws``) samples in batches by softmax of ``score`` (soft-cap sampling, FLYT, arXiv:2503.08805).

    Each batch of ``batch`` is drawn without replacement; then ``penalty`` is taken off the score of every row in it.
    N is as in :class:`~dcexp.filters.sampling.Sampling`. Rows without a score are missing, and with -inf never drawn.
    The parent holds all scores: about 50 bytes a row that has one.
    """

    score: Score
    penalty: float = 0.15
    batch: int = 100000
    draws: float = 1.0
    seed: int = 0
    pool: Counted = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws <= 0 or self.batch < 1 or self.penalty < 0:
            raise ValueError(
                f"filter.draws={self.draws} filter.batch={self.batch} filter.penalty={self.penalty}: wanted draws of "
                "more than 0 (1 is as many as the pool has samples), a batch of 1 or more, a penalty of 0 or more"
            )

    def extra(self, pool: Step) -> dict[str, Any]:
        """The score, where it has to be made."""
        return self.score.inputs(pool)

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks the column, where the score is one."""
        require(self, pool, self.score.reads())

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        scores: Scores | None = None,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
    ) -> Summary:
        """Gather the scores, draw, and write the subset. Raises ValueError for scores that cannot be drawn by."""
        self.check_pool(pool)
        lists, total = self.share(engine, pool, within, fraction_of)
        view, draws = View(columns=self.score.reads(), scores=scores, within=lists), int(total * self.draws)
        files = [out / FOLDER / f"{number:08d}.npy" for number in range(len(pool.parts))]
        if not all(path.is_file() for path in files):  # else an interrupted attempt has drawn, and begun to take
            self._draw(files, engine, pool, partial(_read, self.score, scores, view, pool.skip_corrupt), draws)
        facts = {"draws": draws, "fraction_of": total}
        summary = select(self, out, engine, pool=pool, view=view, decide=_take, given=files, repeats=True, facts=facts)
        remove_folder(out / FOLDER)
        return summary

    def _draw(self, files: list[Path], engine: Engine, pool: Pool, read: Read, draws: int) -> None:
        """Write how often each row is taken, a file for each part."""
        values = list(engine.map(read, list(enumerate(pool.parts)), what="gather scores"))
        ends, together = np.cumsum([len(of_part) for of_part in values])[:-1], np.concatenate(values)
        del values
        self._judge(together, draws)
        sizes = [self.batch] * (draws // self.batch) + [draws % self.batch] * (draws % self.batch > 0)
        batches = watched(sizes, "draw", len(sizes))
        counts = draw_in_batches(together, batches, self.penalty, np.random.default_rng(self.seed % 2**64))
        for path, of_part in zip(files, np.split(counts, ends), strict=True):
            with whole_file(path) as file:
                np.save(file, of_part)

    def _judge(self, scores: Numbers, draws: int) -> None:
        """Raise ValueError when that many draws cannot be made by these scores, and warn when these decide nothing."""
        if np.isposinf(scores).any():
            raise ValueError(f"{self.label}: a score is infinite; wanted numbers whose exponentials can be weighed")
        rows = int(np.isfinite(scores).sum())
        if draws < 1 or min(self.batch, draws) > rows:
            raise ValueError(
                f"{self.label}: {draws:,} draws in batches of {self.batch:,} without replacement are to be made of "
                f"{rows:,} samples with a score; wanted 1 draw or more (filter.draws), and batches no larger than the "
                "pool: a smaller filter.batch (the paper's is 100,000 of 128 million)"
            )
        if (taken := min(self.batch, draws)) > 0.9 * rows:
            log.warning(
                "%s: a batch takes %s of the %s samples, so their scores decide little; wanted a smaller filter.batch "
                "(the paper's is 100,000 of 128 million)", self.label, f"{taken:,}", f"{rows:,}",
            )  # fmt: skip


def _read(score: Score, scores: Scores | None, view: View, skip_corrupt: bool, item: tuple[int, Part]) -> Numbers:
    def values() -> Numbers:
        return score.read(view.rows(*item, uids=False)[0], scores).astype(np.float64)

    return unless_damaged(skip_corrupt, values, np.empty(0))


def _take(rows: Rows, counts: Path) -> Decision:
    return Decision(times=np.load(counts, allow_pickle=False))
