"""Other programs read our shards: webdataset itself, and open_clip with the loader that DataComp trains with."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from dcexp.reshard.copy import Copy
from tests.pools import hex_uids, sample, write_parquet, write_tar
from tests.reshard.test_copy import resharded

OLD = Path(sys.prefix) / "open-clip"
NEEDS_OLD = pytest.mark.skipif(not (OLD / "webdataset").is_dir(), reason=f"no {OLD}: `make open-clip` installs it")
LOADER = Path(__file__).with_name("open_clip_loader.py")
TARS, PER_TAR = 3, 8
CAPTIONS = ("", "a dog", "eine Katze, schläft", "二匹の犬 🐕", " two\nlines\t", "&amp; 'quotes' \\")
MODES = ("RGB", "L", "CMYK")
REPEATS = {0: 5, 9: 3, 23: 3}  # and once each of every second one: 22 copies of 14 samples
PASSES = {
    "evaluation": {"is_train": False, "batch_size": 5},
    "evaluation, two workers": {"is_train": False, "batch_size": 5, "workers": 2},
    "training": {"is_train": True},
    "training, two workers": {"is_train": True, "workers": 2},
    "resampled": {"is_train": True, "dataset_resampled": True, "train_num_samples": 40, "batch_size": 4, "workers": 2},
}


class Picture(NamedTuple):
    """A sample of the pool."""

    uid: str
    jpeg: bytes
    caption: str

    @property
    def pixels(self):
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


class Made(NamedTuple):
    """Shards, and the picture that each sample in them has to be."""

    folder: Path
    copies: dict[str, Picture]

    @property
    def pattern(self):
        """The tars as upstream's training names them: a range that is made of ``meta.json`` alone."""
        meta = json.loads((self.folder / "meta.json").read_text())
        last = meta["output_shard_count"] - 1
        first, last = (meta["output_shard_format"].format(number).removesuffix(".tar") for number in (0, last))
        return f"{self.folder}/{{{first}..{last}}}.tar"


def jpeg(rng, mode):
    """Noise of a random size."""
    height, width = rng.integers(17, 41, 2)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def pictures(root):
    """A pool of small pictures, gray and CMYK ones among them, with captions of all kinds."""
    rng, found = np.random.default_rng(0), []
    for mode, uid in zip(cycle(MODES), hex_uids(TARS * PER_TAR), strict=False):
        text = CAPTIONS[len(found) % len(CAPTIONS)]
        found.append(Picture(uid, jpeg(rng, mode), text and f"{text} {len(found)}"))
    for number in range(TARS):
        part = found[number * PER_TAR :][:PER_TAR]
        write_parquet(root / "metadata" / f"{number}.parquet", [p.uid for p in part])
        tar = root / "shards" / f"{number:08d}.tar"
        write_tar(tar, [sample(p.uid, p.jpeg, p.caption) for p in part])
    return found


def made_of(root, pictures, out, shard_size):
    """The wanted pictures of a pool, in shards."""
    times = dict.fromkeys(range(0, len(pictures), 2), 1) | REPEATS
    wanted = {f"{pictures[i].uid}-{j}": pictures[i] for i, count in times.items() for j in range(count)}
    resharded(root, [p.uid for p in wanted.values()], out, Copy(shard_size=shard_size))
    return Made(out, wanted)


@pytest.fixture(scope="module")
def made(root, pictures, tmp_path_factory):
    return made_of(root, pictures, tmp_path_factory.mktemp("made") / "out", shard_size=6)


@pytest.mark.parametrize(("shard_size", "count"), [(1, 22), (6, 4), (100, 1)])
def test_the_range_that_meta_json_tells_names_exactly_the_tars(root, pictures, tmp_path, shard_size, count):
    made = made_of(root, pictures, tmp_path / "out", shard_size)
    named = wds.shardlists.expand_urls(made.pattern)
    assert named == sorted(str(tar) for tar in made.folder.glob("*.tar")) and len(named) == count


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_reads_every_copy_once_a_pass_with_its_pixels_and_caption(made, workers):
    dataset = wds.WebDataset(made.pattern, shardshuffle=False).decode("pilrgb").to_tuple("__key__", "jpg", "txt")
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers)
    wanted = [(key, digest(picture.pixels), picture.caption) for key, picture in made.copies.items()]
    for _ in range(2):
        assert sorted((key, digest(image), text) for key, image, text in loader) == sorted(wanted)


def digest(image):
    return image.mode, image.size, hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def told(made):
    """What open_clip's loader makes of the shards; it has nothing to complain of."""
    command = [sys.executable, LOADER, made.pattern, json.dumps(PASSES)]
    environment = {**os.environ, "PYTHONPATH": str(OLD)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "webdataset error" not in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def wanted(made):
    """Caption and digest of the image tensor of every copy, made of the pool's own pictures."""
    from open_clip import image_transform

    transform = image_transform(16, is_train=False)
    tensors = [(p.caption, transform(p.pixels).numpy().tobytes()) for p in made.copies.values()]
    return Counter((caption, hashlib.sha256(tensor).hexdigest()) for caption, tensor in tensors)


def came(told, name):
    return Counter((caption, tensor) for caption, tensor in told["passes"][name])


@NEEDS_OLD
def test_open_clip_finds_the_size_in_sizes_json(told):
    assert told["webdataset"] == "0.2.86" and told["size"] == [22, 4]


@NEEDS_OLD
@pytest.mark.parametrize("name", ["evaluation", "evaluation, two workers", "training"])
def test_open_clip_reads_every_copy_once(told, wanted, name):
    assert came(told, name) == wanted


@NEEDS_OLD
def test_open_clip_fills_the_epoch_of_two_workers_with_copies_it_has_seen(told, wanted):
    # 22 samples are 11 batches of 2; two workers make 6 each, and one of them has two shards with 10 samples.
    seen = came(told, "training, two workers")
    assert seen.total() == 24 and seen >= wanted and set(seen) == set(wanted)


@NEEDS_OLD
def test_open_clip_resamples_from_the_wanted_copies_alone(told, wanted):
    seen = came(told, "resampled")
    assert seen.total() == 40 and set(seen) <= set(wanted)
