"""Sampling with replacement: exact totals and caps, right frequencies, and the same draws whatever the engine."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET
from dcexp.assets import Assets
from dcexp.engines.local import Local
from dcexp.filters import draws, text_sampling
from dcexp.filters import sampling as module
from dcexp.filters.captions import offsets
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.clusters import InClusters
from dcexp.filters.draws import deal, draw, drawn, generator
from dcexp.filters.image_sampling import ImageBasedSampling
from dcexp.filters.sampling import Sample
from dcexp.filters.score import Column
from dcexp.filters.sequence import Sequence
from dcexp.filters.text_sampling import TextBasedSampling
from dcexp.filters.wordnet import wordnet
from dcexp.sources.commonpool import CommonPool
from tests.filters.images import Images, random_features
from tests.pools import ONE, selected

WEIGHT = Column(column="weight")


def weighted(root, weights, sizes, **columns):
    return Images(root, random_features(0, *sizes, width=2), weight=weights, **columns)


@pytest.fixture
def pool(tmp_path):
    rng = np.random.default_rng(1)
    weights = np.where(rng.random(500) < 0.2, 0, rng.exponential(size=500))
    weights[7], weights[300] = 1e4, np.nan
    return weighted(tmp_path, weights, (240, 0, 1, 259)), weights


@pytest.mark.parametrize("cap, share", [(1, 0.5), (3, 1.0), (100, 1.0), (100, 3.7)])
def test_totals_and_caps_are_exact(pool, cap, share):
    images, weights = pool
    stage = Sample(score=WEIGHT, cap=cap, draws=share)
    counts = images.counts(stage)
    assert counts.sum() == int(500 * share) and counts.max() <= cap
    assert counts[7] == cap  # it has nearly all of the weight
    assert not counts[(weights == 0) | np.isnan(weights)].any()
    summary = images.build(stage).summary
    assert summary["counts"] == {
        "total": 500,
        "kept": int(np.count_nonzero(counts)),
        "dropped": int(np.count_nonzero(counts == 0)) - 1,
        "missing": 1,
        "corrupt": 0,
    }
    assert (summary["taken"], summary["draws"]) == (counts.sum(), counts.sum())
    assert summary["repeats"] == {str(k): n for k, n in sorted(Counter(counts[counts > 0].tolist()).items())}


def test_all_room_can_be_filled(tmp_path):
    pool = weighted(tmp_path, [1e-12, 1.0, 1e12, 0.0, 1e-300, 5.0], (2, 1, 3))
    assert pool.counts(Sample(score=WEIGHT, cap=3, draws=2.5)).tolist() == [3, 3, 3, 0, 3, 3]


def test_workers_do_not_change_the_draws_and_seeds_do(pool):
    images, _ = pool
    files = [
        images.build(Sample(score=WEIGHT, cap=4, seed=seed), engine=Local(workers=workers), store=f"{seed}-{workers}")
        for seed, workers in ((0, 1), (0, 2), (1, 1), (-1, 1), (2**63, 1))
    ]
    first, second, *others = [(subset.path / SUBSET).read_bytes() for subset in files]
    assert first == second and len({first, *others}) == 4


def test_an_interrupted_attempt_goes_on_to_the_same_draws(pool, tmp_path, monkeypatch):
    images, _ = pool
    stage, calls, real = Sample(score=WEIGHT, cap=2), itertools.count(), draws.drawn
    whole = (images.build(stage).path / SUBSET).read_bytes()
    (index,) = (tmp_path / "store" / "pool").iterdir()

    def failing(*args):
        if next(calls) % 3 == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(draws, "drawn", failing)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            selected(stage, Pool(index), tmp_path / "out")
    monkeypatch.undo()
    subset, _ = selected(stage, Pool(index), tmp_path / "out")
    assert (subset.path / SUBSET).read_bytes() == whole
    assert not (tmp_path / "out" / module.FOLDER).exists()


def one_by_one(weights, total, cap, rng):
    """The definition: draw a row; when it has been taken often enough, draw again."""
    counts, p = np.zeros(len(weights), int), np.array(weights) / np.sum(weights)
    while counts.sum() < total:
        row = rng.choice(len(p), p=p)
        counts[row] += counts[row] < cap
    return counts


def test_frequencies_are_those_of_drawing_one_by_one(tmp_path):
    weights, parts, total, cap, times = [8.0, 1.0, 0.0, 4.0, 2.0, 0.5], (2, 1, 3), 9, 3, 600
    ends = np.cumsum(parts)
    rng = np.random.default_rng(0)
    reference = np.array([one_by_one(weights, total, cap, rng) for _ in range(4000)])
    found = []
    for seed in range(times):
        folder = tmp_path / str(seed)
        folder.mkdir()
        pieces = np.split(np.array(weights), ends[:-1])
        for number, piece in enumerate(pieces):
            np.save(folder / f"{number:08d}.weights.npy", piece)
        files, _ = draw(folder, ONE, np.array([piece.sum() for piece in pieces]), total, cap, seed)
        found.append(
            np.concatenate([np.load(f) if f else np.zeros(len(p), int) for f, p in zip(files, pieces, strict=True)])
        )
    found = np.array(found)
    assert (found.sum(axis=1) == total).all() and found.max() <= cap
    for power in (1, 2):  # mean, and with it the spread
        a, b = reference.astype(float) ** power, found.astype(float) ** power
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 4.5 * error).all()
    assert np.abs(np.corrcoef(reference[:, [0, 1, 3]].T) - np.corrcoef(found[:, [0, 1, 3]].T)).max() < 0.15


def test_draws_follow_the_weights():
    weights = np.random.default_rng(3).exponential(size=400)
    counts = drawn(1_500_000, weights, generator(0, 0, 1))
    expected = weights / weights.sum() * 1_500_000
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert counts.sum() == 1_500_000 and 399 - 5 * np.sqrt(2 * 399) < chi2 < 399 + 5 * np.sqrt(2 * 399)


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 1.0, 1e9]), min_size=1, max_size=20).filter(any),
    total=st.integers(1, 1000),
    seed=st.integers(0, 99),
)
def test_nothing_is_dealt_or_drawn_without_weight(weights, total, seed):
    for found in (
        deal(total, np.array(weights), generator(seed, 0, 0)),
        drawn(total, np.array(weights), generator(seed, 0, 1)),
    ):
        assert found.sum() == total and not found[np.array(weights) == 0].any()


def test_parts_of_a_round_have_random_numbers_of_their_own():
    streams = [tuple(generator(s, r, p).random(3)) for s in (0, 1) for r in (0, 1) for p in (0, 1, 2)]
    assert len(set(streams)) == 12


REFUSED = {
    "negative": ([1.0, -0.5, 1.0], {}, r"0000.parquet: a weight is -0.5; wanted finite numbers, 0 or more"),
    "infinite": ([1.0, np.inf, 1.0], {}, "a weight is inf"),
    "overflow": ([1e308, 1e308, 1e308], {}, "their sum is infinite"),
    "all zero": ([0.0, 0.0, np.nan], {}, "none of the 3 samples has a weight above 0"),
    "no scores": ([np.nan] * 3, {}, "none of the 3 samples has a weight above 0"),
    "too few": (
        [1.0, 0.0, 0.0],
        {"cap": 2},
        r"3 draws \(1.0 x 3\) are to be made of 1 samples .* each 2 times at most",
    ),
    "no draws": ([1.0, 1.0, 1.0], {"draws": 0.1}, r"0 draws \(0.1 x 3\)"),
}


@pytest.mark.parametrize("weights, fields, reason", REFUSED.values(), ids=REFUSED)
def test_weights_that_cannot_be_drawn_by_are_refused(weights, fields, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        weighted(tmp_path, weights, (3,)).build(Sample(score=WEIGHT, **fields))


@pytest.mark.parametrize("fields", [{"draws": 0.0}, {"draws": -1.0}, {"cap": 0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"wanted draws of more than 0 .*, and a cap of 1 or more"):
        Sample(score=WEIGHT, **fields)
    for cls, more in ((ImageBasedSampling, {"centroids": "small"}), (TextBasedSampling, {})):
        with pytest.raises(ValueError, match=r"filter.alpha=-1: wanted 0 or more"):
            cls(alpha=-1, **more)


def test_a_column_the_pool_lacks_is_named(pool):
    with pytest.raises(ValueError, match="Sample needs the column 'nothing'"):
        pool[0].build(Sample(score=Column(column="nothing")))


@pytest.mark.parametrize("fraction_of, total", [("pool", 500), ("input", 250)])
def test_after_another_filter_only_its_survivors_are_drawn(pool, fraction_of, total):
    images, _ = pool
    first = ClipScoreFraction(fraction=0.5, ties="exact")
    counts = images.counts(Sequence(first=first, then=Sample(score=WEIGHT), fraction_of=fraction_of))
    assert counts.sum() == total and not counts[images.counts(first) == 0].any()


def weights_of(images, stage, monkeypatch, **how):
    """The weight of every row, as it is drawn by."""
    seen = []

    def looking(folder, *args):
        seen.extend(np.load(path) for path in sorted(folder.glob("*.weights.npy")))
        return draw(folder, *args)

    monkeypatch.setattr(module, "draw", looking)
    counts = images.counts(stage, **how)
    assert counts.max() <= stage.cap
    return np.concatenate(seen), counts


@pytest.fixture
def clustered(tmp_path):
    rng = np.random.default_rng(2)
    centroids = rng.normal(size=(12, 16)).astype(np.float32)
    (target,) = random_features(9, 30)
    np.save(tmp_path / "centroids.npy", centroids)
    np.save(tmp_path / "target.npy", target)
    parts = random_features(4, 90, 60)
    parts[1][5] = np.nan
    files = {"centroids": str(tmp_path / "centroids.npy"), "target": str(tmp_path / "target.npy")}
    return Images(tmp_path, parts), files, centroids, target


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_image_based_sampling_draws_clusters_then_rows(clustered, alpha, monkeypatch):
    images, files, centroids, target = clustered
    s = Counter(int(np.argmax(centroids @ t.astype(np.float32))) for t in target)
    whole = np.isfinite(images.features).all(axis=1)
    ids = [int(np.argmax(centroids @ x.astype(np.float32))) for x in images.features[whole]]
    n = Counter(ids)
    assert set(n) - set(s)  # clusters without a target image: 0 ** 0 is 1
    expected = [(1.0 if alpha == 0 else float(s[c]) ** alpha) / n[c] for c in ids]
    weights, counts = weights_of(images, ImageBasedSampling(alpha=alpha, **files), monkeypatch)
    assert weights.tolist() == pytest.approx(expected)
    assert counts.sum() == 150 and not counts[~whole].any()


def test_image_based_sampling_counts_only_rows_that_can_be_drawn(clustered, monkeypatch):
    images, files, centroids, _ = clustered
    first = InClusters(**files)
    left = images.counts(first) > 0
    weights, counts = weights_of(images, ImageBasedSampling(alpha=0.0, **files), monkeypatch, within=first)
    ids = [int(np.argmax(centroids @ x.astype(np.float32))) for x in images.features[left]]
    assert weights.tolist() == pytest.approx([1 / ids.count(c) for c in ids])
    assert counts.sum() == 150 and not counts[~left].any()


def test_the_nearest_centroids_are_found_once_for_all_alphas(clustered, tmp_path):
    images, files, *_ = clustered
    for alpha in (0.2, 1.0):
        images.build(ImageBasedSampling(alpha=alpha, **files))
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1
    keys = {
        ImageBasedSampling(**{**files, **f}).step(images.source).key
        for f in ({}, {"target": "imagenet_l14"}, {"centroids": "small"})
    }
    assert len(keys) == 3


WORDS = ["dog", "dogs", "Dog", "tench", "teapot", "zebra", "runs", "the", "of", "qwxz", "a", "zebras!", "mug"]


@pytest.fixture
def captioned(tmp_path):
    rng = np.random.default_rng(6)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 6))) for _ in range(120)]
    texts[3], texts[80] = None, "\u3000zebra\nzebra  mug "
    return Images(tmp_path, random_features(0, 70, 50, width=2), text=texts), texts


def synsets_by_hand(texts):
    """The set of listed first synsets that each caption's words name, in plain Python."""
    first = wordnet(Assets().files("wordnet")[0], "repeated")
    listed = offsets(Assets().files("imagenet21k")[0])
    return [{first(word) for word in (text or "").split()} & listed for text in texts]


