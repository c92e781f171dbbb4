"""k-means: against its two steps written out in double precision, scikit-learn, faiss and planted clusters."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.clusters import Centroids
from dcexp.filters import clustering, kmeans
from dcexp.filters.clustering import KMeans
from dcexp.filters.kmeans import by_faiss, by_torch
from dcexp.filters.random import RandomFraction
from dcexp.filters.uids import UidList
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.filters.stopped import stopped_at, stopped_cleaning_up
from tests.pools import ONE, hex_uids

SIZES = (70, 0, 1, 59)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def costs(rows, centres, spherical):
    """What it costs each row to be with each centre, shape (rows, centres), to be made as small as possible."""
    if spherical:
        return 1 - unit(rows) @ unit(centres).T
    return ((np.asarray(rows, np.float64)[:, None] - np.asarray(centres, np.float64)) ** 2).sum(axis=2)


def iterated(rows, centres, spherical):
    """Lloyd's two steps: every row to its nearest centre, every centre to the mean of its rows."""
    cost = costs(rows, centres, spherical)
    own = cost.argmin(axis=1)
    furthest = sorted(
        sorted(range(len(rows)), key=lambda i: (-cost[i].min(), i))[: len(set(range(len(centres))) - {*own})]
    )
    given = iter(furthest)
    moved = []
    for k in range(len(centres)):
        members = (unit(rows) if spherical else np.asarray(rows, np.float64))[own == k]
        moved.append(members.mean(axis=0) if len(members) else np.asarray(rows[next(given)], np.float64))
    return unit(moved) if spherical else np.array(moved)


def trained(rows, start, iterations, spherical, folder, name="state.npz"):
    """The centres after ``iterations`` from given ones: as an attempt that was interrupted before the first."""
    state = folder / name
    np.savez(state, centres=np.asarray(start, np.float32), done=0)
    return by_torch(rows, len(start), iterations, 0, spherical=spherical, state=state)


@pytest.fixture
def little(monkeypatch):
    """Blocks so small that there are several."""
    monkeypatch.setattr(kmeans, "BLOCK", 9)
    monkeypatch.setitem(kmeans.best.__globals__["BLOCKS"], "cpu", (7, 3, 0))


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_iterations_are_those_written_out(seed, spherical, little, tmp_path):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(60, 5)) * rng.uniform(0.5, 2, (60, 1))).astype(np.float16)
    start = np.concatenate([rows[:6], -50 * np.ones((2, 5))]).astype(
        np.float32
    )  # of the last two at least one is empty
    expected = start
    for done in range(1, 5):
        expected = iterated(rows, expected, spherical)
        found = trained(rows, start, done, spherical, tmp_path)
        assert found.dtype == np.float32 and found == pytest.approx(expected, abs=1e-5)
    if spherical:
        assert np.linalg.norm(found, axis=1) == pytest.approx(1)


whole = st.integers(-4, 4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), width=st.integers(1, 3))
def test_ties_and_empty_clusters(data, n, width, tmp_path_factory):
    """Of small whole numbers every sum is exact, so that equally near centres are, and many clusters are empty."""
    k = data.draw(st.integers(1, n))
    vectors = st.lists(st.lists(whole, min_size=width, max_size=width), min_size=n, max_size=n)
    rows, start = np.array(data.draw(vectors), np.float16), np.array(data.draw(vectors), np.float32)[:k]
    found = trained(rows, start, 1, False, tmp_path_factory.mktemp("ties"))
    assert found.tolist() == iterated(rows, start, False).astype(np.float32).tolist()


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_sum_of_distances_never_grows(seed, spherical, tmp_path):
    rows = np.repeat(np.concatenate(random_features(seed, 40, width=3)), 2, axis=0)  # equal first centres: empty ones
    sums = []
    for done in range(12):
        centres = by_torch(rows, 30, done, seed, spherical=spherical, state=tmp_path / f"{done}.npz")
        sums.append(costs(rows, centres, spherical).min(axis=1).sum())
    assert np.all(np.diff(sums) <= 1e-6) and sums[-1] < 0.9 * sums[0]


