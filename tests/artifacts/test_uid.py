"""Uids: text and pairs of u64 say the same, sorting and searching agree with plain Python."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcexp.artifacts.lookup import count_in, find_in
from dcexp.artifacts.uid import (
    UID,
    count_short,
    firsts,
    format_uid,
    is_sorted,
    parse_uids,
    sort_uids,
)
from tests.pools import as_pairs

# Few distinct halves, so that halves and whole uids come twice, beside arbitrary ones.
HALVES = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
PAIRS = st.lists(st.tuples(HALVES, HALVES), max_size=60)


def array(pairs):
    return np.array(pairs, dtype=UID)


@given(PAIRS)
def test_text_and_back(pairs):
    text = [f"{high:016x}{low:016x}" for high, low in pairs]
    uids = parse_uids(text)
    assert uids.dtype == UID and as_pairs(uids) == pairs
    assert [format_uid(uid) for uid in uids] == text
    assert as_pairs(parse_uids([t.upper() for t in text])) == pairs


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_text_column_of_arrow(kind):
    text = [f"{i:032x}" for i in range(9)]
    chunks = pa.chunked_array([pa.array(text[:4], kind), pa.array(text[2:], kind)[2:], pa.array([], kind)])
    assert as_pairs(parse_uids(chunks)) == [(0, i) for i in range(9)]


@pytest.mark.parametrize("bad", ["", "xyz", "g" * 32, "g" * 31, "-1", "0x1f", "0" * 33, " " * 32, "é" * 16, None])
def test_what_is_no_uid_is_refused_with_its_row(bad):
    with pytest.raises(ValueError, match=r"32 hexadecimal digits; row 3 holds") as error:
        parse_uids(["0" * 32, "1" * 32, "2" * 32, bad])
    assert repr(bad) in str(error.value)
    column = pa.chunked_array([["0" * 32, "1" * 32, "2" * 32], [bad]], pa.string())
    with pytest.raises(ValueError, match=r"row 3 holds"):
        parse_uids(column)


def test_missing_leading_zeros_are_put_back():
    short = [f"{i:x}" for i in (0, 10, 2**64 + 5, 2**127)]
    assert as_pairs(parse_uids(short)) == [(0, 0), (0, 10), (1, 5), (2**63, 0)]
    assert count_short(pa.array(short)) == 3 and count_short(pa.array(["0" * 32])) == 0


def test_a_column_of_numbers_or_structs_is_refused():
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse_uids(pa.array([12]))
    with pytest.raises(ValueError, match="holds struct"):
        parse_uids(pa.array([{"a": 1}]))


@given(PAIRS)
def test_sorting(pairs):
    ordered = sort_uids(array(pairs))
    assert as_pairs(ordered) == sorted(pairs)
    assert is_sorted(ordered)
    assert is_sorted(array(pairs)) == (pairs == sorted(pairs))
    assert as_pairs(ordered[firsts(ordered)]) == sorted(set(pairs))


@given(PAIRS, PAIRS)
def test_searching(wanted, others):
    queries, counts = wanted + others, Counter(wanted)
    positions, found = find_in(sort_uids(array(wanted)), array(queries))
    assert found.tolist() == count_in(sort_uids(array(wanted)), array(queries)).tolist()
    assert found.tolist() == [counts[q] for q in queries]
    assert all(p == sorted(wanted).index(q) for p, q, n in zip(positions.tolist(), queries, found, strict=True) if n)


def test_searching_few_in_many_reads_a_memory_map(tmp_path):
    pairs = sorted((i // 7, i % 5) for i in range(3000))
    np.save(tmp_path / "a.npy", array(pairs))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    queries = [(0, 0), (3, 4), (428, 1), (10**6, 0), (5, 9)]
    assert count_in(mapped, array(queries)).tolist() == [pairs.count(q) for q in queries]


def test_is_sorted_looks_across_blocks(monkeypatch):
    monkeypatch.setattr("dcexp.artifacts.uid._BLOCK", 4)
    good = array([(0, i) for i in range(20)])
    assert is_sorted(good)
    for place in range(20):
        bad = good.copy()
        bad[place] = (0, 100) if place < 19 else (0, 0)
        assert not is_sorted(bad), place
