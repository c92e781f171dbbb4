"""Weighted fusion of scores, against the formula."""

import numpy as np
import pytest
from scipy.stats import rankdata

from dcexp.engines.local import Local
from dcexp.filters.fusion import Fusion
from dcexp.filters.score import Column
from dcexp.store import Store
from tests.filters.images import Images, random_features
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
    with pytest.raises(ValueError, match=r"Fusion needs the column 'c', which .*; they all have: .*a, b"):
        made(images, weights={"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="weights has none for 'mine' of mine"):
        Fusion(weights={"a": 1.0}, of={"mine": Column(column="b")})
    with pytest.raises(ValueError, match=r"the score 'far' is infinite in some rows.* norm=rank"):
        made(images, weights={"far": 1.0}, norm="z")
    assert made(images, weights={"far": 1.0}, norm="rank")[0] == 1
    assert (made(images, weights={"same": 1.0}, norm="minmax") == 0).all()