@pytest.mark.parametrize("spherical", [True, False])
def test_it_ends_when_nothing_changes(spherical, tmp_path, monkeypatch):
    (rows,) = random_features(1, 200)
    calls = []
    real = kmeans.best
    monkeypatch.setattr(kmeans, "best", lambda *a: (calls.append(1), real(*a))[1])
    long = by_torch(rows, 5, 300, 3, spherical=spherical, state=tmp_path / "long.npz")
    needed = len(calls)
    assert 3 < needed < 100
    exact = by_torch(rows, 5, needed, 3, spherical=spherical, state=tmp_path / "exact.npz")
    assert np.array_equal(long, exact) and long == pytest.approx(iterated(rows, long, spherical), abs=1e-6)


def test_the_seed_draws_different_rows_to_begin_with(tmp_path):
    (rows,) = random_features(2, 50, dtype=np.float32)
    firsts = [by_torch(rows, 9, 0, seed, spherical=False, state=tmp_path / f"{seed}.npz") for seed in (0, 1, -1, 2**63)]
    drawn = [{tuple(centre) for centre in first.tolist()} for first in firsts]
    assert all(len(d) == 9 and d <= {tuple(row) for row in rows.tolist()} for d in drawn)
    assert len({frozenset(d) for d in drawn}) == 4
    again = by_torch(rows, 9, 0, 0, spherical=False, state=tmp_path / "again.npz")
    assert np.array_equal(again, firsts[0])


def test_as_many_clusters_as_rows_are_the_rows(tmp_path):
    (rows,) = random_features(3, 12, dtype=np.float32)
    for found in (
        by_torch(rows, 12, 5, 0, spherical=True, state=tmp_path / "state.npz"),
        by_faiss(rows, 12, 5, 0, spherical=True),
    ):
        assert sorted(found.tolist()) == [pytest.approx(row) for row in sorted(unit(rows).tolist())]


def test_scikit_learn_finds_the_same_from_the_same_start(tmp_path):
    from sklearn.cluster import KMeans as Sklearns

    (rows,) = random_features(4, 300, width=6, dtype=np.float32)
    theirs = Sklearns(7, init=rows[:7], n_init=1, max_iter=500, tol=0, algorithm="lloyd").fit(rows.astype(np.float64))
    ours = trained(rows, rows[:7], 500, False, tmp_path)
    assert ours == pytest.approx(theirs.cluster_centers_, abs=1e-5)


def planted(seed, clusters, each, width=8):
    """Directions far apart with rows close around them; returns the rows and the directions."""
    rng = np.random.default_rng(seed)
    (directions,) = random_features(seed, clusters, width=width, dtype=np.float64)
    rows = np.repeat(directions, each, axis=0) + 0.02 * rng.normal(size=(clusters * each, width))
    return rows[rng.permutation(len(rows))].astype(np.float16), directions


@pytest.mark.parametrize("by", ["torch", "faiss"])
def test_planted_clusters_are_found(by, tmp_path):
    """From some first rows: k-means stays in a bad place from others, whoever does it."""
    rows, directions = planted(5, 4, 25)
    found = []
    for seed in range(15):
        how = {"spherical": True} | ({"state": tmp_path / f"{seed}.npz"} if by == "torch" else {})
        centres = {"torch": by_torch, "faiss": by_faiss}[by](rows, 4, 20, seed, **how)
        cosines = unit(directions) @ unit(centres).T
        found.append(sorted(cosines.argmax(axis=1)) == [0, 1, 2, 3] and cosines.max(axis=1).min() > 0.999)
    assert 0 < sum(found) < 15


@pytest.mark.parametrize("spherical", [True, False])
def test_what_faiss_ends_in_stays_as_it_is(spherical, tmp_path):
    (rows,) = random_features(6, 300)
    rows = (rows * np.random.default_rng(6).uniform(0.2, 5, (300, 1))).astype(np.float16)
    theirs = by_faiss(rows, 8, 300, 1, spherical=spherical)
    assert trained(rows, theirs, 3, spherical, tmp_path) == pytest.approx(theirs, abs=2e-3)
    assert not np.array_equal(theirs, by_faiss(rows, 8, 300, 2, spherical=spherical))


def centres(images, stage, store="store", engine=ONE, within=None):
    """The artifact that a clustering of a pool makes."""
    step = stage.step(images.source, within.step(images.source) if within else None)
    made = Store(root=str(images.root / store)).build(step, engine)
    assert isinstance(made, Centroids)
    return made


