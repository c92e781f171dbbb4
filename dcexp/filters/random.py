"""A random subset of the pool: the baseline that any filter has to beat at its own size."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import FractionOf
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.filters.selection import Decision, select
from dcexp.filters.share import Counted, Share, check_fraction
from dcexp.filters.threshold import Cutoff, top

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class RandomFraction(Share):
    """int(N * ``fraction``) of the N samples, uniformly and without replacement (DataComp, "random subset").

    Every uid is given a 64-bit number, a hash of the uid and ``seed``, and the samples with the smallest numbers are
    kept. So the outcome does not depend on the order of files or on workers, and for one seed a smaller fraction is
    a part of a larger one. ``pool`` says what N counts: all metadata, or what the shards hold.
    """

    fraction: float
    seed: int = 0
    pool: Counted = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction)

    def run(
        self,
        out: Path,
        engine: Engine,
        *,
        pool: Pool,
        within: Subset | None = None,
        fraction_of: FractionOf = "pool",
    ) -> Summary:
        """Number all samples, find the largest number to keep, and keep up to it."""
        lists, total = self.share(engine, pool, within, fraction_of)
        view = View(within=lists, skip_corrupt=pool.skip_corrupt)
        n = int(total * self.fraction)
        if n == 0:
            raise ValueError(f"{self.label} keeps 0 of {total:,} samples; raise filter.fraction")
        last = top(engine, pool.parts, partial(_numbers, self.seed, view), n, exact=True)
        decide = partial(_draw, self.seed, last)
        return select(self, out, engine, pool=pool, view=view, decide=decide, facts={"fraction_of": total})


def _numbers(seed: int, view: View, item: tuple[int, Part]) -> Numbers:
    def numbers() -> Numbers:
        return ~hashed(view.rows(*item)[0].uids(), seed)  # the smallest come first

    return unless_damaged(view.skip_corrupt, numbers, np.empty(0, np.uint64))


def _draw(seed: int, last: Cutoff, rows: Rows, _: Any) -> Decision:
    return Decision(times=last.mask(~hashed(rows.uids(), seed), rows.number))


def hashed(uids: Uids, seed: int) -> Numbers:
    """A number for every uid, uniform over 64 bits; another set of numbers for every seed."""
    return mixed(mixed(uids["f0"] ^ mixed(np.array([seed & (2**64 - 1)], np.uint64))) ^ uids["f1"])


def mixed(numbers: Numbers) -> Numbers:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
