"""The data of one rank: shards drawn with replacement, samples shuffled, decoded and batched by loader workers.

Shard choice and augmentation are open_clip's to the bit; its shuffle is seeded by the clock, ours is not. Every batch
says where its worker stands after it (:class:`Position`), so a training that goes on from any of them sees what it
would have seen.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_all_start_methods
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dcexp.engines.gang import die_with_parent
from dcexp.signals import left_to_parent
from dcexp.training.batch import Batch, Position
from dcexp.training.images import Crop
from dcexp.training.reading import IMAGES, TEXT, Losses, Members, NoSamples, ShardList
from dcexp.training.samples import RawSample, RawSamples, read_again
from dcexp.training.shuffle import SIZE, Shuffle

if TYPE_CHECKING:
    from dcexp.model import Tokenizer

# A rank was spawned, and what it starts would be spawned as well: importing torch anew in every worker.
START = "fork" if "fork" in get_all_start_methods() else None
CAPTIONS = 10_000  # remembered with their token ids: where samples come again, so do captions
HOPELESS = 2 * SIZE  # this many undecodable samples in a row are no accident


def base_seed(seed: int, rank: int) -> int:
    """The number all data seeds of a rank derive from: the first int64 torch draws after ``seed + rank``."""
    generator = torch.Generator().manual_seed(seed + rank)
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


@dataclass(frozen=True, kw_only=True)
class Interval(IterableDataset[Batch | NoSamples]):
    """The micro-batches of ``batch_size`` that one rank sees in interval ``index``: ``batches``, of which ``done`` are.

    ``seed`` is the rank's base seed, ``crop`` makes an array [height, width, 3] of a PIL image, ``tokenize`` token ids
    [1, context length] of a caption. Iterated by each of ``workers`` loader workers; ``positions`` tells, by worker,
    where those stand that have given a batch before.
    """

    shards: ShardList
    crop: Crop
    tokenize: "Tokenizer"
    batch_size: int
    batches: int
    seed: int
    index: int
    workers: int
    done: int = 0
    positions: Mapping[int, Position] = field(default_factory=dict)

    def loader(self, pin_memory: bool) -> "DataLoader[Batch | NoSamples]":
        """The batches in the order worker 0, 1, …, 0, 1, …"""
        return DataLoader(
            self,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            pin_memory=pin_memory,
            multiprocessing_context=START,
        )

    def __iter__(self) -> Iterator[Batch | NoSamples]:
        info = get_worker_info()
        assert info is not None, "the data order is defined by the workers"
        left_to_parent()
        die_with_parent()  # torch's own watch misses it where a batch cannot be delivered
        warnings.simplefilter("ignore")  # of Pillow, about odd files
        first = self.done + info.id
        try:
            yield from self._batches(first % self.workers, range(first, self.batches, self.workers))
        except NoSamples as error:
            yield error

    def _batches(self, worker: int, numbers: Sequence[int]) -> Iterator[Batch]:
        losses = Losses()
        stream, shuffle = self._stream(worker, losses)
        pairs = self._pairs(shuffle, losses)
        for number in numbers:
            some = [next(pairs) for _ in range(self.batch_size)]
            lost = losses.take()
            if number == numbers[-1]:
                next(pairs)  # open_clip's batcher is one sample ahead: lost at the end, but it moved the crops on
            yield Batch(
                torch.from_numpy(np.stack([image for _, image, _ in some])),
                torch.stack([text for _, _, text in some]),
                *lost,
                tuple(self.shards.places[shard] for shard in sorted({shard for shard, _, _ in some})),
                self._position(worker, stream, shuffle),
            )

    def _stream(self, worker: int, losses: Losses) -> tuple[RawSamples, Shuffle[RawSample]]:
        """The raw samples of a worker in order and shuffled, where it stands; sets torch's generator for the crops."""
        position = self.positions.get(worker)
        if position is None:
            torch.manual_seed(self.seed + worker)
        else:
            torch.set_rng_state(torch.from_numpy(position.augment))
        seed = self.seed + worker + self.index * self.workers
        rng = Random(f"shuffle {seed}")
        if position is None or position.interval != self.index:
            stream = RawSamples(self.shards, Random(seed), losses)
            return stream, Shuffle(stream, rng, [])
        stream = RawSamples(self.shards, Random(seed), losses, position.opened, position.taken)
        rng.setstate((rng.VERSION, tuple(position.shuffle.tolist()), None))
        return stream, Shuffle(stream, rng, read_again(self.shards, position.buffer))

    def _position(self, worker: int, stream: RawSamples, shuffle: Shuffle[RawSample]) -> Position:
        buffer = np.array([(sample.shard, sample.number) for sample in shuffle.buffer], np.int64).reshape(-1, 2)
        generator = np.array(shuffle.rng.getstate()[1], np.int64)
        augment = torch.get_rng_state().numpy()
        return Position(worker, self.index, stream.opened, stream.taken, buffer, generator, augment)

    def _pairs(self, samples: Iterator[RawSample], losses: Losses) -> Iterator[tuple[int, Any, Tensor]]:
        """Number of the shard, image [height, width, 3] and token ids [context length], without end."""
        token_ids = lru_cache(CAPTIONS)(self._token_ids)
        failed = 0
        for sample in samples:
            try:
                caption = _caption(sample.members)
                triple = sample.shard, self.crop(_image(sample.members)), token_ids(caption)
            except Exception as error:
                losses.add(self.shards.places[sample.shard], 1, f"{type(error).__name__}: {error}")
                failed += 1
                if failed > HOPELESS:
                    raise NoSamples(
                        f"nothing to train on: {failed:,} samples in a row could not be decoded: {error}"
                    ) from error
            else:
                failed = 0
                yield triple

    def _token_ids(self, caption: str) -> Tensor:
        ids: Tensor = self.tokenize(caption)[0]
        return ids


def _image(members: Members) -> Any:
    """The image of a sample, RGB."""
    from PIL import Image, UnidentifiedImageError

    content = next((members[suffix] for suffix in IMAGES if suffix in members), None)
    if content is None:
        raise ValueError("a sample has no image")
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow knows") from None
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _caption(members: Members) -> str:
    if TEXT not in members:
        raise ValueError("a sample has no caption")
    return members[TEXT].decode("utf-8")


def _as_it_is(batch: Any) -> Any:
    return batch