def counts_of(artifact):
    return tuple(artifact.summary["counts"][name] for name in ("kept", "dropped", "missing", "corrupt"))


@pytest.fixture
def drawn(monkeypatch):
    """Every sample that torch is given."""
    samples = []

    def noting(rows, *args, **how):
        samples.append(np.array(rows))
        return by_torch(rows, *args, **how)

    monkeypatch.setattr(clustering, "by_torch", noting)
    return samples


def test_a_pool_is_clustered_as_its_rows_are_in_the_order_of_their_uids(tmp_path, drawn):
    pool = Images(tmp_path, random_features(7, *SIZES))
    made = centres(pool, KMeans(clusters=5, iterations=7, seed=3))
    order = sorted(range(len(pool.uids)), key=lambda i: pool.uids[i])
    assert np.array_equal(drawn[0], pool.features[order]) and counts_of(made) == (130, 0, 0, 0)
    expected = by_torch(pool.features[order], 5, 7, 3, spherical=True, state=tmp_path / "state.npz")
    assert np.array_equal(made.rows(), expected)
    assert made.summary["clusters"] == 5 and made.summary["width"] == 16
    assert [path.name for path in made.path.iterdir() if path.suffix != ".json"] == ["centroids.npy"]


def test_the_sample_is_a_share_that_the_seed_draws_and_grows_with_its_size(tmp_path, drawn):
    pool = Images(tmp_path, random_features(8, 2000))
    kept = [
        counts_of(centres(pool, KMeans(clusters=4, per_cluster=n, iterations=1, seed=s)))
        for n, s in ((50, 0), (100, 0), (50, 1), (9999, 0))
    ]
    of = [{tuple(row) for row in sample.tolist()} for sample in drawn]
    assert [k[0] for k in kept] == [len(o) for o in of] and all(sum(k) == 2000 for k in kept)
    assert abs(len(of[0]) - 200) < 70 and abs(len(of[1]) - 400) < 90 and len(of[3]) == 2000
    assert of[0] < of[1] < of[3] and len(of[0] & of[2]) < 60


