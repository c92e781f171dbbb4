"""Near-duplicate removal, against a comparison of every row with every code."""

import math
import sys

import numpy as np
import pytest

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters import code_search, codes
from dcexp.filters import near_duplicates as module
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.codes import Quantizer
from dcexp.filters.intersection import Intersection
from dcexp.filters.near_duplicates import DuplicateDistance, NearDuplicates
from dcexp.filters.random import RandomFraction
from dcexp.filters.sequence import Sequence
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.pools import ONE, selected

pytest.importorskip("faiss")

QUALITY = "clip_l14_similarity_score"
SIZES = (300, 0, 1, 299)


def images(root, seed=0, sizes=SIZES, planted=(), **columns):
    """Random images; ``planted`` are pairs (copy, original) of rows, and how far the copy is off."""
    features = np.concatenate(random_features(seed, sum(sizes), dtype=np.float64))
    rng = np.random.default_rng(seed)
    for copy, original, off in planted:
        features[copy] = features[original] + off * rng.normal(size=features.shape[1]) / 4
    columns.setdefault(QUALITY, np.round(rng.random(len(features)), 2).tolist())  # some are equal
    return Images(root, np.split(features.astype(np.float16), np.cumsum(sizes)[:-1]), **columns), columns[QUALITY]


@pytest.fixture
def recoded(monkeypatch):
    """Every index that is trained, to code rows with once more."""
    trained = []
    real = Quantizer.trained

    def noting(self, *args):
        trained.append(real(self, *args))
        return trained[-1]

    monkeypatch.setattr(Quantizer, "trained", noting)
    return trained


def by_hand(index, features, quality, neighbours):
    """The distance of every row to the nearest better one, by all pairs in double precision."""
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    decoded = index.sa_decode(index.sa_encode(x.astype(np.float32))).astype(np.float64)
    found = []
    for i in range(len(x)):
        d = np.linalg.norm(x[i] - decoded, axis=1)
        near = np.argsort(d, kind="stable")[:neighbours]
        better = [j for j in near if (quality[j], -j) > (quality[i], -i)]
        found.append(min((abs(d[i] - d[j]) / d[i] for j in better), default=math.inf))
    return np.array(found)


def distances(images, stage, **how):
    scores = Store(root=str(images.root / "store")).build(stage.by().step(images.source), ONE)
    assert isinstance(scores, Scores)
    return np.concatenate([scores.of_part(number) for number in range(len(SIZES))])


@pytest.mark.parametrize("neighbours", [1000, 20])
@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_compared_with_every_code(seed, neighbours, recoded, tmp_path):
    pool, quality = images(tmp_path, seed, planted=[(10, 400, 0.02), (11, 400, 0.3), (301, 20, 0.1)])
    stage = NearDuplicates(neighbours=neighbours, subvectors=4, threshold=0.2)
    found = distances(pool, stage)
    (index,) = recoded
    expected = by_hand(index, pool.features, quality, neighbours)
    assert (np.isfinite(found) == np.isfinite(expected)).all()
    assert found == pytest.approx(expected, abs=1e-4)
    kept = pool.counts(stage)
    clear = np.abs(expected - 0.2) > 1e-4
    assert (kept[clear] == (expected >= 0.2)[clear]).all() and 0.05 < kept.mean() < 0.95


def test_several_lists_change_the_codes_and_not_the_rule(recoded, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "PER_LIST", 60)
    pool, quality = images(tmp_path, 4, planted=[(10, 400, 0.02)])
    found = distances(pool, NearDuplicates(subvectors=2, lists=7, probes=99))
    (index,) = recoded
    assert index.nlist == 7
    assert found == pytest.approx(by_hand(index, pool.features, quality, 1000), abs=1e-4)


def test_of_planted_duplicates_the_one_with_the_best_score_stays(tmp_path):
    quality = np.linspace(0.1, 0.9, 600)
    groups = [(5, 450, 599), (30, 31, 301), (100, 350, 599 - 40)]
    planted = [(copy, group[-1], off) for group in groups for copy, off in zip(group[:-1], (0.0, 0.002), strict=True)]
    quality[[30, 31, 301]] = 0.95  # equal: the first stays
    quality[100] = 0.99
    pool, _ = images(tmp_path, planted=planted, **{QUALITY: quality.tolist()})
    kept = pool.counts(NearDuplicates(subvectors=16, threshold=0.1))
    assert [kept[list(group)].tolist() for group in groups] == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert kept.mean() > 0.9


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
def test_small_pools_are_coded_coarsely_and_copies_are_found(rows, tmp_path):
    (features,) = random_features(0, rows)
    doubled = np.concatenate([features, features])
    pool = Images(tmp_path, [doubled], **{QUALITY: np.linspace(0, 1, 2 * rows).tolist()})
    kept = pool.counts(NearDuplicates(threshold=1e-3))
    assert not kept[:rows].any() and kept[-1] == 1


def test_one_row_has_no_duplicates(tmp_path):
    assert Images(tmp_path, random_features(0, 1)).counts(NearDuplicates()).tolist() == [1]


def test_workers_do_not_change_the_outcome(tmp_path):
    pool, _ = images(tmp_path, planted=[(10, 400, 0.02)])
    stage = NearDuplicates(subvectors=4, threshold=0.1)
    one = pool.build(stage)
    two = pool.build(stage, engine=Local(workers=2), store="another")
    assert (one.path / SUBSET).read_bytes() == (two.path / SUBSET).read_bytes()
    assert 0 < one.summary["counts"]["dropped"] < 599


