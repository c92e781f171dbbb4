"""Draws in batches without replacement, against numpy's own choice, one softmax for each batch."""

import numpy as np
import pytest

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters import batch_draws, soft_cap
from dcexp.filters.batch_draws import draw_in_batches
from dcexp.filters.score import Column
from dcexp.filters.soft_cap import SoftCap
from dcexp.sources.commonpool import CommonPool
from tests.filters.images import Images, random_features
from tests.filters.test_faults import broken_pages
from tests.pools import ONE, as_pairs, selected

SCORES = np.array([2.0, 0.0, 1.0, -1.0, 0.5, -np.inf, 3.0, 0.2])


def one_softmax_a_batch(scores, draws, batch, penalty, rng):
    """The definition."""
    scores, counts = scores.copy(), np.zeros(len(scores), int)
    while draws:
        p = np.exp(scores - scores.max())
        rows = rng.choice(len(scores), min(batch, draws), replace=False, p=p / p.sum())
        counts[rows] += 1
        scores[rows] -= penalty
        draws -= len(rows)
    return counts


@pytest.mark.parametrize("least", [0.0, 0.25, 1.0])
def test_frequencies_are_those_of_one_softmax_a_batch(least, monkeypatch):
    monkeypatch.setattr(batch_draws, "LEAST", least)  # always proposing, both, always the noisy highest
    rng, times = np.random.default_rng(0), 4000
    a = np.array([one_softmax_a_batch(SCORES, 11, 3, 0.6, rng) for _ in range(times)])
    b = np.array([draw_in_batches(SCORES.copy(), [3, 3, 3, 2], 0.6, rng) for _ in range(times)])
    assert (b.sum(axis=1) == 11).all() and b.max() <= 4 and not b[:, 5].any()
    for power in (1, 2):
        x, y = a.astype(float) ** power, b.astype(float) ** power
        assert (np.abs(x.mean(0) - y.mean(0)) <= 4.5 * np.sqrt((x.var(0) + y.var(0)) / times) + 1e-12).all()
    some = [0, 2, 6, 7]
    assert np.abs(np.corrcoef(a[:, some].T) - np.corrcoef(b[:, some].T)).max() < 0.12


def test_scores_far_apart_still_fill_a_batch():
    counts = draw_in_batches(np.array([0.0, -2000.0, -5000.0, 900.0]), [3, 3], 0.1, np.random.default_rng(0))
    assert counts.tolist() == [2, 2, 0, 2]


@pytest.mark.parametrize("batch, told", [(100, True), (91, True), (90, False)])
def test_a_batch_that_takes_nearly_everything_is_told(batch, told, tmp_path, caplog):
    images = Images(tmp_path, random_features(0, 100, width=2), mine=np.linspace(0, 1, 100).tolist())
    images.build(SoftCap(score=Column(column="mine"), batch=batch))
    assert (f"a batch takes {batch} of the 100 samples, so their scores decide little" in caplog.text) == told


def test_workers_do_not_change_the_draws_and_seeds_do(tmp_path):
    score = np.random.default_rng(0).normal(size=100)
    score[4] = np.nan
    images = Images(tmp_path, random_features(0, 60, 40, width=2), mine=score.tolist())
    files = [
        images.build(SoftCap(score=Column(column="mine"), batch=20, seed=s), engine=Local(workers=w), store=f"{s}-{w}")
        for s, w in ((0, 1), (0, 2), (1, 1))
    ]
    first, second, other = [(subset.path / SUBSET).read_bytes() for subset in files]
    assert first == second != other
    assert files[0].summary["taken"] == 100 and files[0].summary["counts"]["missing"] == 1
    with pytest.raises(ValueError, match=r"in batches of 100,000 without .* of 99 samples .*a smaller filter.batch"):
        images.build(SoftCap(score=Column(column="mine")))
    with pytest.raises(ValueError, match=r"filter.penalty=-1: wanted draws"):
        SoftCap(score=Column(column="mine"), penalty=-1)


def test_what_an_interrupted_attempt_has_drawn_is_kept(tmp_path, monkeypatch):
    """Also when a part cannot be read any more: else some parts would be taken by one draw, and some by another."""
    scores = np.random.default_rng(3).normal(size=90)
    Images(tmp_path, random_features(0, 40, 30, 20, width=2), mine=scores.tolist())
    (tmp_path / "index").mkdir()
    CommonPool(root=str(tmp_path / "pool"), skip_corrupt=True).run(tmp_path / "index", ONE)
    stage, pool = SoftCap(score=Column(column="mine"), batch=20, draws=2.0), Pool(tmp_path / "index")
    whole, _ = selected(stage, pool, tmp_path / "whole")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(soft_cap, "select", interrupted)
        selected(stage, pool, tmp_path / "out")
    path = tmp_path / "pool" / "metadata" / "0001.parquet"
    lost = set(as_pairs(pool.parts[1].uids()))
    path.write_bytes(path.read_bytes()[:-200])
    subset, summary = selected(stage, pool, tmp_path / "out")
    assert as_pairs(subset.uids()) == [uid for uid in as_pairs(whole.uids()) if uid not in lost]
    assert (summary.counts.corrupt, summary.facts["draws"]) == (30, 180)
    assert not (tmp_path / "out" / soft_cap.FOLDER).exists()


def test_damaged_parts_are_left_out_and_the_draws_made_among_the_others(tmp_path):
    Images(tmp_path, random_features(0, 40, 30, 20, width=2), mine=np.zeros(90).tolist())
    (tmp_path / "index").mkdir()
    CommonPool(root=str(tmp_path / "pool"), skip_corrupt=True).run(tmp_path / "index", ONE)
    broken_pages(tmp_path / "pool" / "metadata" / "0001.parquet", "mine")
    stage = SoftCap(score=Column(column="mine"), batch=20)
    _, summary = selected(stage, Pool(tmp_path / "index"), tmp_path / "out")
    assert (summary.counts.corrupt, summary.facts["taken"]) == (30, 90)


@pytest.mark.parametrize(
    "scores, reason", [([1.0, np.inf, 0.0], "a score is infinite"), ([np.nan] * 3, "of 0 samples")]
)
def test_scores_that_cannot_be_drawn_by_are_refused(tmp_path, scores, reason):
    images = Images(tmp_path, random_features(0, 3, width=2), mine=scores)
    with pytest.raises(ValueError, match=reason):
        images.build(SoftCap(score=Column(column="mine"), batch=1))
