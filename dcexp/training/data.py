"""The data of one rank: shards drawn with replacement, samples shuffled, decoded and batched by loader workers.

An interval is a pure function of seed, rank, number of workers and interval, so training that goes on at an
interval's start sees what it would have seen. Shard choice and augmentation have open_clip's seeds; its shuffle
is seeded by the clock, ours is not.
"""

import io
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.filters import shuffle

from dcexp.training.batch import Batch
from dcexp.training.samples import IMAGES, SHARD, TEXT, Losses, NoSamples, RawSample, raw_samples

SHUFFLE_BUFFER = 5000
SHUFFLE_START = 1000
CAPTIONS = 10_000  # remembered with their token ids: where samples come again, so do captions
HOPELESS = 2 * SHUFFLE_BUFFER  # this many undecodable samples in a row are no accident


def base_seed(seed: int, rank: int) -> int:
    """The number all data seeds of a rank derive from: the first int64 torch draws after ``seed + rank``."""
    generator = torch.Generator().manual_seed(seed + rank)
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


@dataclass(frozen=True, kw_only=True)
class Interval(IterableDataset[Batch | NoSamples]):
    """The ``batches`` micro-batches of ``batch_size`` that one rank sees in interval ``index``.

    ``shards`` maps tar paths to sample counts, ``seed`` is the rank's base seed, ``transform`` makes a tensor of a
    PIL image, ``tokenize`` token ids [1, context length] of a caption. Iterated by each of ``workers`` loader workers.
    """

    shards: Mapping[str, int]
    transform: Any
    tokenize: Any
    batch_size: int
    batches: int
    seed: int
    index: int
    workers: int

    def loader(self, pin_memory: bool) -> "DataLoader[Batch | NoSamples]":
        """The batches in the order worker 0, 1, …, 0, 1, …"""
        return DataLoader(self, batch_size=None, collate_fn=_as_it_is, num_workers=self.workers, pin_memory=pin_memory)

    def __iter__(self) -> Iterator[Batch | NoSamples]:
        info = get_worker_info()
        assert info is not None, "the data order is defined by the workers"
        warnings.simplefilter("ignore")  # of Pillow, about odd files
        losses = Losses()
        pairs = self._pairs(self.seed + info.id + self.index * self.workers, losses)
        try:
            for _ in range(info.id, self.batches, self.workers):
                images, texts = zip(*(next(pairs) for _ in range(self.batch_size)), strict=True)
                yield Batch(torch.stack(images), torch.stack(texts), *losses.take())
        except NoSamples as error:
            yield error

    def _pairs(self, seed: int, losses: Losses) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [3, height, width] and token ids [context length], without end."""
        torch.manual_seed(seed)
        random.seed(seed)
        raw = raw_samples(self.shards, Random(seed), losses)
        token_ids = lru_cache(CAPTIONS)(self._token_ids)
        failed = 0
        for sample in shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_START, rng=Random(f"shuffle {seed}"))(raw):
            try:
                pair = self._image(sample), token_ids(_caption(sample))
            except Exception as error:
                losses.add(sample[SHARD], 1, f"{type(error).__name__}: {error}")
                failed += 1
                if failed > HOPELESS:
                    raise NoSamples(f"{failed:,} samples in a row could not be decoded: {error}") from error
            else:
                failed = 0
                yield pair

    def _image(self, sample: RawSample) -> Tensor:
        from PIL import Image

        content = next((sample[suffix] for suffix in IMAGES if suffix in sample), None)
        if content is None:
            raise ValueError("a sample has no image")
        with Image.open(io.BytesIO(content)) as image:
            rgb = image.convert("RGB")
        transformed: Tensor = self.transform(rgb)
        return transformed

    def _token_ids(self, caption: str) -> Tensor:
        ids: Tensor = self.tokenize(caption)[0]
        return ids


def _caption(sample: RawSample) -> str:
    if TEXT not in sample:
        raise ValueError("a sample has no caption")
    caption: str = sample[TEXT].decode("utf-8")
    return caption


def _as_it_is(batch: Any) -> Any:
    return batch
