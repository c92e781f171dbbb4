"""What a subset says of itself; the threshold that is found without holding all scores; sums, sequences, repeats."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts import merge
from dcexp.artifacts.lineage import but_for_seeds, label
from dcexp.artifacts.subset import EXAMPLES, SUBSET, UNAVAILABLE
from dcexp.artifacts.uid import format_uid
from dcexp.engines.local import Local
from dcexp.filters import selection
from dcexp.filters import threshold as module
from dcexp.filters.algebra import Difference, Repeat, Sum, Union
from dcexp.filters.clip_score import ClipScoreFraction, ClipScoreThreshold
from dcexp.filters.cut import Threshold, TopFraction
from dcexp.filters.intersection import Intersection
from dcexp.filters.none import NoFilter
from dcexp.filters.random import RandomFraction
from dcexp.filters.score import Column, Score
from dcexp.filters.sequence import Sequence
from dcexp.filters.threshold import Cutoff, top
from dcexp.filters.uids import UidList
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, as_pairs, hex_uids, sample, write_parquet, write_tar

SCORES = st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.25, 0.3, 1.0, math.nan, math.inf]) | st.floats(-1, 1, width=32)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.lists(SCORES, max_size=15), min_size=1, max_size=4),
    n=st.integers(0, 50),
    held=st.sampled_from([0, 3, 99]),
)
def test_the_threshold_is_that_of_a_plain_sort(parts, n, held):
    arrays = [np.array(part, dtype=np.float64) for part in parts]
    scores = [s for part in parts for s in part]
    present = sorted((s for s in scores if not math.isnan(s)), reverse=True)
    before, module.GATHERED = module.GATHERED, held
    try:
        loose = top(ONE, parts, lambda item: arrays[item[0]], n, exact=False)
        exact = top(ONE, parts, lambda item: arrays[item[0]], n, exact=True)
    finally:
        module.GATHERED = before
    kept = [s for i, a in enumerate(arrays) for s in a[loose.mask(a, i)].tolist()]
    assert sorted(kept, reverse=True) == ([s for s in present if s >= present[n]] if n < len(present) else present)
    kept = [s for i, a in enumerate(arrays) for s in a[exact.mask(a, i)].tolist()]
    assert sorted(kept, reverse=True) == present[:n]


@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), n=st.integers(1, 20))
def test_the_threshold_of_whole_numbers_of_64_bits(values, n):
    array = np.array(values, np.uint64)
    cutoff = top(ONE, [array], lambda item: array, n, exact=True)
    assert sorted(array[cutoff.mask(array, 0)].tolist(), reverse=True) == sorted(values, reverse=True)[:n]


def test_a_float_column_is_compared_as_upstream_compares_it():
    values = np.array([0.3, 0.1], np.float32)
    assert Cutoff(value=0.3).mask(values, 0).tolist() == (values >= 0.3).tolist() == [True, False]


class House:
    """A pool of 60 samples in three files, a sixth of them dead links, and a store."""

    def __init__(self, root):
        self.root, self.uids = root, hex_uids(60)
        self.scores = np.random.default_rng(0).permutation(60) / 60
        for number in range(3):
            rows = slice(20 * number, 20 * number + 20)
            write_parquet(root / "p" / "metadata" / f"{number}.parquet", self.uids[rows], s=self.scores[rows])
        self.dead = set(self.uids[::6])
        write_tar(root / "p" / "shards" / "0.tar", [sample(u) for u in self.uids if u not in self.dead])
        self.pool = CommonPool(root=str(root / "p")).step()
        self.store = Store(root=str(root / "store"))

    def taken(self, stage, engine=ONE):
        """The uids that a filter takes, with how often; and what its subset says."""
        step = stage.step(self.pool)
        stage.check(engine, **step.values)
        subset = self.store.build(step, engine)
        return Counter(format_uid(uid) for uid in subset.uids()), subset.summary, subset.path

    def best(self, n, among=None):
        rows = [i for i in np.argsort(-self.scores) if among is None or self.uids[i] in among]
        return {self.uids[i] for i in rows[:n]}


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def by_score(fraction, **how):
    return TopFraction(score=Column(column="s"), fraction=fraction, ties="exact", **how)


def test_a_subset_tells_the_funnel_repeats_and_both_sizes_of_the_pool(house, caplog):
    taken, summary, path = house.taken(by_score(0.3))
    lacking = set(taken) & house.dead
    assert set(taken) == house.best(18) and lacking
    assert summary["pool"] == {"metadata": 60, "available": 50}
    assert summary["unavailable"] == len(lacking)
    listed = np.load(path / UNAVAILABLE, allow_pickle=False)
    assert as_pairs(listed) == sorted(as_pairs(sorted(lacking)))
    assert f"{len(lacking)} of the 18 samples chosen" in caplog.text and "filter.pool=available" in caplog.text
    assert summary["funnel"] == {by_score(0.3).label: 42} and summary["repeats"] == {"1": 18}


def test_examples_show_kept_and_dropped_samples_with_text_and_score(house):
    taken, _, path = house.taken(by_score(0.5))
    examples = pq.read_table(path / EXAMPLES).to_pylist()
    assert Counter(e["kept"] for e in examples) == {True: 20, False: 20}
    for example in examples:
        row = house.uids.index(example["uid"])
        assert example["kept"] == (example["uid"] in taken) and example["score"] == house.scores[row]
        assert example["text"] == f"caption {row % 20}"


def test_a_fraction_of_what_is_available(house):
    taken, summary, _ = house.taken(by_score(0.5, pool="available"))
    assert set(taken) == house.best(25, set(house.uids) - house.dead) and summary["unavailable"] == 0
    assert summary["fraction_of"] == 50 and summary["funnel"]["not in the shards"] == 10
    taken, _, _ = house.taken(RandomFraction(fraction=0.5, pool="available"))
    assert len(taken) == 25 and not set(taken) & house.dead


def test_the_report_of_img2dataset_says_what_is_available_without_reading_the_tar(house):
    import pyarrow as pa

    shards = house.root / "p" / "shards"
    status = ["failed_to_download" if uid in house.dead else "success" for uid in house.uids]
    pq.write_table(pa.table({"uid": house.uids, "status": status}), shards / "0.parquet")
    (shards / "0.tar").write_bytes(b"")
    assert house.store.build(house.pool, ONE).available == 50


def test_a_pool_without_shards_has_no_available_samples_to_count(tmp_path):
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", hex_uids(4), s=[1.0, 2.0, 3.0, 4.0])
    pool, store = CommonPool(root=str(tmp_path / "p")).step(), Store(root=str(tmp_path / "store"))
    with pytest.raises(ValueError, match=r"pool=available, but the pool at .* has no shards"):
        store.build(by_score(0.5, pool="available").step(pool), ONE)
    assert store.build(by_score(0.5).step(pool), ONE).summary["pool"] == {"metadata": 4, "available": None}


def test_skipping_the_very_top(house):
    taken, summary, _ = house.taken(by_score(0.3, skip=0.1))
    assert set(taken) == house.best(18) - house.best(6)
    assert summary["funnel"]["skip"] == 6
    with pytest.raises(ValueError, match=r"filter.skip=0.3: wanted 0 or more and less than fraction=0.3"):
        by_score(0.3, skip=0.3)


@pytest.mark.parametrize("fraction_of, size", [("pool", 12), ("input", 6)])
def test_in_a_sequence_the_second_filter_sees_what_the_first_has_kept(house, fraction_of, size):
    first = RandomFraction(fraction=0.5)
    stage = Sequence(first=first, then=by_score(0.2), fraction_of=fraction_of)
    taken, summary, _ = house.taken(stage)
    survivors = set(house.taken(first)[0])
    assert set(taken) == house.best(size, survivors)
    assert summary["fraction_of"] == (60 if fraction_of == "pool" else 30)
    lineage = house.store.find(stage.step(house.pool)).manifest["lineage"]
    assert lineage["stage"]["fields"]["fraction_of"] == lineage["values"]["then.fraction_of"] == fraction_of
    assert set(taken) != house.best(size)


@pytest.mark.parametrize("ties", ["include", "exact"])
def test_a_second_filter_that_decides_nothing_is_told(house, caplog, ties):
    first, then = (replace(by_score(fraction), ties=ties) for fraction in (0.2, 0.3))
    assert house.taken(Sequence(first=first, then=then))[0] == house.taken(first)[0]
    candidates, places = (13, 19) if ties == "include" else (12, 18)
    assert f"there are only {candidates} candidates for {places} places; all stay" in caplog.text
    caplog.clear()
    house.taken(Sequence(first=then, then=first))
    house.taken(by_score(1.0))
    assert "candidates" not in caplog.text


def test_many_equal_scores_are_told(tmp_path, caplog):
    scores = [0.5] * 30 + [0.1] * 70
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", hex_uids(100), s=scores)
    pool, stage = CommonPool(root=str(tmp_path / "p")).step(), by_score(0.3)
    store = Store(root=str(tmp_path / "store"))
    assert store.build(stage.step(pool), ONE).summary["taken"] == 30
    assert store.build(replace(stage, fraction=0.2, ties="include").step(pool), ONE).summary["taken"] == 30
    assert "30 samples are kept where 20 were asked for, for many have the same score" in caplog.text
    assert caplog.text.count("same score") == 1


def test_sequences_nest_and_hold_combinations(house):
    inner = Sequence(first=RandomFraction(fraction=0.8), then=RandomFraction(fraction=0.5, seed=1))
    taken, _, _ = house.taken(Sequence(first=inner, then=by_score(0.1)))
    assert set(taken) == house.best(6, set(house.taken(inner)[0]))
    other = Sequence(
        first=RandomFraction(fraction=0.8),
        then=Sequence(first=RandomFraction(fraction=0.5, seed=1), then=by_score(0.1)),
    )
    assert set(house.taken(other)[0]) == set(taken)
    both = Intersection(of={"a": by_score(0.3), "b": ClipScoreThreshold(threshold=0.2, arch="l14")})
    taken, _, _ = house.taken(Sequence(first=RandomFraction(fraction=0.5), then=both))
    half = set(house.taken(RandomFraction(fraction=0.5))[0])
    assert set(taken) == house.best(18, half) & set(house.taken(ClipScoreThreshold(threshold=0.2, arch="l14"))[0])


@pytest.mark.parametrize("ranges", [7, 1 << 19])
def test_combinations_are_those_of_counters(house, tmp_path, monkeypatch, ranges, caplog):
    monkeypatch.setattr(merge, "RANGE", ranges)
    (tmp_path / "a.txt").write_text("\n".join([*house.uids[:20], *house.uids[:5]]))
    a, b = UidList(path=str(tmp_path / "a.txt")), by_score(0.5)
    left, right = house.taken(a)[0], house.taken(b)[0]
    assert house.taken(Sum(of={"a": a, "b": b}))[0] == left + right
    assert house.taken(Union(of={"a": a, "b": b}))[0] == Counter(set(left) | set(right))
    assert house.taken(Intersection(of={"a": a, "b": b}))[0] == Counter(set(left) & set(right))
    assert house.taken(Difference(this=a, without=b))[0] == Counter(set(left) - set(right))
    repeated, summary, _ = house.taken(Repeat(of=a, times=3))
    assert repeated == Counter({uid: 3 * n for uid, n in left.items()})
    assert summary["repeats"] == {"3": 15, "6": 5} and summary["counts"]["kept"] == 20
    assert "73.3% of the 75 samples taken are repeats" in caplog.text


def test_an_intersection_asks_the_cheap_first_and_says_who_dropped_what(house):
    a, b = ClipScoreThreshold(threshold=0.5, arch="l14"), ClipScoreThreshold(threshold=0.5, arch="b32")
    taken, summary, _ = house.taken(Intersection(of={"x": a, "y": Intersection(of={"z": b, "w": NoFilter()})}))
    assert set(taken) == set(house.taken(a)[0]) & set(house.taken(b)[0])
    assert sum(summary["funnel"].values()) == 60 - len(taken) and list(summary["funnel"]) == sorted([a.label, b.label])


class Length(Score):
    """A score of one's own: the digits of the number in the caption."""

    columns = ("text",)

    def score(self, rows, **extra):
        return np.array([float(text.split()[1]) for text in rows.table["text"].to_pylist()])


