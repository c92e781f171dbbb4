"""Draws in batches without replacement, against numpy's own choice, one softmax for each batch."""

import numpy as np
import pytest

from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters import batch_draws
from dcexp.filters.batch_draws import draw_in_batches
from dcexp.filters.score import Column
from dcexp.filters.soft_cap import SoftCap
from tests.filters.images import Images, random_features

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
    b = np.array([draw_in_batches(SCORES.copy(), 11, 3, 0.6, rng) for _ in range(times)])
    assert (b.sum(axis=1) == 11).all() and b.max() <= 4 and not b[:, 5].any()
    for power in (1, 2):
        x, y = a.astype(float) ** power, b.astype(float) ** power
        assert (np.abs(x.mean(0) - y.mean(0)) <= 4.5 * np.sqrt((x.var(0) + y.var(0)) / times) + 1e-12).all()
    some = [0, 2, 6, 7]
    assert np.abs(np.corrcoef(a[:, some].T) - np.corrcoef(b[:, some].T)).max() < 0.12


def test_scores_far_apart_still_fill_a_batch():
    counts = draw_in_batches(np.array([0.0, -2000.0, -5000.0, 900.0]), 6, 3, 0.1, np.random.default_rng(0))
    assert counts.tolist() == [2, 2, 0, 2]


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
