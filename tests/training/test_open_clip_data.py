"""What a training sees is what open_clip's own loader gives, batch by batch and to the bit, interrupted or not.

The one thing that is pinned is the generator of the sample shuffle, which open_clip seeds with the clock: see
``open_clip_data.py``.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import dcexp.model
from dcexp.model import build_model, tokenizer
from dcexp.training.batch import Batch
from dcexp.training.data import Interval, base_seed
from dcexp.training.images import halves
from dcexp.training.reading import ShardList
from dcexp.training.shuffle import SIZE
from tests.parity.test_loaders import NEEDS_OLD, OLD
from tests.pools import write_tar

pytestmark = NEEDS_OLD
PROGRAM = Path(__file__).with_name("open_clip_data.py")
MODEL = "ViT-tiny-8"
SEED, RANKS = 5, 2
KINDS = [  # mode, format and suffix of the pictures, in turns
    ("RGB", "JPEG", "jpg"),
    ("L", "JPEG", "jpg"),
    ("P", "PNG", "png"),
    ("RGB", "WEBP", "webp"),
    ("CMYK", "JPEG", "jpeg"),
    ("RGBA", "PNG", "png"),
    ("L", "PNG", "PNG"),
    ("RGBA", "WEBP", "webp"),
    ("1", "PNG", "png"),
]


class Run(NamedTuple):
    """A training by one of two ranks, whose epochs have ``batches``; the weights are of its sources."""

    workers: int = 2
    batch_size: int = 2
    rank: int = 0
    batches: int = 8
    epochs: int = 3
    sources: tuple[str, ...] = ("a", "b")
    weights: tuple[float, ...] = ()


ALONE = Run(workers=1, batches=7)  # what would be 7 batches is 8 for two workers, in open_clip's count
RUNS = {
    f"{run.workers} workers, {size} a batch, rank {rank}": run._replace(batch_size=size, rank=rank)
    for run in (ALONE, Run())
    for size in (2, 4)
    for rank in range(RANKS)
} | {
    "weights": Run(weights=(2, 1), batch_size=4),
    "weights, alone": ALONE._replace(weights=(0.5, 3), rank=1),
    "equal weights": ALONE._replace(weights=(1, 1)),
    "damaged shards": ALONE._replace(sources=("damaged", "b")),
    "full buffer": ALONE._replace(sources=("sparse",), batch_size=8, batches=60, epochs=1),
}
# Runs in which ours differs, and why.
DIFFERENT = {
    "cut in a sample": (
        ALONE._replace(sources=("cut", "b"), epochs=1),
        "open_clip takes what is left of the last sample of a tar that is cut off for a sample; ours does not, "
        "nor a last one that lacks a suffix of the one before it",
    ),
    "keys that go on": (
        ALONE._replace(sources=("one", "two"), epochs=1),
        "open_clip puts the last sample of a tar and the first of the next together where they have the same key, "
        "up to the first suffix that both have",
    ),
}
ALL = RUNS | {name: run for name, (run, _) in DIFFERENT.items()}
POINTS = [(0, 1), (0, 4), (1, 0), (1, 3), (2, 0), (2, 6)]  # epoch, and how many of its batches are done
INTERRUPTED = [
    *(("1 workers, 2 a batch, rank 0", *point) for point in POINTS),
    *(("2 workers, 4 a batch, rank 1", *point) for point in POINTS),
    ("weights", 1, 5),
    ("weights", 2, 0),
    ("damaged shards", 0, 2),
    ("damaged shards", 2, 5),
    ("full buffer", 0, 57),
]
IN_PIECES = ["1 workers, 2 a batch, rank 1", "2 workers, 2 a batch, rank 0"]


def picture(rng, mode, kind):
    """A file of noise of a random size."""
    height, width = rng.integers(17, 49, 2)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    file = io.BytesIO()
    (image.quantize(8) if mode == "P" else image.convert(mode)).save(file, kind)
    return file.getvalue()


def good(rng, count, first=0):
    """Samples of all kinds of pictures; some captions are empty, some samples have a json."""
    for i in range(count):
        mode, kind, suffix = KINDS[(first + i) % len(KINDS)]
        text = f"{first} {i}, schläft" if i % 5 else ""
        yield {suffix: picture(rng, mode, kind), "txt": text.encode()} | ({} if i % 3 else {"json": b"{}"})


def mixed(rng, count, first):
    """The same; of nine and more, some cannot be trained on, for all kinds of reasons."""
    samples = list(good(rng, count, first))
    if count > 8:
        samples[1] = {"png": picture(rng, "RGB", "PNG"), "jpg": picture(rng, "RGB", "JPEG"), "txt": b"jpg precedes png"}
        samples[2] = {"jpg": b"no picture", "txt": b"undecodable"}
        samples[3] = {"jpg": picture(rng, "RGB", "JPEG")[:-600], "txt": b"cut off"}
        samples[4]["txt"] = b"\xff\xfe is no UTF-8"
        samples[5] = {"bmp": picture(rng, "RGB", "BMP"), "txt": b"of a kind that is not trained on"}
        del samples[6]["txt"]
        samples[7] = {"a.jpg": picture(rng, "RGB", "JPEG"), "txt": b"a suffix is all after the first dot"}
    return samples


def sparse(rng):
    """Hardly any that can be trained on."""
    return [sample if i % 10 == 0 else {"txt": b"alone"} for i, sample in enumerate(good(rng, 40))]


def alike(rng, count):
    """Samples that are all of one kind."""
    return [{"jpg": picture(rng, "RGB", "JPEG"), "txt": f"alike {i}".encode()} for i in range(count)]


def write_sources(folder):
    """The tars of every source, by name, and how many samples are in each."""
    rng = np.random.default_rng(0)
    sources = {
        "a": [mixed(rng, size, first) for first, size in enumerate((7, 20, 11, 14))],
        "b": [mixed(rng, size, first) for first, size in enumerate((9, 16, 1))],
        "sparse": [sparse(rng), sparse(rng)],
        "damaged": [mixed(rng, 12, 3), [], alike(rng, 6), alike(rng, 6)],
        "cut": [alike(rng, 6)],
        "one": [[{"jpg": picture(rng, "RGB", "JPEG"), "txt": b"one"}]],
        "two": [[{"png": picture(rng, "RGB", "PNG"), "txt": b"two"}]],
    }
    for name, tars in sources.items():
        for number, samples in enumerate(tars):
            # No two tars have the same keys: see DIFFERENT.
            key = "same" if name in ("one", "two") else f"{name}{number}"
            keyed = [(f"{key}{i:04d}", sample) for i, sample in enumerate(samples)]
            write_tar(folder / name / f"{number:08d}.tar", keyed, mtime=0)
    (folder / "damaged" / "00000002.tar").unlink()
    cut(folder / "damaged" / "00000003.tar", "damaged30005.jpg")
    cut(folder / "cut" / "00000000.tar", "cut00005.txt")
    return {name: [len(samples) for samples in tars] for name, tars in sources.items()}


def cut(path, name):
    """Cut a tar off in the header of one of its members."""
    with tarfile.open(path) as tar:
        at = tar.getmember(name).offset
    path.write_bytes(path.read_bytes()[: at + 100])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Where the sources are, and the sizes of the tars of each by name."""
    folder = tmp_path_factory.mktemp("sources")
    return folder, write_sources(folder)


