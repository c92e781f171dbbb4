"""Raw samples out of the shards, one after the other without end."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcexp.training.reading import Losses, Members, NoSamples, ShardList, read_shard


class RawSample(NamedTuple):
    """A sample as it lies in shard number ``shard``, where it is sample number ``number``."""

    shard: int
    number: int
    members: Members


class RawSamples:
    """Samples of shards drawn with replacement by ``rng``, for ever.

    ``opened`` and ``taken`` say where it is: how many shards were opened, and how far the last one is read. Given
    those, it goes on from there. Raises NoSamples when many shards in a row hold no sample.
    """

    def __init__(self, shards: ShardList, rng: Random, losses: Losses, opened: int = 0, taken: int = 0) -> None:
        self.shards, self.losses, self.opened, self.taken = shards, losses, opened, taken
        self._rng, self._samples = rng, self._endless()

    def __iter__(self) -> Iterator[RawSample]:
        return self

    def __next__(self) -> RawSample:
        return next(self._samples)

    def _endless(self) -> Iterator[RawSample]:
        draws = [self.shards.draw(self._rng) for _ in range(self.opened)]
        if draws:
            yield from self._rest_of(draws[-1])
        barren = 0
        while True:
            shard = self.shards.draw(self._rng)
            self.opened, self.taken = self.opened + 1, 0
            yield from self._rest_of(shard)
            barren = 0 if self.taken else barren + 1
            if barren > 2 * len(self.shards.places) + 10:
                raise NoSamples(
                    f"nothing to train on: {barren} shards opened in a row without a single sample, the last was "
                    f"{self.shards.places[shard]}"
                )

    def _rest_of(self, shard: int) -> Iterator[RawSample]:
        for number, members in read_shard(self.shards, shard, range(self.taken, sys.maxsize), self.losses):
            self.taken = number + 1
            yield RawSample(shard, number, members)


def read_again(shards: ShardList, wanted: npt.NDArray[np.int64]) -> list[RawSample]:
    """The samples that ``wanted`` [samples, 2] names by shard and number, in that order.

    Raises NoSamples when one of them cannot be read any more.
    """
    keys = [(shard, number) for shard, number in wanted.tolist()]
    numbers = defaultdict(set)
    for shard, number in keys:
        numbers[shard].add(number)
    found = {
        (shard, number): RawSample(shard, number, members)
        for shard, of_it in numbers.items()
        for number, members in read_shard(shards, shard, of_it, Losses())
    }
    for shard, number in keys:
        if (shard, number) not in found:
            raise NoSamples(
                f"{shards.places[shard]}: sample {number}, read before training was interrupted, cannot be read now. "
                "Put the shard back as it was; or train anew: rebuild=checkpoint"
            )
    return [found[key] for key in keys]
