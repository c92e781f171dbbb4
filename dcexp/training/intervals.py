"""The micro-batches of one rank, interval by interval, from wherever its training stands."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch

from dcexp.model import tokenizer
from dcexp.training.batch import Batch, Position
from dcexp.training.data import Interval, base_seed
from dcexp.training.images import Crop
from dcexp.training.laps import DataWait
from dcexp.training.module import ClipTraining
from dcexp.training.ranks import Ranks
from dcexp.training.reading import NoSamples
from dcexp.training.schedule import interval_of

if TYPE_CHECKING:
    from dcexp.training.fit import Job


class Intervals:
    """The micro-batches of one rank: each iteration is the rest of the interval that the module's next step lies in.

    ``wait`` is how long they were waited for. Raises ValueError when the shards do not give what training needs. Close
    it: a loader that is still there when the process ends keeps it from ending.
    """

    def __init__(
        self, job: "Job", module: ClipTraining, crop: Crop, ranks: Ranks, positions: dict[int, Position]
    ) -> None:
        self.wait = DataWait()
        self._job, self._module, self._crop, self._positions = job, module, crop, positions
        self._tokenize = tokenizer(job.scale.recipe.model)
        self._seed, self._micro_batch = base_seed(job.seed, ranks.rank), job.batch_size(ranks.count)
        self._running: list[Generator[Batch]] = []

    def __iter__(self) -> Iterator[Batch]:
        self._running = [self._batches()]
        return self._running[0]

    def close(self) -> None:
        """End the loader's workers."""
        for generator in self._running:
            generator.close()

    def _batches(self) -> Generator[Batch]:
        index, start, end = interval_of(self._module.step, self._job.ends)
        interval = Interval(
            shards=self._job.shards,
            crop=self._crop,
            tokenize=self._tokenize,
            batch_size=self._micro_batch,
            batches=(end - start) * self._job.accumulate,
            seed=self._seed,
            index=index,
            workers=self._job.workers,
            done=(self._module.step - start) * self._job.accumulate,
            positions=dict(self._positions),
        )
        loader = iter(interval.loader(pin_memory=torch.cuda.is_available()))
        try:
            while True:
                with self.wait.timed():
                    batch = next(loader, None)
                if batch is None:
                    return
                if isinstance(batch, NoSamples):
                    raise ValueError(str(batch))
                yield batch
        finally:
            del loader  # the traceback of an error would hold it
