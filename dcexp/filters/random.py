"""A random subset of the pool: the baseline that any filter has to beat at its own size."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter, finish

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class RandomFraction(Filter):
    """int(N * ``fraction``) of the N samples, uniformly and without replacement (DataComp, "random subset").

    Every uid is given a 64-bit number, a hash of the uid and ``seed``, and the samples with the smallest numbers are
    kept. So the outcome does not depend on the order of files or on workers, and for one seed a smaller fraction is
    a part of a larger one.
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"filter.fraction={self.fraction}: wanted more than 0 and at most 1 (0.3 is 30 %)")

    def run(self, out: Path, engine: Engine, *, pool: Pool) -> Summary:
        """Number all samples, find the largest number to keep, and keep up to it."""
        n = int(pool.rows * self.fraction)
        if n == 0:
            raise ValueError(f"{self.label} keeps 0 of {pool.rows:,} samples; raise filter.fraction")
        drawn = list(engine.map(partial(_numbers, self.seed), pool.parts, what="draw"))
        numbers = np.concatenate(drawn)
        last = np.partition(numbers, n - 1)[n - 1]
        spare = n - int((numbers < last).sum())  # more than one only where a number, so a uid, comes twice
        items = []
        for part, mine in zip(pool.parts, drawn, strict=True):
            take = min(spare, int((mine == last).sum()))
            items.append((part, last, take))
            spare -= take
        return finish(self, out, pool, engine.map(partial(_keep, self.seed), items, what=f"filter: {self.label}"))


def _numbers(seed: int, part: Part) -> Numbers:
    return hashed(part.uids(), seed)


def _keep(seed: int, item: tuple[Part, np.uint64, int]) -> tuple[Uids, int]:
    """The uids numbered below ``last``, and the first ``spare`` of those numbered exactly so."""
    part, last, spare = item
    uids = part.uids()
    numbers = hashed(uids, seed)
    mask = numbers <= last
    mask[np.flatnonzero(numbers == last)[spare:]] = False
    return uids[mask], 0


def hashed(uids: Uids, seed: int) -> Numbers:
    """A number for every uid, uniform over 64 bits; another set of numbers for every seed."""
    return mixed(mixed(uids["f0"] ^ mixed(np.array([seed & (2**64 - 1)], np.uint64))) ^ uids["f1"])


def mixed(numbers: Numbers) -> Numbers:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