@pytest.mark.parametrize("combine", ["max", "average"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_text_based_sampling_weighs_by_how_common_synsets_are(captioned, alpha, combine, monkeypatch):
    images, texts = captioned
    found = synsets_by_hand(texts)
    n = Counter(j for synsets in found for j in synsets)
    assert len(n) >= 4
    together = max if combine == "max" else lambda values: sum(values) / len(values)
    expected = [together([n[j] ** (alpha - 1) for j in synsets]) if synsets else 0.0 for synsets in found]
    del expected[3]
    weights, counts = weights_of(images, TextBasedSampling(alpha=alpha, combine=combine), monkeypatch)
    assert weights.tolist() == pytest.approx(expected)
    assert counts.sum() == 120 and not counts[[not synsets for synsets in found]].any()


def test_text_based_sampling_counts_only_captions_that_can_be_drawn(captioned, monkeypatch):
    images, texts = captioned
    first = ClipScoreFraction(fraction=0.5, ties="exact")
    left = np.flatnonzero(images.counts(first))
    found = synsets_by_hand([texts[i] for i in left if texts[i] is not None])
    n = Counter(j for synsets in found for j in synsets)
    weights, _ = weights_of(images, TextBasedSampling(alpha=0.0), monkeypatch, within=first)
    assert weights.tolist() == pytest.approx([max((1 / n[j] for j in synsets), default=0.0) for synsets in found])


def test_matches_are_the_same_in_any_batches(monkeypatch):
    texts = pa.chunked_array([[" ".join(WORDS[i:j]) for i in range(5)] for j in range(4, 13)])
    names = {"dog": 0, "Dog": 0, "tench": 1, "zebra": 2}
    whole = text_sampling.matches(texts, lambda word: names.get(word, -1))
    monkeypatch.setattr(text_sampling, "BATCH", 4)
    assert (text_sampling.matches(texts, lambda word: names.get(word, -1)) == whole).all()
    pairs = [
        (i, j)
        for i, text in enumerate(texts.to_pylist())
        for j in sorted({names[w] for w in text.split() if w in names})
    ]
    assert whole.T.tolist() == [list(pair) for pair in pairs]


def test_damaged_parts_are_left_out_where_that_is_wanted(pool, tmp_path):
    (tmp_path / "index").mkdir()
    CommonPool(root=str(tmp_path / "pool"), skip_corrupt=True).run(tmp_path / "index", ONE)
    (tmp_path / "pool" / "metadata" / "0000.parquet").write_bytes(b"PAR1 cut off")
    _, summary = selected(Sample(score=WEIGHT), Pool(tmp_path / "index"), tmp_path / "out")
    assert (summary.counts.corrupt, summary.facts["taken"]) == (240, 500)