def test_how_a_pool_is_cut_into_files_and_their_order_do_not_matter(tmp_path):
    (features,) = random_features(9, 130)
    names = hex_uids(130)
    made = []
    for number, cut in enumerate(([130], [70, 0, 1, 59], [20, 50, 60])):
        turned = np.roll(np.arange(130), 40 * number)
        parts = np.split(features[turned], np.cumsum(cut)[:-1])
        pool = Images(tmp_path / str(number), parts, named=[names[i] for i in turned])
        made.append(centres(pool, KMeans(clusters=6, per_cluster=15)).file.read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("library", ["torch", "faiss"])
def test_an_attempt_that_is_stopped_at_any_file_goes_on_to_the_same_bytes(library, tmp_path, monkeypatch):
    pool = Images(tmp_path, random_features(10, *SIZES))
    stage = KMeans(clusters=6, iterations=4, library=library)
    whole = centres(pool, stage)

    def stopped(nth, store):
        return stopped_at(monkeypatch, nth, lambda: centres(pool, stage, store=store))

    made = [next(filter(None, (stopped(nth, "often") for nth in range(1, 99))))]
    for nth in (9, 12, 17, 20):
        stopped(nth, f"once-{nth}")
        assert list((tmp_path / f"once-{nth}" / "centroids").glob("*.partial"))
        made.append(centres(pool, stage, store=f"once-{nth}"))
    assert all((m.file.read_bytes(), m.summary) == (whole.file.read_bytes(), whole.summary) for m in made)


def test_an_attempt_that_is_stopped_while_it_cleans_up_goes_on(tmp_path, monkeypatch):
    pool = Images(tmp_path, random_features(10, *SIZES))
    whole = centres(pool, KMeans(clusters=6))
    assert stopped_cleaning_up(monkeypatch, lambda: centres(pool, KMeans(clusters=6), store="stopped"))
    made = centres(pool, KMeans(clusters=6), store="stopped")
    assert made.file.read_bytes() == whole.file.read_bytes() and len(list(made.path.iterdir())) == 2


def test_rows_without_a_direction_are_missing(tmp_path, drawn):
    features = np.concatenate(random_features(11, 100))
    features[3], features[4, 2], features[5], features[6, 0] = np.nan, np.inf, 0, -np.inf
    pool = Images(tmp_path, np.split(features, [4, 50]))
    made = centres(pool, KMeans(clusters=5))
    assert counts_of(made) == (96, 0, 4, 0)
    assert np.isfinite(drawn[0]).all() and len(drawn[0]) == 96 and np.isfinite(made.rows()).all()


def test_clusters_of_what_a_filter_has_kept_are_those_of_a_pool_of_nothing_else(tmp_path):
    pool = Images(tmp_path, random_features(12, 100, 60))
    first = RandomFraction(fraction=0.4)
    kept = pool.counts(first) > 0
    alone = Images(
        tmp_path / "alone", [pool.features[kept]], named=[u for u, k in zip(pool.uids, kept, strict=True) if k]
    )
    stage = KMeans(clusters=4, per_cluster=10)
    within, by_itself = centres(pool, stage, within=first), centres(alone, stage)
    assert np.array_equal(within.rows(), by_itself.rows())
    assert counts_of(within)[0] == counts_of(by_itself)[0] and sum(counts_of(within)) == 160


def test_a_sample_is_sized_by_how_many_samples_are_left_not_by_how_often_they_are_taken(tmp_path):
    pool = Images(tmp_path, random_features(12, 400))
    (tmp_path / "list.txt").write_text("\n".join(pool.uids[:100] * 3))
    made = centres(pool, KMeans(clusters=5, per_cluster=20), within=UidList(path=str(tmp_path / "list.txt")))
    assert counts_of(made)[0] == 100


@pytest.mark.parametrize("rows, clusters", [(1, 1), (10, 1), (11, 2), (95, 10)])
def test_auto_is_one_cluster_for_so_many_rows(rows, clusters, tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "SIZE", 10)
    assert len(centres(Images(tmp_path, random_features(0, rows)), KMeans(clusters="auto")).rows()) == clusters


@pytest.mark.parametrize(
    "features, clusters",
    [(random_features(0, 5, 4), 10), ([np.full((5, 16), np.nan)], "auto")],
    ids=["few", "nan"],
)
def test_more_clusters_than_rows_are_refused(features, clusters, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"kmeans.* clusters are to be found in [09] rows that have 'l14_img', of [59]; .* \(clusters=…\)$",
    ):
        centres(Images(tmp_path, features), KMeans(clusters=clusters))


def test_other_features_than_the_pool_had_are_refused(tmp_path):
    pool = Images(tmp_path, random_features(0, 20, 20))
    Store(root=str(tmp_path / "store")).build(pool.source, ONE)
    np.savez(tmp_path / "pool" / "metadata" / "0001.npz", l14_img=np.ones((20, 8), np.float16))
    with pytest.raises(
        ValueError, match=r"0001\.npz: 'l14_img' is 8 wide, but those of the pool when it was indexed are 16"
    ):
        centres(pool, KMeans(clusters=2))


def test_a_pool_without_the_feature_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"KMeans needs the feature 'b32_img', .* they all have: l14_img"):
        centres(Images(tmp_path, random_features(0, 20)), KMeans(clusters=2, feature="b32_img"))


@pytest.mark.parametrize("field", ["clusters", "iterations", "per_cluster"])
def test_fields_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match=rf"{field}=0.*wanted 1 or more"):
        KMeans(**{"clusters": 3, field: 0})


def test_without_faiss_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    KMeans(clusters=3).check_machine(ONE)
    with pytest.raises(ValueError, match=r"faiss, which is not installed: pip install dcexp\[cluster\]"):
        KMeans(clusters=3, library="faiss").check_machine(ONE)


def test_every_field_is_in_the_key(tmp_path):
    fields = [{}, {"feature": "b32_img"}, {"spherical": False}, {"iterations": 9}, {"per_cluster": 9}, {"seed": 9}]
    source = Images(tmp_path, random_features(0, 2)).source
    keys = [KMeans(**{"clusters": 4, **f}).step(source).key for f in (*fields, {"library": "faiss"}, {"clusters": 5})]
    assert len({*keys, KMeans(clusters=4).step(source, RandomFraction(fraction=0.5).step(source)).key}) == len(keys) + 1
    assert (
        json.loads(json.dumps(KMeans(clusters="auto").step(source).lineage()))["stage"]["fields"]["clusters"] == "auto"
    )
