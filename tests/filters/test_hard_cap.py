"""Hard-cap sampling, against drawing one by one, and against numpy's own choice without replacement."""

import itertools

import numpy as np
import pytest

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters import draws
from dcexp.filters.draws import draw, weigh_parts
from dcexp.filters.hard_cap import HardCap
from dcexp.filters.rows import View
from dcexp.filters.score import Column
from dcexp.sources.commonpool import CommonPool
from tests.filters.images import Images, random_features
from tests.filters.test_sampling import one_by_one
from tests.pools import ONE, selected

SCORE = Column(column="mine")
SCORES = [2.0, 0.0, float("nan"), 1.0, float("-inf"), 3.5, -1.0, 0.2]  # in parts of 3, 0 and 5


def pool_of(root, scores, sizes=None, **source):
    images = Images(root, random_features(0, *(sizes or (len(scores),)), width=2), mine=scores)
    (root / "index").mkdir()
    CommonPool(root=str(root / "pool"), **source).run(root / "index", ONE)
    return images, Pool(root / "index")


def drawn(stage, pool, root, total, times):
    """How often each row that has a score is taken, for so many seeds: by the weights that the stage gives."""
    view = View(columns=("mine",))
    (root / "weights").mkdir()
    totals, _ = weigh_parts(root / "weights", ONE, pool, view, stage.weigher(root / "weights", ONE, pool, view))
    weights = {path.name: np.load(path) for path in sorted((root / "weights").glob("*.npy"))}
    for seed in range(times):
        (folder := root / str(seed)).mkdir()
        for name, of_part in weights.items():
            np.save(folder / name, of_part)
        files, _ = draw(folder, ONE, totals, total, stage.cap, seed)
        pairs = zip(files, weights.values(), strict=True)
        yield np.concatenate([np.load(file) if file else np.zeros(len(w), int) for file, w in pairs])


def without_replacement(p, total, _, rng):
    counts = np.zeros(len(p), int)
    counts[rng.choice(len(p), total, replace=False, p=p / p.sum())] = 1
    return counts


@pytest.mark.parametrize("cap, total, slow", [(3, 8, one_by_one), (1, 3, without_replacement)])
def test_frequencies_are_those_of_the_definition(tmp_path, cap, total, slow):
    _, pool = pool_of(tmp_path, SCORES, (3, 0, 5))
    temperature, rng = 0.7, np.random.default_rng(0)
    p = np.exp(np.array(SCORES)[~np.isnan(SCORES)] / temperature)
    stage = HardCap(score=SCORE, cap=cap, temperature=temperature)
    a = np.array([slow(p, total, cap, rng) for _ in range(3000)])
    b = np.array(list(drawn(stage, pool, tmp_path, total, 400)))
    assert (b.sum(axis=1) == total).all() and b.max() == cap and not b[:, 3].any()
    for power in (1, 2):
        x, y = a.astype(float) ** power, b.astype(float) ** power
        error = np.sqrt(x.var(0) / len(x) + y.var(0) / len(y))
        assert (np.abs(x.mean(0) - y.mean(0)) <= 4.5 * error + 1e-12).all()


def test_large_scores_do_not_overflow_and_only_differences_count(tmp_path):
    scores = np.round(np.random.default_rng(1).normal(size=60), 2)
    stage, pools = HardCap(score=SCORE, cap=4, draws=2), (("near", scores), ("far", scores + 1e6))
    near, far = [pool_of(tmp_path / name, own.tolist(), (40, 20))[0].counts(stage) for name, own in pools]
    assert near.sum() == 120 and near.max() == 4
    assert np.abs(near - far).sum() <= 2  # differences are rounded otherwise
    images, _ = pool_of(tmp_path / "apart", [1e308, -1e308, 0.0, 1e308], (1, 3))
    assert images.counts(HardCap(score=SCORE, cap=15, draws=4, temperature=1e-3))[[1, 2]].tolist() == [0, 0]


def test_workers_do_not_change_the_draws_and_seeds_do(tmp_path):
    images, _ = pool_of(tmp_path, np.random.default_rng(2).normal(size=90).tolist(), (50, 40))
    files = [
        images.build(HardCap(score=SCORE, seed=seed), engine=Local(workers=workers), store=f"{seed}-{workers}")
        for seed, workers in ((0, 1), (0, 2), (1, 1))
    ]
    first, second, other = [(subset.path / SUBSET).read_bytes() for subset in files]
    assert first == second != other and files[0].summary["taken"] == 90


def test_parts_damaged_between_attempts_do_not_move_the_weights_of_the_others(tmp_path, monkeypatch):
    scores = [0.0, 1.0, 2.0, 50.0, 0.5, 1.5]
    _, pool = pool_of(tmp_path, scores, (3, 1, 2), skip_corrupt=True)
    calls, real = itertools.count(), draws._weigh

    def failing(*args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*args)

    stage = HardCap(score=SCORE, draws=0.5, cap=1)
    monkeypatch.setattr(draws, "_weigh", failing)
    with pytest.raises(KeyboardInterrupt):
        selected(stage, pool, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "pool" / "metadata" / "0001.parquet").write_bytes(b"PAR1 cut off")  # with the highest of all
    weights = []
    monkeypatch.setattr("dcexp.filters.sampling.draw", lambda folder, *rest: weights.extend(
        np.load(path).tolist() for path in sorted(folder.glob("*.weights.npy"))) or draw(folder, *rest))  # fmt: skip
    _, summary = selected(stage, pool, tmp_path / "out")
    assert weights == [np.exp(np.array([-50.0, -49, -48])).tolist(), [], np.exp(np.array([-49.5, -48.5])).tolist()]
    assert (summary.counts.corrupt, summary.facts["taken"]) == (1, 3)
    weights.clear()
    _, summary = selected(stage, pool, tmp_path / "anew")
    assert weights == [np.exp(np.array([-2.0, -1, 0])).tolist(), [], np.exp(np.array([-1.5, -0.5])).tolist()]
    assert (summary.counts.corrupt, summary.facts["taken"]) == (1, 3)


REFUSED = {
    "infinite": ([1.0, float("inf"), 0.0], {}, "a score is infinite; wanted numbers whose exponentials"),
    "all -inf": ([float("-inf")] * 3, {}, "none of the 3 samples has a weight above 0"),
    "no scores": ([float("nan")] * 3, {}, "none of the 3 samples has a weight above 0"),
    "too few": ([1.0, float("-inf"), float("nan")], {"cap": 2}, r"3 draws .* of 1 samples .* each 2 times at most"),
    "too far": ([0.0, -746.0, 0.0], {"cap": 1}, r"3 draws .* of 2 samples .* each 1 times at most"),
}


@pytest.mark.parametrize("scores, fields, reason", REFUSED.values(), ids=REFUSED)
def test_scores_that_cannot_be_drawn_by_are_refused(scores, fields, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        pool_of(tmp_path, scores)[0].build(HardCap(score=SCORE, **fields))


def test_fields_out_of_range_are_refused():
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match=rf"filter.temperature={temperature}: wanted more than 0"):
            HardCap(score=SCORE, temperature=temperature)
    with pytest.raises(ValueError, match=r"HardCap.temperature: wanted float"):
        HardCap(score=SCORE, temperature=float("nan"))
    with pytest.raises(ValueError, match="a cap of 1 or more"):
        HardCap(score=SCORE, cap=0)
