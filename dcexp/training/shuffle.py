"""The shuffle of webdataset, one that can say where it is."""

from collections.abc import Iterator
from random import Random
from typing import Generic, TypeVar

Item = TypeVar("Item")

SIZE = 5000  # the buffer and its start are those of open_clip
START = 1000


class Shuffle(Generic[Item]):
    """An endless stream in another order: a buffer of ``size`` items, out of which each is drawn at random.

    Draws what webdataset's ``shuffle(size, initial=start, rng=rng)`` draws: the buffer takes in two items a turn until
    it is full, and gives one from ``start`` items on. ``buffer`` and ``rng`` are all that it remembers.
    """

    def __init__(
        self, items: Iterator[Item], rng: Random, buffer: list[Item], size: int = SIZE, start: int = START
    ) -> None:
        self.items, self.rng, self.buffer, self.size, self.start = items, rng, buffer, size, start

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        buffer = self.buffer
        while True:
            buffer.append(next(self.items))
            if len(buffer) < self.size:
                buffer.append(next(self.items))
            if len(buffer) >= self.start:
                index = self.rng.randint(0, len(buffer) - 1)
                buffer[index], drawn = buffer[-1], buffer[index]
                buffer.pop()
                return drawn