def test_a_stored_score_is_made_once_and_shared(house):
    for fraction in (0.25, 0.5):
        taken, _, _ = house.taken(TopFraction(score=Length(), fraction=fraction, ties="exact"))
        n = int(60 * fraction)
        order = sorted(range(60), key=lambda i: (-(i % 20), i))
        assert set(taken) == {house.uids[i] for i in order[:n]}
    assert len(list((house.root / "store" / "scores").glob("length-*"))) == 1


def test_workers_do_not_change_the_bytes(house, tmp_path):
    stage = Sequence(first=ClipScoreFraction(fraction=0.6), then=by_score(0.3))
    wanted = (house.taken(stage)[2] / SUBSET).read_bytes()
    other = Store(root=str(tmp_path / "two"))
    built = other.build(stage.step(house.pool), Local(workers=2))
    assert (built.path / SUBSET).read_bytes() == wanted


def test_a_piece_that_a_crash_has_cut_is_made_again(house, tmp_path, monkeypatch):
    """After a power loss a file may be there without its end."""
    wanted = (house.taken(NoFilter())[2] / SUBSET).read_bytes()
    other = Store(root=str(tmp_path / "other"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(selection, "conclude", _interrupt)
        other.build(NoFilter().step(house.pool), ONE)
    (piece, *_) = sorted((tmp_path / "other").glob("subset/*.partial/pieces/*.npy"))
    piece.write_bytes(piece.read_bytes()[:-100])
    assert (other.build(NoFilter().step(house.pool), ONE).path / SUBSET).read_bytes() == wanted


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_tars_completed_between_two_attempts_are_looked_into_again(house, monkeypatch):
    from dcexp.sources import available

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(available, "merge_files", _interrupt)
        house.store.build(house.pool, ONE)
    write_tar(house.root / "p" / "shards" / "0.tar", [sample(u) for u in house.uids], mtime=99)
    assert house.store.build(house.pool, ONE).available == 60


def test_many_tars_are_merged_in_levels(house, monkeypatch):
    from dcexp.sources import available

    for number, uid in enumerate(house.uids):
        write_tar(house.root / "p" / "shards" / f"{number:03d}.tar", [sample(uid)])
    monkeypatch.setattr(available, "TOGETHER", 3)
    assert house.store.build(CommonPool(root=str(house.root / "p")).step(), ONE).available == 60


def test_equal_parts_of_an_intersection_are_asked_once_whatever_their_order(house):
    stage = Threshold(score=Column(column="s"), threshold=0.5)
    by = {"x": stage, "y": ClipScoreThreshold(threshold=0.5, arch="l14"), "z": replace(stage)}
    step = Intersection(of=by).step(house.pool)
    assert [name for name in step.inputs if name.startswith("row_")] == ["row_0", "row_1"]
    assert step.key == Intersection(of=dict(reversed(by.items()))).step(house.pool).key


def test_examples_are_for_people_and_not_in_the_digest(house, monkeypatch):
    from dcexp.filters import examples

    first = house.store.build(NoFilter().step(house.pool), ONE).manifest["digest"]
    monkeypatch.setattr(examples, "EACH", 3)
    step = NoFilter().step(house.pool)
    assert house.store.build(step, ONE, frozenset({"subset"})).manifest["digest"] == first


def test_seeds_of_a_part_make_one_row_of_a_leaderboard_and_order_makes_two(house):
    def group(stage):
        return but_for_seeds(stage.step(house.pool).lineage())

    def union(seed):
        return Union(of={"a": RandomFraction(fraction=0.5, seed=seed), "b": by_score(0.3)})

    assert len({group(union(seed)) for seed in range(8)}) == 1
    a, b = by_score(0.3), by_score(0.5)
    for ordered in (lambda x, y: Difference(this=x, without=y), lambda x, y: Sequence(first=x, then=y)):
        one, two = ordered(a, b), ordered(b, a)
        assert group(one) != group(two)
        labels = [label(stage.step(house.pool).lineage()) for stage in (one, two)]
        assert labels[0] != labels[1]
