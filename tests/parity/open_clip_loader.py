"""Read shards with open_clip's own loader, and print what came.

    PYTHONPATH=.venv/open-clip .venv/bin/python tests/parity/open_clip_loader.py 'SHARDS/{00000000..00000003}.tar' '{…}'

A program of its own, because the loader works with an old webdataset only (``make open-clip``). The second argument
names the epochs to read, and says of each ``is_train`` and what else of open_clip's options is not as in ``OPTIONS``.
"""

import hashlib
import json
import resource
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import webdataset as wds
from open_clip import image_transform
from open_clip_train.data import get_dataset_size, get_wds_dataset

OPTIONS = {
    "train_num_samples": None,
    "train_data_upsampling_factors": None,
    "val_num_samples": None,
    "dataset_resampled": False,
    "batch_size": 2,
    "workers": 1,
    "world_size": 1,
    "rank": 0,
    "seed": 0,
}


def seen(shards: str, is_train: bool, **options: Any) -> Iterator[tuple[str, str]]:
    """The caption and a digest of the image tensor of every sample of one epoch."""
    args = SimpleNamespace(**{**OPTIONS, **options}, train_data=shards, val_data=shards)
    transform = image_transform(16, is_train=False)
    info = get_wds_dataset(args, transform, is_train=is_train, epoch=0, tokenizer=lambda text: [text])
    for images, captions in info.dataloader:
        for image, caption in zip(images, captions, strict=True):
            yield caption, hashlib.sha256(image.numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))  # training looks for ever where there is no sample
    shards, passes = sys.argv[1], json.loads(sys.argv[2])
    told = {"webdataset": wds.__version__, "size": get_dataset_size(shards)}
    print(json.dumps({**told, "passes": {name: sorted(seen(shards, **options)) for name, options in passes.items()}}))