def test_thresholds_share_the_distances_and_settings_do_not(tmp_path):
    pool, _ = images(tmp_path)
    kept = [pool.counts(NearDuplicates(subvectors=4, threshold=t)).sum() for t in (0.0, 0.02, 0.1, 0.5)]
    assert kept == sorted(kept, reverse=True) and kept[0] == 600 > kept[-1]
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1
    fields = [
        {},
        {"neighbours": 9},
        {"lists": 9},
        {"probes": 9},
        {"subvectors": 9},
        {"feature": "b32_img"},
        {"seed": 9},
    ]
    keys = {NearDuplicates(**f).step(pool.source).steps["scores"].key for f in fields}
    assert len(keys) == len(fields)


def test_after_another_filter_only_its_survivors_are_compared(tmp_path):
    quality = np.linspace(0.1, 0.9, 600)
    pool, _ = images(tmp_path, planted=[(10, 590, 0.0), (20, 300, 0.0)], **{QUALITY: quality[::-1].tolist()})
    first = RandomFraction(fraction=0.5, seed=next(s for s in range(99) if _drops(pool, s)))
    then = NearDuplicates(subvectors=16)
    after = pool.counts(Sequence(first=first, then=then))
    assert pool.counts(then)[[10, 590, 20, 300]].tolist() == [1, 0, 1, 0]
    assert after[[10, 590, 20, 300]].tolist() == [0, 1, 1, 0]
    assert not after[pool.counts(first) == 0].any()
    both = Intersection(of={"a": then, "b": ClipScoreFraction(fraction=0.9)})
    assert (pool.counts(Sequence(first=first, then=both)) <= after).all()


def _drops(pool, seed):
    """Whether row 10 is dropped, and its copy and the other pair are kept."""
    return pool.counts(RandomFraction(fraction=0.5, seed=seed))[[10, 590, 20, 300]].tolist() == [0, 1, 1, 1]


def test_rows_without_score_or_features_are_missing(tmp_path):
    features = np.concatenate(random_features(0, 600))
    features[3], features[4, 2] = np.nan, np.inf
    quality = [None if i == 7 else i / 600 for i in range(600)]
    pool = Images(tmp_path, np.split(features, [300]), **{QUALITY: quality})
    subset = pool.build(NearDuplicates(subvectors=8))
    assert subset.summary["counts"]["missing"] == 3
    assert pool.counts(NearDuplicates(subvectors=8))[[3, 4, 7]].tolist() == [0, 0, 0]


def test_a_pool_without_anything_to_compare_is_refused(tmp_path):
    pool = Images(tmp_path, random_features(0, 3), **{QUALITY: [math.nan] * 3})
    with pytest.raises(ValueError, match="none of the 3 rows has both a clip_l14_similarity_score and finite features"):
        pool.build(NearDuplicates())


def test_a_pool_without_features_is_refused(tmp_path):
    pool, _ = images(tmp_path)
    with pytest.raises(ValueError, match="DuplicateDistance needs the feature 'b32_img'"):
        pool.build(NearDuplicates(feature="b32_img"))


@pytest.mark.parametrize("name", ["neighbours", "lists", "probes", "subvectors"])
def test_fields_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"filter.{name}=0: wanted 1 or more"):
        NearDuplicates(**{name: 0}).by()


def test_without_faiss_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "faiss" else sys)
    with pytest.raises(ValueError, match=r"faiss, which is not installed: pip install dcexp\[cluster\]"):
        DuplicateDistance().check_machine(ONE)


def test_an_interrupted_attempt_goes_on_to_the_same_distances(tmp_path, monkeypatch):
    pool, _ = images(tmp_path, planted=[(10, 400, 0.02)])
    stage = NearDuplicates(subvectors=4)
    whole = distances(pool, stage)
    (index,) = (tmp_path / "store" / "pool").iterdir()
    out = tmp_path / "out"
    out.mkdir()
    for broken in ("write_index", "read_index", "duplicate_distance"):
        monkeypatch.setattr(code_search, broken, _stop)
        with pytest.raises(KeyboardInterrupt):
            stage.by().run(out, ONE, pool=Pool(index))
        monkeypatch.undo()
    stage.by().run(out, ONE, pool=Pool(index))
    scores = Scores(out)
    assert np.array_equal(np.concatenate([scores.of_part(n) for n in range(len(SIZES))]), whole)
    assert not (out / module.FOLDER).exists()


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_damaged_parts_are_left_out_where_that_is_wanted(tmp_path):
    pool, _ = images(tmp_path)
    (tmp_path / "index").mkdir()
    CommonPool(root=str(pool.root / "pool"), skip_corrupt=True).run(tmp_path / "index", ONE)
    (tmp_path / "pool" / "metadata" / "0000.npz").write_bytes(b"PK cut off")
    out = tmp_path / "scores"
    out.mkdir()
    summary = DuplicateDistance().run(out, ONE, pool=Pool(tmp_path / "index"))
    assert (summary.counts.corrupt, summary.counts.kept) == (300, 300) and summary.counts.add_up
    _, summary = selected(NearDuplicates(), Pool(tmp_path / "index"), tmp_path / "out", scores=Scores(out))
    assert summary.counts.total == 600
