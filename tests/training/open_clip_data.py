"""Read what open_clip trains on with its own loader, and print what came.

    PYTHONPATH=.venv/open-clip .venv/bin/python tests/training/open_clip_data.py MODELS MODEL '{"a run": {…}}'

A program of its own, because the loader works with an old webdataset only (``make open-clip``). ``MODELS`` is a folder
of model configs beside open_clip's own; every run is open_clip's options and the ``epochs`` to read.
"""

import hashlib
import json
import logging
import resource
import sys
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import open_clip
import webdataset as wds
from open_clip_train.data import SharedEpoch, get_wds_dataset, pytorch_worker_seed
from open_clip_train.main import random_seed
from torch import Tensor
from webdataset.filters import _shuffle


class PinnedShuffle(wds.PipelineStage):
    """The shuffle of samples; its generator is the one thing that is not as open_clip has it.

    There it is seeded with the time and the number of the process, so no two runs see the same. Here it is seeded as
    ours is, with what open_clip seeds the choice of shards with: the seed of the loader, the worker and the epoch.
    """

    epoch: SharedEpoch  # of the loader that is read; loader workers are forks and have it from here

    def __init__(self, bufsize: int, initial: int) -> None:
        self.bufsize, self.initial = bufsize, initial

    def run(self, samples: Iterator[Any]) -> Iterator[Any]:
        """See the class."""
        rng = Random(f"shuffle {pytorch_worker_seed(self.epoch.get_value())}")
        return _shuffle(samples, self.bufsize, self.initial, rng)


def epochs_of(model: str, epochs: int, **options: Any) -> list[list[tuple[str, list[list[int]]]]]:
    """The batches of every epoch of a training: a digest of the image tensor, and the token ids."""
    args = SimpleNamespace(**options)
    random_seed(args.seed, 0)
    transform = open_clip.create_model_and_transforms(model)[1]
    random_seed(args.seed, args.rank)
    info = get_wds_dataset(args, transform, is_train=True, tokenizer=open_clip.get_tokenizer(model))
    PinnedShuffle.epoch = info.shared_epoch
    told = []
    for epoch in range(epochs):
        info.set_epoch(epoch)
        told.append([(digest(images), texts.tolist()) for images, texts in info.dataloader])
        assert len(told[-1]) == info.dataloader.num_batches
    return told


def digest(images: Tensor) -> str:
    """Of shape and values."""
    return f"{tuple(images.shape)} {hashlib.sha256(images.numpy().tobytes()).hexdigest()}"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (200, 200))  # training looks for ever where there is no sample
    logging.disable(logging.WARNING)  # every sample that is skipped is worth one, and the runs skip thousands
    wds.shuffle = PinnedShuffle
    models, model, runs = sys.argv[1:]
    open_clip.add_model_config(models)
    read = {name: epochs_of(model, **options) for name, options in json.loads(runs).items()}
    print(json.dumps({"webdataset": wds.__version__, "runs": read}))
