"""A mixture: the shards of several sources, found where they lie and drawn as often as their weights say."""

import json
from collections import Counter
from random import Random

import pytest

from dcexp.artifacts.shards import FILES, META, SIZES, Shards
from dcexp.engines.local import Local
from dcexp.reshard.base import Reshard
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from dcexp.reshard.mixture import Mixture
from dcexp.stage import Step
from dcexp.training.reading import Losses, read_shard, shard_list
from dcexp.training.samples import RawSamples
from dcexp.training.train import Train
from tests.pools import ONE, hex_uids, write_parquet, write_pool, write_tar
from tests.reshard.test_copy import resharded
from tests.training.small import micro_scale, samples, write_shards


def mixed(out, parts, /, weight=1.0, **weights):
    """The mixture of ``parts`` (by name, main first) in ``out``, and its summary."""
    out.mkdir(parents=True)
    summary = Mixture(weight=weight, weights=weights).run(out, ONE, **parts)
    assert summary.counts.add_up
    return Shards(out), summary


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Shards as in a store: copies of 9 samples in 3 tars, and an index of 7 others in 2."""
    folder, store = tmp_path_factory.mktemp("pools"), tmp_path_factory.mktemp("store") / "shards"
    store.mkdir()
    uids = write_pool(folder / "a", (6, 5))
    main, _ = resharded(folder / "a", uids[0] + uids[1][:3], store / "copy", Copy(shard_size=3))
    others = hex_uids(7, seed=9)
    write_parquet(folder / "b/metadata/0.parquet", others)
    write_tar(
        folder / "b/shards/00000000.tar",
        [{"jpg": b"x", "json": b'{"uid": "%s"}' % u.encode(), "txt": u.encode()} for u in others],
    )
    laion, _ = resharded(folder / "b", others, store / "index", Index(shard_size=4))
    return {"main": main, "laion": laion}


@pytest.fixture(scope="module")
def mixture(parts):
    return mixed(parts["main"].path.with_name("mixture"), parts, laion=3.0)


def test_it_lists_every_shard_of_every_part_and_copies_none(parts, mixture):
    shards, summary = mixture
    assert list(shards.sizes.items()) == [
        ("../copy/00000000.tar", 3),
        ("../copy/00000001.tar", 3),
        ("../copy/00000002.tar", 3),
        ("../index/00000000.npz", 4),
        ("../index/00000001.npz", 3),
    ]
    assert shards.places == [*parts["main"].places, *parts["laion"].places]
    assert shards.weights == (1, 1, 1, 3, 3)
    assert {path.name for path in shards.path.iterdir()} == {SIZES, FILES, META}
    assert (summary.counts.total, summary.counts.kept, shards.samples) == (16, 16, 16)
    assert summary.facts["parts"] == {
        "main": {"weight": 1, "shards": 3, "samples": 9, "share": pytest.approx(1 / 3, abs=1e-6)},
        "laion": {"weight": 3, "shards": 2, "samples": 7, "share": pytest.approx(2 / 3, abs=1e-6)},
    }
    meta = json.loads((shards.path / META).read_text())
    assert (meta["output_count"], meta["output_shard_count"]) == (16, 5)


def test_every_sample_of_every_part_can_be_read(parts, mixture):
    def texts(shards: Shards) -> list[bytes]:
        listed = shard_list(shards)
        numbers = range(len(listed.places))
        return [m["txt"] for n in numbers for _, m in read_shard(listed, n, range(99), Losses())]

    assert texts(mixture[0]) == texts(parts["main"]) + texts(parts["laion"])
    assert len(texts(mixture[0])) == 16


@pytest.mark.parametrize("weight, laion", [(1, 3), (2, 0.5), (1, 1)])
def test_shards_are_drawn_as_their_weights_say(weight, laion, parts, tmp_path):
    shards, summary = mixed(tmp_path / "mixture", parts, weight=weight, laion=laion)
    listed, rng, draws = shard_list(shards), Random(0), 20_000
    drawn = Counter(listed.draw(rng) for _ in range(draws))
    total = 3 * weight + 2 * laion
    expected = [draws * w / total for w in (weight,) * 3 + (laion,) * 2]
    chi_square = sum((drawn[n] - e) ** 2 / e for n, e in enumerate(expected))
    assert chi_square < 18.47  # 4 degrees of freedom, p = 0.001
    share = summary.facts["parts"]["laion"]["share"]
    assert share == pytest.approx(2 * laion / total, abs=1e-6)
    assert (drawn[3] + drawn[4]) / draws == pytest.approx(share, abs=0.015)


def test_samples_come_in_proportion_to_weight_times_samples(parts, mixture):
    """What docs/mixtures.md promises: whole shards are read, whatever their sizes."""
    stream = RawSamples(shard_list(mixture[0]), Random(1), Losses())
    drawn = Counter(next(stream).shard >= 3 for _ in range(10_000))
    assert drawn[True] / 10_000 == pytest.approx(3 * 7 / (9 + 3 * 7), abs=0.02)


def test_a_store_may_move_as_a_whole(parts, mixture, tmp_path):
    import shutil

    moved = shutil.copytree(parts["main"].path.parent, tmp_path / "elsewhere")
    shards = Shards(moved / "mixture")
    shards.check()
    assert all(place.startswith(str(moved)) for place in shards.places)


def test_what_lies_outside_of_the_store_keeps_its_place(parts, tmp_path):
    root, tars = tmp_path / "pool", tmp_path / "tars"
    (uids,) = write_pool(root, (4,))
    (tmp_path / "store").mkdir()
    far, _ = resharded(root, uids, tmp_path / "store/far", Copy(shard_size=2, to=str(tars)))
    shards, _ = mixed(tmp_path / "store/mixture", {**parts, "far": far}, laion=1, far=1)
    assert list(shards.sizes)[-2:] == far.places and far.places[0].startswith(str(tars))
    assert shards.places[-2:] == far.places
    shards.check()


def test_urls_are_kept_and_not_asked(parts, tmp_path):
    far = write_shards(tmp_path / "far", samples(4), per_shard=2)
    (far.path / META).write_text('{"output_dir": "s3://bucket/there"}')
    shards, _ = mixed(tmp_path / "mixture", {**parts, "far": Shards(far.path)}, laion=1, far=1)
    assert shards.places[-2:] == ["s3://bucket/there/00000000.tar", "s3://bucket/there/00000001.tar"]
    shards.check()


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_shard_that_a_part_has_lost_is_noticed(damage, tmp_path):
    parts = {name: write_shards(tmp_path / name, samples(6), per_shard=3) for name in ("main", "laion")}
    shards, _ = mixed(tmp_path / "mixture", parts, laion=1)
    tar = tmp_path / "laion/00000001.tar"
    if damage == "cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    else:
        tar.unlink()
    with pytest.raises(ValueError, match=rf"{tar} has [0-9,]+ bytes, 20,480 were written"):
        Shards(shards.path).check()
    with pytest.raises(ValueError, match=r"00000001\.tar has"):
        mixed(tmp_path / "again", parts, laion=1)


def test_an_empty_part_is_named(parts, tmp_path):
    empty = write_shards(tmp_path / "none", [])
    with pytest.raises(ValueError, match="cc3m of the mixture has no samples"):
        mixed(tmp_path / "mixture", {**parts, "cc3m": empty}, laion=1, cc3m=1)


def test_the_same_shards_twice_are_refused(parts, tmp_path):
    with pytest.raises(ValueError, match=r"laion of the mixture holds .*copy/00000000\.tar, which another part holds"):
        mixed(tmp_path / "mixture", {"main": parts["main"], "laion": parts["main"]}, laion=1)


@pytest.mark.parametrize("name", ["main", "self", "out", "engine", "seed", "inputs", "a b", "a/b", ""])
def test_names_that_cannot_be(name):
    with pytest.raises(ValueError, match="cannot be called"):
        Mixture(weights={name: 1.0})


@pytest.mark.parametrize("fields", [{"weights": {"a": 0}}, {"weights": {"a": 1}, "weight": -2.0}])
def test_weights_that_cannot_be(fields):
    with pytest.raises(ValueError, match=r"weight=(0|-2): wanted a number above 0"):
        Mixture(**fields)


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), "2"])
def test_weights_that_are_no_numbers(weight):
    with pytest.raises(ValueError, match="weights: wanted"):
        Mixture(weights={"a": weight})


def shards_step(seed: int) -> Step:
    return Step(Reshard(seed=seed), {})


def test_the_key_follows_from_parts_and_weights_and_not_from_their_order():
    def key(weights, weight=1.0, **parts):
        return Mixture(weights=weights, weight=weight).step(shards_step(0), parts).key

    one = key({"a": 1, "b": 2}, a=shards_step(1), b=shards_step(2))
    assert one == key({"b": 2.0, "a": 1.0}, b=shards_step(2), a=shards_step(1))
    others = [
        key({"a": 2, "b": 1}, a=shards_step(1), b=shards_step(2)),
        key({"a": 1, "b": 2}, a=shards_step(2), b=shards_step(1)),
        key({"a": 1, "b": 2}, weight=2.0, a=shards_step(1), b=shards_step(2)),
        key({"a": 1}, a=shards_step(1)),
    ]
    assert len({one, *others}) == 5
    step = Mixture(weights={"b": 2, "a": 1}).step(shards_step(0), {"b": shards_step(2), "a": shards_step(1)})
    assert list(step.steps) == ["main", "a", "b"] and step.name == f"mixture-a_1-b_2-{step.key}"


def test_a_part_may_be_called_anything_else(parts, tmp_path):
    for name in ("pool", "kind", "stage", "part_0"):
        shards, _ = mixed(tmp_path / name, {"main": parts["main"], name: parts["laion"]}, **{name: 2})
        assert len(shards.weights) == 5
        stage = Mixture(weights={name: 2})
        assert (
            stage.cost(**{"main": parts["main"], name: parts["laion"]})
            == f"shards drawn: 42.9% from main, 57.1% from {name}"
        )
        assert stage.cost(main=parts["main"]) == ""


def test_training_takes_it(tmp_path):
    parts = {
        name: write_shards(tmp_path / name, samples(40, seed), per_shard=20) for seed, name in enumerate(("main", "b"))
    }
    shards, _ = mixed(tmp_path / "mixture", parts, b=2)
    out = tmp_path / "checkpoint"
    out.mkdir()
    stage = Train(precision="fp32", checkpoints=1, workers=1)
    summary = stage.run(out, Local(), shards=shards, scale=micro_scale(), seed=0)
    assert summary.facts["passes"] == pytest.approx(240 / 80) and summary.counts.corrupt == 0
