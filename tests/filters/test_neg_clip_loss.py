"""negCLIPLoss against its formula in double precision; batches, draws, and what has no score."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.scores import Scores
from dcexp.engines.local import Local
from dcexp.filters import clip_loss as module
from dcexp.filters.clip_loss import negative_losses
from dcexp.filters.neg_clip_loss import NegClipLoss, NegClipLossFraction
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.pools import ONE, write_parquet

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Blocks so small that every test meets many of them."""
    monkeypatch.setattr(module, "BLOCKS", {"cpu": (7, 3, 0), "cuda": (7, 3, 0)})


def by_hand(images, texts, t):
    """The formula, by the whole matrix, in float64."""
    f, g = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (images, texts))
    s = (f @ g.T) / t
    return np.diag(s) * t - t / 2 * sum(np.logaddexp.reduce(s, axis=axis) for axis in (0, 1))


def pairs(seed, *sizes, width=16):
    """Features of images, and of texts that are a little like them, part by part."""
    images, noise = random_features(seed, *sizes, width=width), random_features(seed + 1, *sizes, width=width)
    return images, [(a / 4 + b).astype(np.float16) for a, b in zip(images, noise, strict=True)]


def pool_of(root, seed=0, sizes=(50, 50)):
    images, texts = pairs(seed, *sizes)
    return Images(root, images, texts)


def scores(pool, stage, engine=ONE, store="store"):
    made = Store(root=str(pool.root / store)).build(stage.step(pool.source), engine)
    assert isinstance(made, Scores)
    return np.concatenate([np.load(path) for path in sorted(made.path.glob("*.npy"))])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), n=st.integers(1, 40), t=st.sampled_from([0.01, 0.07, 1.0]), width=st.integers(2, 9))
def test_the_formula(seed, n, t, width):
    images, texts = (x[0] for x in pairs(seed, n, width=width))
    images[-1] *= 3  # lengths do not count
    assert negative_losses(images, texts, t) == pytest.approx(by_hand(images, texts, t), abs=2e-6)


@pytest.mark.parametrize("t", [0.01, 0.001])
def test_exponentials_beyond_float32_do_no_harm(t):
    """The best and the worst fit there can be, side by side: exp(1 / t) overflows, exp(-1 / t) vanishes."""
    images = np.eye(6, dtype=np.float32)
    texts = np.concatenate([images[:3], -images[3:]])
    found = negative_losses(images, texts, t)
    assert np.isfinite(found).all() and found == pytest.approx(by_hand(images, texts, t), abs=1e-6)
    assert found[:3].max() <= 0 and found[3:].max() < -1


