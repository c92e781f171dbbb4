"""An index gives training what a copy would give it: the same samples in the same order, so the same batches."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from dcexp.artifacts.shards import Shards
from dcexp.engines.local import Local
from dcexp.model import build_model, tokenizer
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from dcexp.training.data import Interval
from dcexp.training.images import halves
from dcexp.training.reading import Losses, NoSamples, ShardList, read_shard, shard_list
from dcexp.training.samples import RawSamples
from dcexp.training.train import Train
from tests.pools import hex_uids, write_parquet, write_tar
from tests.reshard.test_copy import files_in, resharded
from tests.training.small import micro_scale, picture


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tars of 40 pictures, members in another order in the second."""
    root, rng = tmp_path_factory.mktemp("index") / "pool", np.random.default_rng(0)
    for number in range(2):
        uids = hex_uids(40, seed=number)
        pool = []
        for uid in uids:
            members = [("jpg", picture(rng)), ("json", json.dumps({"uid": uid}).encode()), ("txt", uid.encode())]
            pool.append(dict(members if number else reversed(members)))
        write_parquet(root / "metadata" / f"{number}.parquet", uids)
        write_tar(root / "shards" / f"{number:08d}.tar", pool)
    return root


@pytest.fixture(scope="module")
def wanted():
    uids = hex_uids(40, seed=0) + hex_uids(40, seed=1)
    return uids[::3] + uids[:20] + uids[:4] * 5


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def both(request, root, wanted, tmp_path_factory):
    """The same subset copied and indexed."""
    options = {"shard_size": 16, "shuffle": request.param == "shuffled", "seed": 3}
    folder = tmp_path_factory.mktemp("both")
    return [
        resharded(root, wanted, folder / stage.__name__, stage(**options))[0] for stage in (Copy, Index)
    ]  # fmt: skip


def test_the_samples_are_those_of_the_copy_in_its_order(both, wanted):
    copied, indexed = ([s.members for s in _once(shards)] for shards in both)
    assert copied == indexed and len(copied) == len(wanted)
    assert sorted(s["txt"].decode() for s in indexed) == sorted(wanted)


def _once(shards: Shards):
    """Every shard once, in order."""
    for place, count in zip(shards.places, shards.sizes.values(), strict=True):
        yield from islice(RawSamples(ShardList(places=(place,), sizes=(count,)), Random(0), Losses()), count)


def test_the_batches_are_those_of_the_copy(both):
    crop = halves(build_model("ViT-tiny-8", "fp32", 0)[1])[0]
    batches = []
    for shards in both:
        interval = Interval(
            shards=shard_list(shards),
            crop=crop,
            tokenize=tokenizer("ViT-tiny-8"),
            batch_size=12,
            batches=9,
            seed=5,
            index=1,
            workers=2,
        )
        batches.append(list(interval.loader(pin_memory=False)))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.texts, other.texts)


def test_training_ends_in_the_same_weights(both, tmp_path):
    states = []
    for number, shards in enumerate(both):
        out = tmp_path / str(number)
        out.mkdir()
        Train(precision="fp32", checkpoints=2, workers=2).run(out, Local(), shards=shards, scale=micro_scale(), seed=1)
        states.append(torch.load(out / "epoch_latest.pt", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_nothing_is_copied(root, wanted, tmp_path):
    shards, summary = resharded(root, wanted, tmp_path / "out", Index(shard_size=16))
    assert {path.suffix for path in shards.path.iterdir()} == {".npz", ".json", ".npy"}
    assert summary.counts.kept == len(set(wanted)) and summary.facts["written"] == len(wanted)


def test_a_tar_that_has_changed_ends_the_training_and_says_what_to_do(root, wanted, tmp_path):
    shards, _ = resharded(root, wanted, tmp_path / "out", Index(shard_size=16))
    tar = root / "shards" / "00000001.tar"
    content = tar.read_bytes()
    try:
        tar.write_bytes(content + bytes(512))
        with pytest.raises(NoSamples, match=r"00000001.tar has changed .*rebuild=locations"):
            list(_once(shards))
    finally:
        tar.write_bytes(content)


def test_a_pool_that_is_gone_ends_with_a_message(root, wanted, tmp_path):
    shards, _ = resharded(root, wanted, tmp_path / "out", Index(shard_size=100))
    (root / "shards").rename(root / "away")
    losses = Losses()
    try:
        with pytest.raises(NoSamples, match="without a single sample"):
            next(RawSamples(shard_list(shards), Random(0), losses))
        assert losses.corrupt >= len(wanted) and "is gone" in losses.complaints[0]
    finally:
        (root / "away").rename(root / "shards")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_byte_of_an_index(root, wanted, tmp_path, workers):
    options = {"shard_size": 7, "shuffle": True, "seed": 1}
    one, _ = resharded(root, wanted, tmp_path / "one", Index(**options))
    again, _ = resharded(root, wanted, tmp_path / "again", Index(**options), Local(workers=workers))
    assert files_in(one.path) == files_in(again.path)


def test_small_windows_of_reading_make_no_difference(both, monkeypatch):
    """Samples of an index are read some at a time; those of a tar, window by window."""
    whole = [s.members for s in _once(both[1])]
    monkeypatch.setattr("dcexp.training.reading.TOGETHER", 3)
    monkeypatch.setattr("dcexp.artifacts.tar.WINDOW", 2048)
    assert [s.members for s in _once(both[1])] == whole
    assert [s.members for s in _once(both[0])] == whole


def test_the_paths_of_an_index_are_absolute(both):
    assert all(Path(place).is_absolute() and place.endswith(".npz") for place in both[1].places)


def test_samples_of_the_other_tars_are_read_when_one_is_gone(root, wanted, tmp_path):
    shards, _ = resharded(root, wanted, tmp_path / "out", Index(shard_size=100))
    tar = root / "shards" / "00000000.tar"
    whole = [s.members for s in _once(shards)]
    second = [s for s in whole if s["txt"].decode() in hex_uids(40, seed=1)]
    tar.rename(tar.with_suffix(".away"))
    try:
        losses = Losses()
        found = [members for _, members in read_shard(shard_list(shards), 0, range(len(whole)), losses)]
        assert found == second and losses.corrupt == len(whole) - len(second)
    finally:
        tar.with_suffix(".away").rename(tar)