@pytest.fixture(scope="module")
def theirs(sources):
    """The batches of every epoch of every run, as open_clip's loader gives them."""
    models = Path(dcexp.model.__file__).with_name("models")
    command = [sys.executable, PROGRAM, models, MODEL, json.dumps(asked(*sources))]
    environment = {**os.environ, "PYTHONPATH": str(OLD)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["webdataset"] == "0.2.86"
    return {name: [[tuple(batch) for batch in epoch] for epoch in epochs] for name, epochs in told["runs"].items()}


def asked(folder, sizes):
    """The runs in the words of open_clip."""
    return {
        name: {
            "epochs": run.epochs,
            "dataset_resampled": True,
            "train_data": "::".join(f"{folder}/{s}/{{00000000..{len(sizes[s]) - 1:08d}}}.tar" for s in run.sources),
            "train_data_upsampling_factors": "::".join(map(str, run.weights)) or None,
            "train_num_samples": (run.batches - (run.workers - 1)) * run.batch_size * RANKS - 1,  # it rounds up
            "batch_size": run.batch_size,
            "workers": run.workers,
            "world_size": RANKS,
            "rank": run.rank,
            "seed": SEED,
        }
        for name, run in ALL.items()
    }


@pytest.fixture(scope="module")
def interval(sources):
    """Makes the interval of a run with this index, of which so many batches are done."""
    folder, sizes = sources
    crop, tokenize = halves(build_model(MODEL, "fp32", 0)[1])[0], tokenizer(MODEL)

    def make(run, index, done=0, positions=()):
        weights = dict(zip(run.sources, run.weights, strict=True)) if run.weights else {}
        numbered = [(s, number) for s in run.sources for number in range(len(sizes[s]))]
        shards = ShardList(
            places=tuple(f"{folder}/{s}/{number:08d}.tar" for s, number in numbered),
            sizes=tuple(sizes[s][number] for s, number in numbered),
            weights=tuple(weights[s] for s, _ in numbered if weights),
        )
        return Interval(
            shards=shards,
            crop=crop,
            tokenize=tokenize,
            batch_size=run.batch_size,
            batches=run.batches,
            seed=base_seed(SEED, run.rank),
            index=index,
            workers=run.workers,
            done=done,
            positions=dict(positions),
        )

    return make


@pytest.fixture(scope="module")
def told():
    """What the model is given of a batch."""
    normalize = halves(build_model(MODEL, "fp32", 0)[1])[1]

    def tell(batch: Batch):
        images = normalize(batch.images)
        return f"{tuple(images.shape)} {hashlib.sha256(images.numpy().tobytes()).hexdigest()}", batch.texts.tolist()

    return tell


@pytest.fixture(scope="module")
def ours(interval, told):
    """Trains from a batch of an epoch on: the rest of its epochs, and where the workers stand after each batch."""

    def train(run, index=0, done=0, positions=(), limit=None):
        epochs, stand, at = [], [], dict(positions)
        for epoch in range(index, run.epochs):
            epochs.append([])
            stand.append([])
            first = done if epoch == index else 0
            for batch in islice(interval(run, epoch, first, at).loader(pin_memory=False), limit):
                at = {**at, batch.position.worker: batch.position}
                epochs[-1].append(told(batch))
                stand[-1].append(at)
        return epochs, stand

    return train


@pytest.fixture(scope="module")
def whole(ours):
    """The same for whole runs, each of which is read once."""
    return cache(lambda name: ours(ALL[name]))


@pytest.mark.parametrize("name", RUNS)
def test_batches_are_those_of_open_clip(theirs, whole, name):
    epochs, _ = whole(name)
    assert [len(epoch) for epoch in theirs[name]] == [RUNS[name].batches] * RUNS[name].epochs
    assert different(epochs, theirs[name]) == []


def different(ours, theirs):
    """The epoch and the number of every batch that is not the same."""
    numbered = [(e, b) for e, epoch in enumerate(theirs) for b in range(len(epoch))]
    assert [len(epoch) for epoch in ours] == [len(epoch) for epoch in theirs]
    return [(e, b) for e, b in numbered if ours[e][b] != theirs[e][b]]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.xfail(reason=why, strict=True)) for n, (_, why) in DIFFERENT.items()]
)
def test_batches_differ_from_those_of_open_clip(theirs, whole, name):
    assert different(whole(name)[0], theirs[name]) == []