@pytest.mark.parametrize("blocks", [(1, 1), (5, 64), (64, 5), (4096, 2048)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_and_types_do_not_matter(blocks, dtype, monkeypatch):
    images, texts = (x[0].astype(dtype) for x in pairs(3, 41))
    monkeypatch.setattr(module, "BLOCKS", {"cpu": (*blocks, 0), "cuda": (*blocks, 0)})
    for wide in (module.WIDE, 0.0):  # one exponential for rows and columns, and one for each
        monkeypatch.setattr(module, "WIDE", wide)
        assert negative_losses(images, texts, 0.01) == pytest.approx(by_hand(images, texts, 0.01), abs=2e-6)


def test_a_file_of_one_batch_is_scored_as_one_whatever_is_drawn(tmp_path):
    pool = pool_of(tmp_path, sizes=(40, 40))
    found = scores(pool, NegClipLoss(draws=3))
    images, texts = pairs(0, 40, 40)
    wanted = np.concatenate([by_hand(a, b, 0.01) for a, b in zip(images, texts, strict=True)])
    assert found == pytest.approx(wanted, abs=2e-6)


def test_every_row_of_a_larger_file_has_a_whole_batch_of_its_own_file(tmp_path, monkeypatch):
    """50 rows in batches of 20: two, and a third of 10 rows that is filled up with others."""
    seen = []
    real = negative_losses
    spy = lambda a, b, t: seen.append((a, b)) or real(a, b, t)  # noqa: E731
    monkeypatch.setattr("dcexp.filters.neg_clip_loss.negative_losses", spy)
    pool = pool_of(tmp_path)
    found = scores(pool, NegClipLoss(batch=20, draws=2))
    assert [len(a) for a, _ in seen] == [20] * 12
    totals, times = np.zeros(100), np.zeros(100)
    place = {row.tobytes(): i for i, row in enumerate(pool.features)}
    for number, (a, b) in enumerate(seen):
        places = [place[row.tobytes()] for row in a]
        assert len({p // 50 for p in places}) == 1 and len(set(places)) == 20
        own = 10 if number % 3 == 2 else 20
        totals[places[:own]] += by_hand(a, b, 0.01)[:own]
        times[places[:own]] += 1
    assert (times == 2).all() and found == pytest.approx(totals / 2, abs=2e-6)


def test_the_mean_over_draws_converges(tmp_path):
    """Its variance over seeds falls as 1 / draws."""
    pool = pool_of(tmp_path, sizes=(64,))
    spread = {}
    for draws in (1, 4, 16):
        found = [scores(pool, NegClipLoss(batch=8, draws=draws, temperature=0.07, seed=s)) for s in range(12)]
        spread[draws] = np.var(found, axis=0, ddof=1).mean()
    assert spread[1] / spread[4] == pytest.approx(4, rel=0.35)
    assert spread[1] / spread[16] == pytest.approx(16, rel=0.35)


def test_workers_and_the_order_of_files_and_rows_do_not_matter(tmp_path):
    stage = NegClipLoss(batch=20, draws=2)
    pool = pool_of(tmp_path / "a")
    found = dict(zip(pool.uids, scores(pool, stage), strict=True))
    again = scores(pool, stage, Local(workers=2), store="another")
    assert again == pytest.approx(list(found.values()), abs=1e-6)
    images, texts = pairs(0, 50, 50)
    other = Images(tmp_path / "b", images, texts)
    turn = np.random.default_rng(0).permutation(50)
    for number, name in enumerate(("0001", "0000")):
        uids = np.array(pool.uids[50 * number : 50 * number + 50])[turn]
        path = tmp_path / "b" / "pool" / "metadata" / f"{name}.parquet"
        write_parquet(path, uids.tolist())
        np.savez(path.with_suffix(".npz"), l14_img=images[number][turn], l14_txt=texts[number][turn])
    other.source = CommonPool(root=str(tmp_path / "b" / "pool")).step()
    uids = [pool.uids[50 + i] for i in turn] + [pool.uids[i] for i in turn]
    assert scores(other, stage) == pytest.approx([found[uid] for uid in uids], abs=1e-6)
    assert np.abs(scores(pool, NegClipLoss(batch=20, draws=2, seed=1)) - list(found.values())).max() > 1e-3


def test_rows_without_a_direction_have_no_score_and_are_in_no_batch(tmp_path):
    images, texts = pairs(0, 30)
    images[0][3], images[0][7, 2], texts[0][11] = 0, np.inf, np.nan
    found = scores(Images(tmp_path, images, texts), NegClipLoss())
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 7, 11]
    kept = ~np.isnan(found)
    assert found[kept] == pytest.approx(by_hand(images[0][kept], texts[0][kept], 0.01), abs=2e-6)


def test_a_file_without_any_row_that_has_a_direction(tmp_path):
    images, texts = pairs(0, 5, 0, 5)
    texts[0][:] = 0
    subset = Images(tmp_path, images, texts).build(NegClipLossFraction(fraction=1.0))
    assert (subset.summary["counts"]["missing"], subset.summary["counts"]["kept"]) == (5, 5)


def test_the_top_fraction_is_kept_and_scores_are_made_once(tmp_path):
    pool = pool_of(tmp_path)
    found = scores(pool, NegClipLoss(batch=20, draws=2))
    for fraction in (0.1, 0.3):
        taken = pool.counts(NegClipLossFraction(fraction=fraction, batch=20, draws=2))
        assert np.flatnonzero(taken).tolist() == sorted(np.argsort(-found)[: int(100 * fraction) + 1].tolist())
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1


def test_the_plan_knows_the_size_of_the_work(tmp_path):
    pool = Pool(Store(root=str(tmp_path / "store")).build(pool_of(tmp_path, sizes=(50, 20)).source, ONE).path)
    assert NegClipLoss(batch=20, draws=3).cost() == ""  # the pool is not known yet
    wanted = 2 * 16 * (50 * 20 * 3 + 20 * 20)  # the second file is one batch, the same in every draw
    assert NegClipLoss(batch=20, draws=3).cost(pool=pool) == f"{wanted:.0e} floating-point operations"


def test_files_of_fewer_rows_than_a_batch_are_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    scores(pool_of(tmp_path / "a", sizes=(40, 20)), NegClipLoss(batch=30))
    assert "smallest file has 20 rows, fewer than a batch of 30" in caplog.text
    caplog.clear()
    scores(pool_of(tmp_path / "b", sizes=(40, 20)), NegClipLoss(batch=20))
    assert "fewer than a batch" not in caplog.text


def test_features_of_different_widths_are_refused(tmp_path):
    pool = Images(tmp_path, random_features(0, 9), random_features(0, 9, width=8))
    with pytest.raises(ValueError, match=r"'l14_img' is 16 wide, but 'l14_txt' are 8 wide: features can be compared"):
        scores(pool, NegClipLoss())


def test_a_pool_without_text_features_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"NegClipLoss needs the feature 'l14_txt'.*they all have: l14_img"):
        scores(Images(tmp_path, random_features(0, 9)), NegClipLoss())


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"batch": 1}, {"draws": 0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match="wanted a temperature above 0"):
        NegClipLoss(**fields)


def test_the_same_feature_twice_is_refused():
    with pytest.raises(ValueError, match=r"filter.image and filter.text are both l14_img; wanted those of images"):
        NegClipLoss(text="l14_img")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same(monkeypatch):
    monkeypatch.undo()
    images, texts = (x[0] for x in pairs(2, 5000, width=64))
    assert negative_losses(images, texts, 0.01) == pytest.approx(by_hand(images, texts, 0.01), abs=1e-5)
