"""The data of a rank: seeds, order, and what is done with samples that cannot be read."""

from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from dcexp.model import build_model, tokenizer
from dcexp.training.batch import Batch
from dcexp.training.data import Interval, base_seed
from dcexp.training.images import halves
from dcexp.training.reading import Losses, NoSamples, ShardList, shard_list
from dcexp.training.samples import RawSamples
from tests.training.small import picture, samples, write_shards


@pytest.fixture(scope="module")
def crop():
    return halves(build_model("ViT-tiny-8", "fp32", 0)[1])[0]


@pytest.fixture
def interval(crop):
    def make(shards, **options):
        defaults = {"batch_size": 5, "batches": 7, "seed": 3, "index": 0, "workers": 2}
        tokenize = tokenizer("ViT-tiny-8")
        return Interval(shards=shard_list(shards), crop=crop, tokenize=tokenize, **(defaults | options))

    return make


def read(interval) -> list[Batch]:
    return list(interval.loader(pin_memory=False))


def test_base_seeds_are_those_of_open_clip():
    expected = [900450186894289455, 7692698082559361259, 8042686386972756495, 937055941807507096]
    assert [base_seed(0, rank) for rank in range(4)] == expected
    assert base_seed(2, 1) == expected[3]


def test_shards_come_in_the_order_of_open_clip(tmp_path):
    shards = write_shards(tmp_path / "shards", samples(12), per_shard=3)
    drawn = [shards.places[s.shard] for s in islice(RawSamples(shard_list(shards), Random(5), Losses()), 0, 60, 3)]
    rng = Random(5)
    assert drawn == [rng.choice(shards.places) for _ in range(20)]


def test_an_interval_is_a_pure_function_of_its_fields(tmp_path, interval):
    shards = write_shards(tmp_path / "shards", samples(90))
    once, again = read(interval(shards)), read(interval(shards))
    assert len(once) == 7
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.texts, b.texts) for a, b in zip(once, again, strict=True)
    )
    for other in ({"seed": 4}, {"index": 1}, {"workers": 3}):
        different = read(interval(shards, **other))
        assert not all(torch.equal(a.texts, b.texts) for a, b in zip(once, different, strict=True))


def test_a_batch_has_the_shapes_of_the_model(tmp_path, interval):
    batch = read(interval(write_shards(tmp_path / "shards", samples(10)), batches=1))[0]
    assert batch.images.shape == (5, 32, 32, 3) and batch.images.dtype == torch.uint8
    assert batch.texts.shape[0] == 5 and batch.texts.dtype == torch.int64
    assert (batch.corrupt, batch.complaints) == (0, ())
    assert [Path(place).name for place in batch.shards] == ["00000000.tar"]


def test_every_kind_of_image_is_read_and_others_are_not(tmp_path, interval):
    rng = np.random.default_rng(0)
    kinds = [("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("WEBP", "WEBP"), ("bmp", "BMP")]
    pool = [{suffix: picture(rng, kind), "txt": b"a"} for suffix, kind in kinds]
    batches = read(interval(write_shards(tmp_path / "shards", pool), batches=8, workers=1))
    lost = sum(batch.corrupt for batch in batches)
    assert lost / (40 + lost) == pytest.approx(1 / 5, abs=0.12)


def test_corrupt_samples_are_skipped_counted_and_named_once(tmp_path, interval):
    pool = samples(20)
    pool[3]["jpg"] = b"no picture"
    pool[4]["txt"] = b"\xff\xfe"
    del pool[5]["txt"]
    batches = read(interval(write_shards(tmp_path / "shards", pool), batches=40, workers=1))
    lost = sum(batch.corrupt for batch in batches)
    assert lost / (200 + lost) == pytest.approx(3 / 20, abs=0.07)
    complaints = [c for batch in batches for c in batch.complaints]
    assert len(complaints) == 1 and "/00000000.tar: " in complaints[0]


def test_a_broken_tar_loses_what_it_should_hold(tmp_path):
    shards = write_shards(tmp_path / "shards", samples(20), per_shard=10)
    broken = Path(shards.places[1])
    broken.write_bytes(broken.read_bytes()[: 512 * 30])
    losses = Losses()
    alone = ShardList(places=(str(broken),), sizes=(10,))
    first = next(RawSamples(alone, Random(0), losses))
    assert "jpg" in first.members
    stream = RawSamples(alone, Random(0), losses := Losses())
    keys = [next(stream).members["txt"] for _ in range(4)]
    whole = keys.index(keys[0], 1)
    assert losses.corrupt == (len(keys) - 1) // whole * (10 - whole)
    assert len(losses.complaints) == 1 and "cut off" in losses.complaints[0]


def test_shards_that_are_gone_end_with_a_message(tmp_path, interval):
    shards = write_shards(tmp_path / "shards", samples(6), per_shard=3)
    for tar in shards.places:
        Path(tar).unlink()
    (answer,) = read(interval(shards, workers=1))
    assert isinstance(answer, NoSamples)
    assert "15 shards opened in a row without a single sample" in str(answer)


def test_pictures_that_are_all_broken_end_with_a_message(tmp_path, interval):
    pool = [{"jpg": b"no picture", "txt": b"a"}] * 6
    (answer,) = read(interval(write_shards(tmp_path / "shards", pool), workers=1))
    assert isinstance(answer, NoSamples)
    assert "samples in a row could not be decoded" in str(answer)
