"""In which order copies are written, and where shards end: rules that hold for every input."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcexp.reshard.arrange import arranged, cut

COUNTS = st.one_of(st.lists(st.integers(1, 6), max_size=12), st.lists(st.sampled_from([1, 1, 1, 9, 30]), max_size=40))
SEEDS = st.one_of(st.none(), st.integers(0, 2**63))


def pairs(counts, seed=None):
    """The arranged copies, as (sample, copy)."""
    samples, copies = arranged(np.array(counts, np.int64), seed)
    return list(zip(samples.tolist(), copies.tolist(), strict=True))


def as_wanted(counts):
    return [(sample, copy) for sample, count in enumerate(counts) for copy in range(count)]


@given(counts=COUNTS, seed=SEEDS)
def test_every_copy_is_there_once(counts, seed):
    assert sorted(pairs(counts, seed)) == as_wanted(counts)


@given(samples=st.integers(0, 50))
def test_without_repeats_and_seed_samples_keep_their_order(samples):
    assert pairs([1] * samples) == [(sample, 0) for sample in range(samples)]


@pytest.mark.parametrize("counts", [[1] * 50, [3] * 50, [1, 2, 3, 4] * 20])
def test_a_seed_decides_the_order(counts):
    one, again, other = pairs(counts, 7), pairs(counts, 7), pairs(counts, 8)
    assert one == again != other
    assert [sample for sample, _ in one] != [sample for sample, _ in other]
    assert one != pairs(counts)


@settings(max_examples=300)
@given(counts=COUNTS, seed=SEEDS, extra=st.integers(0, 20))
@example(counts=[3, 2], seed=None, extra=0)
@example(counts=[2, 2], seed=None, extra=0)
@example(counts=[1] * 9, seed=None, extra=10)
def test_no_copies_of_one_sample_are_neighbours_where_that_can_be(counts, seed, extra):
    rest = sum(counts)
    counts = [*counts, min(rest + 1, extra)] if extra and rest else counts  # one sample more that fills half of it all
    order = [sample for sample, _ in pairs(counts, seed)]
    if max(counts, default=0) <= (len(order) + 1) // 2:
        assert all(one != other for one, other in pairwise(order))


@pytest.mark.parametrize("seed", [None, 3])
def test_where_one_sample_is_most_of_all_it_still_comes_to_an_end(seed):
    assert sorted(pairs([50, 1, 2], seed)) == as_wanted([50, 1, 2])


@settings(max_examples=30)
@given(
    kinds=st.lists(st.tuples(st.sampled_from([1, 2, 3, 5, 8]), st.integers(300, 900)), min_size=1, max_size=4),
    seed=SEEDS,
)
def test_copies_are_spread_over_all_there_is(kinds, seed):
    counts = [count for count, samples in kinds for _ in range(samples)]
    counts = np.random.default_rng(len(counts)).permutation(counts).tolist()
    places = [[0] * count for count in counts]
    for place, (sample, copy) in enumerate(pairs(counts, seed)):
        places[sample][copy] = place
    total = sum(counts)
    for count, its in zip(counts, places, strict=True):
        gaps = [(b - a) % total or total for a, b in pairwise([*its, its[0]])]
        assert sum(gaps) == total, "one copy behind the other, once around"
        assert min(gaps) >= total / count / 4 and max(gaps) <= total / count * 2


def slow_cut(sizes, most, most_bytes):
    """Rows into shards, each as many as fit."""
    shards = []
    for row, size in enumerate(sizes):
        last = shards[-1] if shards else None
        if last is None or len(last) == most or sum(sizes[i] for i in last) + size > most_bytes:
            shards.append([])
        shards[-1].append(row)
    return shards


@settings(max_examples=300)
@given(
    parts=st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 512, 10**10]), max_size=9), max_size=5),
    most=st.integers(1, 12),
    most_bytes=st.sampled_from([1, 2, 7, 16, 600, 3 * 10**10]),
)
def test_shards_take_all_that_fits_wherever_parts_begin(parts, most, most_bytes):
    sizes = [size for part in parts for size in part]
    shards = [rows[:, 1].tolist() for rows in cut(as_parts(parts), most, most_bytes)]
    assert shards == slow_cut(sizes, most, most_bytes)
    assert shards == [rows[:, 1].tolist() for rows in cut(as_parts([sizes]), most, most_bytes)]
    for shard in shards:
        assert len(shard) <= most and (len(shard) == 1 or sum(sizes[row] for row in shard) <= most_bytes)


def as_parts(parts):
    """Sizes as parts of rows (a number of the part, a number of the row)."""
    row = 0
    for number, part in enumerate(parts):
        rows = np.array([[number, row + i] for i in range(len(part))], np.int32).reshape(-1, 2)
        row += len(part)
        yield rows, np.array(part, np.int64)