@pytest.mark.parametrize("name", RUNS)
def test_no_two_batches_of_a_run_are_alike(theirs, name):
    batches = [repr(batch) for epoch in theirs[name] for batch in epoch]
    assert len(set(batches)) == len(batches)


@pytest.mark.parametrize(("name", "epoch", "done"), INTERRUPTED)
def test_a_training_goes_on_from_where_its_workers_stand(theirs, whole, ours, name, epoch, done):
    _, stand = whole(name)
    before = stand[epoch][done - 1] if done else stand[epoch - 1][-1]
    rest, _ = ours(RUNS[name], epoch, done, before)
    assert different(rest, [theirs[name][epoch][done:], *theirs[name][epoch + 1 :]]) == []


def test_the_buffer_was_full_in_one_of_them(whole):
    _, (stand,) = whole("full buffer")
    assert len(stand[56][0].buffer) == SIZE - 1


@pytest.mark.parametrize("name", IN_PIECES)
def test_a_training_in_many_pieces_is_the_same(theirs, whole, ours, name):
    run, at, batches = RUNS[name], {}, []
    for epoch in range(run.epochs):
        for done in range(0, run.batches, 3):
            (piece,), (stand,) = ours(run._replace(epochs=epoch + 1), epoch, done, at, limit=3)
            batches += piece
            at = stand[-1]
    assert different([batches], [list(chain(*theirs[name]))]) == []
    _, (*_, (*_, wanted)) = whole(name)
    assert {worker: plain(position) for worker, position in at.items()} == {w: plain(p) for w, p in wanted.items()}


def plain(position):
    """A position, to be compared."""
    return [field.tolist() if isinstance(field, np.ndarray) else field for field in position]
