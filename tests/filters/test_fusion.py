"""Weighted fusion of scores, against the formula."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import rankdata

from dcexp.engines.local import Local
from dcexp.filters.cut import TopFraction
from dcexp.filters.fusion import Fusion
from dcexp.filters.imported import ImportedScore
from dcexp.filters.score import Column, Score
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.filters.test_faults import broken_pages
from tests.pools import ONE

NORMS = {
    "minmax": lambda s: (s - np.nanmin(s)) / (np.nanmax(s) - np.nanmin(s)),
    "rank": lambda s: rankdata(s, nan_policy="omit") / np.isfinite(s).sum(),
    "z": lambda s: (s - np.nanmean(s)) / np.nanstd(s),
    "raw": lambda s: s,
}


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    a, b = np.round(rng.normal(3, 2, 100), 1), rng.random(100)
    a[[3, 70]], b[[3, 9]] = np.nan, np.nan
    columns = {"a": a.tolist(), "b": b.tolist(), "same": [2.0] * 100, "far": [np.inf, *b[1:]]}
    return Images(tmp_path, random_features(0, 60, 30, 10, width=2), **columns), a, b


def made(images, engine=ONE, store="store", **fields):
    built = Store(root=str(images.root / store)).build(Fusion(**fields).step(images.source), engine)
    return np.concatenate([built.of_part(n) for n in range(3)])


@pytest.mark.parametrize("norm", NORMS)
def test_a_fusion_is_the_weighted_sum_of_normed_scores(images, norm, tmp_path):
    images, a, b = images
    expected = 0.7 * NORMS[norm](a) - 0.2 * NORMS[norm](b)
    fields = {"weights": {"b": -0.2, "a": 0.7}, "norm": norm}
    values = made(images, **fields)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(values, made(images, Local(workers=2), "two", **fields), equal_nan=True)
    (tmp_path / "t.csv").write_text("uid,a\n" + "".join(f"{u},{x}\n" for u, x in zip(images.uids, a, strict=True)))
    mixed = {**fields, "table": str(tmp_path / "t.csv"), "of": {"b": Column(column="b")}}
    assert np.array_equal(values, made(images, store="three", **mixed), equal_nan=True)


def test_scores_that_are_not_there_or_cannot_be_scaled_are_refused(images):
    images = images[0]
    with pytest.raises(
        ValueError, match=r"Fusion needs the column 'c', which .*; they all have: .*a, b.*\. Where .*table=…"
    ):
        made(images, weights={"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="weights has none for 'mine' of mine"):
        Fusion(weights={"a": 1.0}, of={"mine": Column(column="b")})
    with pytest.raises(
        ValueError, match=r"the score 'far' goes from .* to inf, which norm=z cannot scale; use norm=rank"
    ):
        made(images, weights={"far": 1.0}, norm="z")
    with pytest.raises(ValueError, match=r"the score 'far' is infinite, which norm=raw cannot add up"):
        made(images, weights={"far": 1.0, "a": 1.0}, norm="raw")
    assert made(images, weights={"far": 1.0}, norm="rank")[0] == 1
    assert (made(images, weights={"same": 1.0}, norm="minmax") == 0).all()


@pytest.mark.parametrize("low, high", [(1e-170, 2e-170), (-1e200, 1e200), (-1e308, 1e308), (np.inf, np.inf)])
def test_numbers_whose_squares_float64_cannot_hold_are_refused_by_z(tmp_path, low, high):
    images = Images(tmp_path, random_features(0, 2, 2, 0, width=2), s=[low, high, high, high])
    with pytest.raises(ValueError, match=r"the score 's' goes from .* which norm=z cannot scale"):
        made(images, weights={"s": 1.0}, norm="z")
    if np.isfinite(high - low):
        assert made(images, weights={"s": 1.0}, norm="minmax").tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("norm", ["rank", "z"])
def test_a_score_may_have_any_name(tmp_path, norm):
    names, rng = ["../../out", "a/b", "", ".", "sco:re\n", "x" * 300], np.random.default_rng(3)
    columns = {name: rng.random(20) for name in names}
    images = Images(tmp_path, random_features(0, 10, 5, 5, width=2), **{n: c.tolist() for n, c in columns.items()})
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    expected = sum(k * NORMS[norm](columns[name]) for k, name in enumerate(names, 1))
    values = made(images, weights={name: float(k) for k, name in enumerate(names, 1)}, norm=norm)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} == before


def test_a_weight_of_0_leaves_a_score_out(images):
    images, a, _ = images
    values = made(images, weights={"a": 1.0, "b": 0.0, "not there": 0}, norm="raw")
    assert np.array_equal(values, a, equal_nan=True)
    with pytest.raises(ValueError, match="all are 0"):
        Fusion(weights={"a": 0.0})


@pytest.mark.parametrize("norm", NORMS)
def test_a_part_damaged_after_some_scores_were_made_is_counted_and_the_others_are_fused(images, norm, tmp_path):
    images, a, b = images
    pool = CommonPool(root=str(images.root / "pool"), skip_corrupt=True).step()
    (tmp_path / "t.csv").write_text("uid,a\n" + "".join(f"{u},{x}\n" for u, x in zip(images.uids, a, strict=True)))
    imported = ImportedScore(table=str(tmp_path / "t.csv"), column="a", coverage=0.5)
    stage = Fusion(
        weights={"first": 0.7, "second": 1.0, "b": -0.2}, norm=norm, of={"first": imported, "second": Late()}
    )
    store, step = Store(root=str(tmp_path / "store")), stage.step(pool)
    store.build(step.steps["score_first"], ONE)  # of all parts
    (images.root / "pool" / "metadata" / "0001.npz").write_bytes(b"cut off")  # which only the second score reads
    broken_pages(images.root / "pool" / "metadata" / "0002.parquet", "b")
    built = store.build(step, ONE)
    second = np.array([*range(60), *[np.nan] * 30, *range(10)])  # a scale is that of all rows that have the score
    b[90:] = np.nan
    expected = 0.7 * NORMS[norm](a) + NORMS[norm](second) - 0.2 * NORMS[norm](b)
    np.testing.assert_allclose(built.of_part(0), expected[:60], rtol=1e-12, atol=1e-12)
    assert [built.is_damaged(n) for n in range(3)] == [False, True, True]
    assert np.isnan(built.of_part(1)).all() and np.isnan(built.of_part(2)).all()
    assert built.summary["counts"] == {"total": 100, "kept": 58, "dropped": 0, "missing": 2, "corrupt": 40}
    kept = store.build(TopFraction(score=stage, fraction=1.0).step(pool), ONE)
    assert kept.summary["counts"] == {"total": 100, "kept": 58, "dropped": 0, "missing": 2, "corrupt": 40}


@dataclass(frozen=True, kw_only=True)
class Late(Score):
    """The place of a row in its part, for rows whose features can be read."""

    features = ("l14_img",)

    def score(self, rows, **_):
        return np.arange(len(rows.features("l14_img")), dtype=float)
