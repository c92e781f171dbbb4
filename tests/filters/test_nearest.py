"""The nearest centroid and the highest cosine, against plain loops; the same on every device and in any blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.filters import nearest as module
from dcexp.filters.nearest import highest_similarity, nearest

torch = pytest.importorskip("torch")
small = st.integers(-3, 3)  # inner products of small whole numbers are exact, and often equal


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Blocks so small that every test meets many of them."""
    monkeypatch.setattr(module, "BLOCKS", {"cpu": (7, 3, 0), "cuda": (7, 3, 0)})


def slow_nearest(features, centroids):
    return [
        int(np.argmax([sum(float(a) * float(b) for a, b in zip(f, c, strict=True)) for c in centroids]))
        for f in features
    ]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(0, 20), k=st.integers(1, 10), width=st.integers(1, 4))
def test_the_first_of_the_highest_inner_products(data, n, k, width):
    features = np.array(data.draw(st.lists(small, min_size=n * width, max_size=n * width)), np.float16).reshape(
        n, width
    )
    centroids = np.array(data.draw(st.lists(small, min_size=k * width, max_size=k * width)), np.float32).reshape(
        k, width
    )
    ids = nearest(features, centroids)
    assert ids.dtype == np.int64 and ids.tolist() == slow_nearest(features, centroids)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_any_floating_type_and_any_memory_layout(dtype):
    rng = np.random.default_rng(0)
    features, centroids = rng.normal(size=(31, 8)).astype(dtype), rng.normal(size=(8, 13)).astype(dtype).T
    assert nearest(features, centroids).tolist() == slow_nearest(features, centroids)
    features.flags.writeable = False
    assert nearest(features[::2], centroids).tolist() == slow_nearest(features[::2], centroids)


def test_centroids_are_not_normalised_and_cosines_are():
    features, targets = np.array([[1, 0.2]], np.float32), np.array([[1, 0], [3, 4]], np.float32)
    assert nearest(features, targets).tolist() == [1]
    assert highest_similarity(features, targets) == pytest.approx(1 / np.sqrt(1.04))


def test_the_highest_cosine():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(20, 5)).astype(np.float16), rng.normal(size=(11, 5))
    a, b = features.astype(float), targets
    cosines = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert highest_similarity(features, targets).tolist() == pytest.approx(cosines.max(axis=1).tolist(), abs=1e-6)
    assert highest_similarity(np.zeros((1, 5), np.float16), targets).tolist() == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_none(bad):
    features = np.eye(3, dtype=np.float16)
    features[1, 2] = bad
    assert nearest(features, np.eye(3, dtype=np.float32)).tolist() == [0, -1, 2]
    assert np.isnan(highest_similarity(features, np.eye(3))).tolist() == [False, True, False]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (0, 3)), ((3,), (2, 3))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="wanted rows and at least one target of the same width"):
        nearest(*(np.zeros(shape, np.float32) for shape in shapes))


def test_products_are_in_full_fp32_whatever_a_training_has_set(monkeypatch):
    seen, real = [], module.blocks_of
    monkeypatch.setattr(
        module, "blocks_of", lambda *a: (seen.append(torch.get_float32_matmul_precision()), real(*a))[1]
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        nearest(np.eye(3, dtype=np.float16), np.eye(3, dtype=np.float32))
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same(monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(2)
    features, centroids = rng.normal(size=(5000, 64)).astype(np.float16), rng.normal(size=(3000, 64)).astype(np.float32)
    on_gpu, cosines = nearest(features, centroids), highest_similarity(features, centroids)
    monkeypatch.setattr(module, "compute_device", lambda: torch.device("cpu"))
    assert (nearest(features, centroids) == on_gpu).all()
    assert np.allclose(highest_similarity(features, centroids), cosines, atol=1e-5)
