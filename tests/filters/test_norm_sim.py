"""NormSim with and without a target, against plain loops in double precision."""

import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET
from dcexp.filters import moments, norm_sim, thinning
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.imagenet import ImageNetDistance
from dcexp.filters.moments import moment, squares
from dcexp.filters.neg_clip_loss import NegClipLossFraction
from dcexp.filters.norm_sim import NormSimFraction, TargetNorm
from dcexp.filters.norm_sim_d import FOLDER, NormSimD
from dcexp.filters.sequence import Sequence
from dcexp.filters.thinning import lowest
from dcexp.sources.commonpool import CommonPool
from tests.filters.images import Images, random_features
from tests.pools import ONE, selected
from tests.test_conf import composed

QUALITY = "clip_l14_similarity_score"


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Blocks so small that every test meets many of them."""
    monkeypatch.setattr(moments, "BLOCK", {"cpu": 7, "cuda": 7})
    monkeypatch.setattr(norm_sim, "PIECE", 4)
    monkeypatch.setattr(thinning, "BLOCK", 11)


@pytest.fixture
def target(tmp_path):
    """Target images in two files; their lengths do not count."""
    (tmp_path / "target").mkdir()
    rows = np.concatenate(random_features(6, 13)) * np.linspace(1, 3, 13)[:, None].astype(np.float16)
    np.save(tmp_path / "target" / "0.npy", rows[:9])
    np.save(tmp_path / "target" / "1.npy", rows[9:])
    return rows


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), n=st.integers(1, 30), m=st.integers(1, 30), width=st.integers(2, 9))
def test_a_moment_stands_for_all_squared_cosines(seed, n, m, width):
    a, b = random_features(seed, n, m, width=width)
    a[0] *= 4
    wanted = ((unit(a) @ unit(b).T) ** 2).sum(axis=1)
    assert squares(a, moment(b)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("p, norm", [("infinity", np.max), (2, lambda s, axis: np.sqrt((s**2).sum(axis=axis)))])
@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_the_top_by_the_norm_is_kept(p, norm, fraction, target, tmp_path):
    pool = Images(tmp_path, random_features(0, 60, 0, 1, 39))
    order = np.argsort(-norm(unit(pool.features) @ unit(target).T, axis=1))[: int(100 * fraction) + 1]
    stage = NormSimFraction(p=p, fraction=fraction, target=str(tmp_path / "target"))
    assert np.flatnonzero(pool.counts(stage)).tolist() == sorted(order.tolist())


def test_infinity_shares_its_score_with_imagenet_distance_and_2_has_its_own(target, tmp_path):
    pool = Images(tmp_path, random_features(0, 50))
    for stage in (NormSimFraction, ImageNetDistance):
        pool.build(stage(target=str(tmp_path / "target")))
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1
    pool.build(NormSimFraction(p=2, target=str(tmp_path / "target")))
    pool.build(NormSimFraction(p=2, fraction=0.4, target=str(tmp_path / "target")))
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 2
    assert len(list((tmp_path / "store" / "moment").glob("*/manifest.json"))) == 1


def test_rows_that_are_not_finite_are_missing_and_zeros_come_last(target, tmp_path):
    (features,) = random_features(0, 20)
    features[2], features[5, 1], features[9] = np.nan, np.inf, 0
    pool = Images(tmp_path, [features])
    for p in ("infinity", 2):
        stage = NormSimFraction(p=p, fraction=1.0, target=str(tmp_path / "target"))
        assert np.flatnonzero(pool.counts(stage) == 0).tolist() == [2, 5]
    assert pool.counts(NormSimFraction(p=2, fraction=0.8, target=str(tmp_path / "target"), ties="exact"))[9] == 0


def test_widths_that_differ_and_an_empty_target_are_refused(target, tmp_path):
    stage = NormSimFraction(p=2, target=str(tmp_path / "target"))
    with pytest.raises(ValueError, match=r"'l14_img' is 8 wide, but the target's features are 16 wide"):
        Images(tmp_path / "narrow", random_features(0, 10, width=8)).build(stage)
    np.save(tmp_path / "target" / "1.npy", np.ones((2, 5), np.float16))
    with pytest.raises(ValueError, match=r"1.npy is 5 wide, but those in .*0.npy are 16 wide"):
        Images(tmp_path, random_features(0, 10)).build(stage)
    np.save(tmp_path / "target" / "1.npy", np.ones((0, 16), np.float16))
    with pytest.raises(ValueError, match=r"1.npy: wanted features of shape"):
        Images(tmp_path / "c", random_features(0, 10)).build(stage)
    missing = TargetNorm(target=str(tmp_path / "none")).extra(None)["moment"]
    with pytest.raises(FileNotFoundError, match=r"filter.target=.*none: no such file"):
        missing.stage.check(ONE, **missing.values)


def thinned(features, wanted, rounds):
    """NormSim-2-D round by round, with all moments anew; the places that stay."""
    rows, left = unit(features), list(range(len(features)))
    step = math.ceil((len(left) - wanted) / rounds)
    while len(left) > wanted:
        moment = sum(np.outer(rows[i], rows[i]) for i in left) / len(left)
        scores = {i: rows[i] @ moment @ rows[i] for i in left}
        gone = sorted(left, key=scores.get)[: min(step, len(left) - wanted)]
        left = [i for i in left if i not in gone]
    return left


@pytest.mark.parametrize("rounds", [1, 3, 7, 500])
@pytest.mark.parametrize("seed", range(3))
def test_a_pool_is_thinned_out_round_by_round(seed, rounds, tmp_path):
    pool = Images(tmp_path, random_features(seed, 60, 0, 1, 59))
    subset = pool.build(NormSimD(fraction=0.3, rounds=rounds))
    kept = np.flatnonzero(pool.counts(NormSimD(fraction=0.3, rounds=rounds)))
    assert kept.tolist() == thinned(pool.features, 36, rounds)
    assert subset.summary["candidates"] == 120 and subset.summary["rounds"] <= rounds
    assert not (subset.path / FOLDER).exists()


def test_several_rounds_keep_other_images_than_one(tmp_path):
    pool = Images(tmp_path, random_features(0, 120))
    assert (pool.counts(NormSimD(rounds=1)) != pool.counts(NormSimD(rounds=20))).any()


@pytest.mark.parametrize("fraction_of, wanted", [("pool", 20), ("input", 10)])
def test_after_another_filter_its_survivors_are_thinned_out(fraction_of, wanted, tmp_path):
    quality = np.random.default_rng(0).random(100)
    pool = Images(tmp_path, random_features(0, 40, 60), **{QUALITY: quality.tolist()})
    first = ClipScoreFraction(fraction=0.5, ties="exact")
    kept = np.flatnonzero(pool.counts(first))
    then = pool.counts(Sequence(first=first, then=NormSimD(rounds=5), fraction_of=fraction_of))
    assert np.flatnonzero(then).tolist() == kept[thinned(pool.features[kept], wanted, 5)].tolist()


def test_fewer_candidates_than_places_all_stay(tmp_path, caplog):
    pool = Images(tmp_path, random_features(0, 40), **{QUALITY: np.linspace(0, 1, 40).tolist()})
    first = ClipScoreFraction(fraction=0.1)
    assert (pool.counts(Sequence(first=first, then=NormSimD())) == pool.counts(first)).all()
    assert "there are only 5 candidates for 8 places; all stay" in caplog.text


def test_the_order_of_files_does_not_matter_and_equal_images_are_told_apart_by_uid(tmp_path):
    images = random_features(0, 30, 30)
    images[1][:15] = images[0][:15]  # each is twice in the pool
    pool, other = Images(tmp_path / "a", images), Images(tmp_path / "b", images)
    for number in (0, 1):
        for suffix in ("parquet", "npz"):
            folder = tmp_path / "b" / "pool" / "metadata"
            swapped = tmp_path / "a" / "pool" / "metadata" / f"000{number}.{suffix}"
            shutil.copy(swapped, folder / f"000{1 - number}.{suffix}")
    other.source = CommonPool(root=str(tmp_path / "b" / "pool")).step()
    for stage in (NormSimD(fraction=0.5, rounds=7), NormSimD(fraction=0.05, rounds=60)):
        assert pool.taken(stage) == other.taken(stage)
        kept = pool.counts(stage)
        pairs = [sorted((pool.uids[i], kept[i]) for i in (i, 30 + i)) for i in range(15)]
        assert all(low >= high for (_, low), (_, high) in pairs)


def test_of_equal_scores_the_highest_uids_go(tmp_path):
    uids = np.array([(0, 5), (2, 0), (0, 9), (1, 1)], dtype="u8,u8")
    assert lowest(np.array([1.0, 1.0, 1.0, 0.5]), uids, 3).tolist() == [3, 1, 2]
    assert sorted(lowest(np.array([1.0, 2.0, np.inf, 1.0]), uids, 3).tolist()) == [0, 1, 3]


def test_rows_without_a_direction_are_missing_and_no_candidates(tmp_path):
    (features,) = random_features(0, 40)
    features[2], features[5, 1], features[9] = np.nan, np.inf, 0
    pool, whole = Images(tmp_path, [features]), np.delete(np.arange(40), [2, 5, 9])
    subset = pool.build(NormSimD(fraction=0.5, rounds=4))
    assert subset.summary["counts"] == {"total": 40, "kept": 20, "dropped": 17, "missing": 3, "corrupt": 0}
    kept = np.flatnonzero(pool.counts(NormSimD(fraction=0.5, rounds=4)))
    assert kept.tolist() == whole[thinned(features[whole], 20, 4)].tolist()


def test_damaged_parts_are_left_out_where_that_is_wanted(tmp_path):
    pool = Images(tmp_path, random_features(0, 20, 30))
    (tmp_path / "index").mkdir()
    CommonPool(root=str(pool.root / "pool"), skip_corrupt=True).run(tmp_path / "index", ONE)
    (tmp_path / "pool" / "metadata" / "0000.npz").write_bytes(b"PK cut off")
    _, summary = selected(NormSimD(fraction=0.4, rounds=3), Pool(tmp_path / "index"), tmp_path / "out")
    assert (summary.counts.corrupt, summary.counts.kept, summary.counts.dropped) == (20, 20, 10)


def test_an_interrupted_thinning_goes_on_from_its_note(tmp_path, monkeypatch):
    pool = Images(tmp_path, random_features(0, 60))
    stage = NormSimD(rounds=9)
    whole = pool.build(stage, store="whole")
    monkeypatch.setattr(thinning, "SAVED_EVERY", 0.0)
    calls = []

    def counting(scores, uids, count):
        calls.append(count)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return lowest(scores, uids, count)

    monkeypatch.setattr(thinning, "lowest", counting)
    with pytest.raises(KeyboardInterrupt):
        pool.build(stage)
    again = pool.build(stage)
    assert len(calls) == 5 + 4 and again.summary["rounds"] == 8  # four of eight were noted, the fifth is made again
    assert (again.path / SUBSET).read_bytes() == (whole.path / SUBSET).read_bytes()


def test_fields_out_of_range_are_refused_and_a_pool_without_features(tmp_path):
    with pytest.raises(ValueError, match=r"filter\.rounds=0: wanted 1 or more"):
        NormSimD(rounds=0)
    with pytest.raises(ValueError, match=r"filter\.fraction=0: wanted more than 0"):
        NormSimD(fraction=0)
    with pytest.raises(ValueError, match=r"NormSimFraction\.p: wanted 'infinity' \| 2, got 3"):
        NormSimFraction(p=3)
    with pytest.raises(ValueError, match=r"NormSimD needs the feature 'b32_img'.*they all have: l14_img"):
        Images(tmp_path, random_features(0, 9)).build(NormSimD(feature="b32_img"))


def test_the_published_pair_takes_both_fractions_of_the_pool():
    stage = composed("experiment=neg_clip_loss_norm_sim").filter
    assert isinstance(stage, Sequence) and stage.fraction_of == "pool"
    assert (stage.first, stage.then) == (NegClipLossFraction(fraction=0.3), NormSimFraction(fraction=0.2))
