"""Rows brought together by a key: every value comes back to its row, and all rows of a key are met at once."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.pool import DamagedError
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.uid import UID
from dcexp.filters.assignment import FarFromCentre
from dcexp.filters.clustered import ClusterPlace
from dcexp.filters.clustering import KMeans
from dcexp.filters.copies import Copies, CopyPlace
from dcexp.filters.cut import Threshold
from dcexp.filters.density import DensityPruning
from dcexp.filters.groups import Groups, in_order, places
from dcexp.filters.intersection import Intersection
from dcexp.filters.near_duplicates import NearDuplicates
from dcexp.filters.score import Column
from dcexp.filters.semdedup import SemanticDistance, SemDedup
from dcexp.filters.sequence import Sequence
from dcexp.filters.uids import UidList
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.filters.stopped import stopped_at, stopped_cleaning_up
from tests.pools import ONE

QUALITY = "clip_l14_similarity_score"
CLUSTERING = KMeans(clusters=4, iterations=5)

LAST = 2**64 - 1
halves = st.sampled_from([0, 1, 2, 3, 2**32, 2**63, LAST - 1, LAST]) | st.integers(0, LAST)
keys_of_parts = st.lists(st.lists(st.tuples(halves, st.integers(0, 1)), max_size=9), min_size=1, max_size=5)


def spread(members, rng):
    """Rows of a part that is twice as large, for some of its rows, in any order."""
    return rng.permutation(2 * members + 1)[:members]


@settings(max_examples=50, deadline=None)
@given(
    parts=keys_of_parts | st.lists(st.integers(0, 9).map(lambda n: [(7, 7)] * n), min_size=1), size=st.integers(1, 12)
)
def test_values_come_back_to_their_rows(parts, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    groups, rng, rows, total = Groups(folder), np.random.default_rng(size), [], 0
    for number, keys in enumerate(parts):
        rows.append(spread(len(keys), rng))
        ids = np.arange(total, total + len(keys))
        assert not groups.has(number)
        groups.put(number, rows[-1], np.array(keys, UID), {"ids": ids, "pairs": np.stack([ids, -ids], axis=1)})
        assert groups.has(number)
        total += len(keys)
    owners = [(number, i) for number, keys in enumerate(parts) for i in range(len(keys))]
    together = []
    for number, edges in enumerate(groups.ranges(len(parts), size)):
        keys, arrays, ends = groups.gathered(len(parts), edges, ("ids", "pairs"))
        ids = arrays["ids"].astype(int)
        assert len(keys) == len(ids) == len(arrays["pairs"]) == ends[-1] and len(ends) == len(parts)
        assert [parts[p][i] for p, i in (owners[n] for n in ids)] == [tuple(key) for key in keys.tolist()]
        assert not len(ids) or np.array_equal(arrays["pairs"], np.stack([ids, -ids], axis=1))
        together.append({tuple(key) for key in keys.tolist()})
        assert not groups.has_found(number)
        groups.give_back(number, ids.astype(np.float32) / 4, ends)
        assert groups.has_found(number)
    assert sum(map(len, together)) == len(set.union(*together)), "a key is in one range"
    first = 0
    for number, keys in enumerate(parts):
        expected = np.full(2 * len(keys) + 1, np.nan)
        expected[rows[number]] = np.arange(first, first + len(keys)) / 4
        assert np.array_equal(groups.found(number, len(expected)), expected, equal_nan=True)
        first += len(keys)
    shutil.rmtree(folder)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 1)), st.integers(0, 2), st.integers(0, 2))))
def test_places_are_how_many_of_the_key_come_before(rows):
    keys = np.array([key for key, *_ in rows], UID)
    order, new = in_order(keys, *(np.array([row[i] for row in rows], np.float64) for i in (1, 2)))
    expected = [
        sum(rows[j][0] == row[0] and (rows[j][1:], j) < (row[1:], i) for j in range(len(rows)))
        for i, row in enumerate(rows)
    ]
    assert places(order, new).tolist() == expected
    assert [rows[i] for i in order] == sorted(rows) and new.sum() == len({row[0] for row in rows})


def images(root, seed=0, sizes=(40, 0, 25, 35), **columns):
    columns.setdefault(QUALITY, np.random.default_rng(seed).random(sum(sizes)).tolist())
    columns.setdefault("text", [f"caption {i % 9}" for i in range(sum(sizes))])
    pool = Images(root, random_features(seed, *sizes), **columns)
    pool.columns = columns
    return pool


SCORES = {
    "distance": SemanticDistance(clustering=CLUSTERING),
    "place": ClusterPlace(clustering=CLUSTERING),
    "copy": CopyPlace(column="text"),
}
FILTERS = {
    "semdedup": SemDedup(epsilon=0.4, clustering=CLUSTERING),
    "density": DensityPruning(fraction=0.3, clustering=CLUSTERING),
    "far": FarFromCentre(fraction=0.3, clustering=CLUSTERING),
    "copies": Copies(column="text", most=2),
    "near": NearDuplicates(),
}
READ = [
    ("parquet", "copies"),
    *((what, name) for what in ("npz", "parquet") for name in ("semdedup", "density", "far")),
]


def numbers(scores):
    return np.concatenate([scores.of_part(number) for number in range(4)])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("size", [4, 30])
def test_the_size_of_ranges_does_not_matter(name, size, tmp_path, monkeypatch):
    pool, stage = images(tmp_path), SCORES[name]
    whole = Store(root=str(tmp_path / "one")).build(stage.step(pool.source), ONE)
    monkeypatch.setattr(type(stage), "together", size)
    seen = []
    real = Groups.give_back
    monkeypatch.setattr(Groups, "give_back", lambda *a: (seen.append(len(a[2])), real(*a))[1])
    parted = Store(root=str(tmp_path / "many")).build(stage.step(pool.source), ONE)
    assert isinstance(whole, Scores) and isinstance(parted, Scores)
    assert sum(seen) == 100 and len(seen) > 2 and np.array_equal(numbers(whole), numbers(parted))
    assert {path.suffix for path in parted.path.iterdir()} == {".npy", ".json"} and len(
        list(parted.path.iterdir())
    ) == 5


@pytest.mark.parametrize("name", SCORES)
def test_an_attempt_that_is_stopped_at_any_file_goes_on_to_the_same_numbers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(type(SCORES[name]), "together", 30)
    whole, build = twice(tmp_path, SCORES[name])
    assert stopped_at(monkeypatch, 2, build) is None
    for nth in range(3, 12):
        stopped_at(monkeypatch, nth, build)
    made = build()
    assert np.array_equal(numbers(made), numbers(whole)) and made.summary == whole.summary


@pytest.mark.parametrize("name", [*SCORES, "near"])
def test_an_attempt_that_is_stopped_while_it_cleans_up_goes_on(name, tmp_path, monkeypatch):
    whole, build = twice(tmp_path, SCORES.get(name) or FILTERS[name].by())
    assert stopped_cleaning_up(monkeypatch, build)
    for path in (tmp_path / "again" / "scores").glob("*.partial/*.npy"):
        path.unlink()
    made = build()
    assert np.array_equal(numbers(made), numbers(whole)) and made.summary == whole.summary
    assert not [path for path in made.path.iterdir() if path.is_dir()]


def twice(root, stage):
    """A score of a pool, and what makes it in another store, where all that it needs is made already."""
    step, again = stage.step(images(root).source), Store(root=str(root / "again"))
    for needed in step.steps.values():
        again.build(needed, ONE)
    return Store(root=str(root / "whole")).build(step, ONE), partial(again.build, step, ONE)


def damaged(root, what, skip):
    """A store, and a pool whose third part breaks after it was indexed there."""
    pool, store = images(root), Store(root=str(root / "store"))
    source = CommonPool(root=str(root / "pool"), skip_corrupt=skip).step()
    store.build(source, ONE)
    (root / "pool" / "metadata" / f"0002.{what}").write_bytes(b"PK cut off")
    return pool, store, source


@pytest.mark.parametrize("what, name", READ)
def test_rows_of_a_damaged_part_are_corrupt_in_every_step(name, what, tmp_path):
    pool, store, source = damaged(tmp_path, what, skip=True)
    subset = store.build(FILTERS[name].step(source), ONE)
    made = [path for path in (tmp_path / "store").glob("*/*/manifest.json") if path.parts[-3] != "pool"]
    counts = [json.loads(path.read_text())["summary"]["counts"] for path in made]
    assert [(c["corrupt"], c["missing"]) for c in counts] == [(25, 0)] * len(made)
    assert len(made) == {"semdedup": 4, "density": 4, "far": 3, "copies": 2}[name]
    rest = some(pool, [*range(40), *range(65, 100)])
    if name in ("semdedup", "copies"):  # the others keep a fraction of all rows, damaged ones too
        assert np.array_equal(subset.uids(), rest.build(FILTERS[name]).uids())


def some(pool, rows):
    """A pool that holds only some rows of one of :func:`images`."""
    columns = {name: [pool.columns[name][i] for i in rows] for name in pool.columns}
    named = [pool.uids[i] for i in rows]
    return Images(pool.root / "some", [pool.features[rows]], named=named, **columns)


@pytest.mark.parametrize("what, name", READ)
def test_a_damaged_part_stops_the_run_where_it_is_not_to_be_skipped(name, what, tmp_path):
    _, store, source = damaged(tmp_path, what, skip=False)
    with pytest.raises(DamagedError, match=rf"0002\.{what} cannot be read"):
        store.build(FILTERS[name].step(source), ONE)


@pytest.mark.parametrize("name", FILTERS)
def test_after_another_filter_nothing_else_exists(name, tmp_path):
    """What is kept of a filter's survivors is what is kept of a pool of nothing else; what it dropped is dropped."""
    pool = images(tmp_path)
    survivors = sorted(np.random.default_rng(1).permutation(100)[:60])
    named = [pool.uids[i] for i in survivors]
    (tmp_path / "list.txt").write_text("\n".join(named))
    first = UidList(path=str(tmp_path / "list.txt"))
    then = FILTERS[name]
    subset = pool.build(Sequence(first=first, then=then, fraction_of="input"))
    alone = some(pool, survivors)
    expected = alone.build(then)
    assert np.array_equal(subset.uids(), expected.uids()) and 0 < len(subset.uids()) <= 60
    if name != "near":  # of which there are none here
        assert not np.array_equal(subset.uids(), pool.build(Intersection(of={"a": first, "b": then})).uids())
    counts = subset.summary["counts"]
    assert (counts["missing"], counts["corrupt"], counts["dropped"]) == (0, 0, 100 - len(subset.uids()))
    assert 40 in subset.summary["funnel"].values()


def test_a_relative_score_in_an_intersection_after_another_filter_is_that_of_its_survivors(tmp_path):
    pool = images(tmp_path, sizes=(2, 0, 1, 1), text=["a", "A ", "b", "c"], **{QUALITY: [0.9, 0.8, 0.7, 0.1]})
    (tmp_path / "list.txt").write_text("\n".join(pool.uids[1:]))
    first, best = UidList(path=str(tmp_path / "list.txt")), Threshold(score=CopyPlace(column="text"), threshold=0)
    both = Intersection(of={"a": best, "b": Threshold(score=Column(column=QUALITY), threshold=0.5)})
    assert pool.counts(best).tolist() == [1, 0, 1, 1] and pool.counts(both).tolist() == [1, 0, 1, 0]
    assert pool.counts(Sequence(first=first, then=best)).tolist() == [0, 1, 1, 1]
    assert pool.counts(Sequence(first=first, then=both)).tolist() == [0, 1, 1, 0]


def test_judges_that_lose_count_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(CopyPlace, "judge", lambda *a: np.zeros(3))
    with pytest.raises(AssertionError, match=r"CopyPlace\.judge: wanted 100 numbers, got \(3,\)"):
        images(tmp_path).build(Copies(column="text", most=1))
