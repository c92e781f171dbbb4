"""Random subsets, lists of uids, and sets of what other filters keep."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import format_uid, parse_uids
from dcexp.filters.algebra import Union
from dcexp.filters.base import Filter
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.intersection import Intersection
from dcexp.filters.none import NoFilter
from dcexp.filters.random import RandomFraction, hashed
from dcexp.filters.uids import UidList
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, as_pairs, hex_uids, indexed, selected, write_parquet, write_pool


@pytest.fixture
def pool(tmp_path):
    write_pool(tmp_path / "pool", parts=(60, 40), features=False)
    return indexed(tmp_path / "pool", tmp_path / "index")


@pytest.fixture
def uids(pool):
    return [format_uid(uid) for part in pool.parts for uid in part.uids()]


def kept(stage, pool, out):
    subset, _ = selected(stage, pool, out)
    return [format_uid(uid) for uid in subset.uids()]


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 1), (0.3, 30), (0.559, 55), (1, 100)])
def test_a_random_subset_has_its_size(pool, tmp_path, fraction, size):
    chosen = kept(RandomFraction(fraction=fraction), pool, tmp_path / "out")
    assert len(chosen) == len(set(chosen)) == size


def test_a_random_subset_depends_on_seed_and_uids_alone(pool, uids, tmp_path):
    chosen = kept(RandomFraction(fraction=0.3), pool, tmp_path / "a")
    assert chosen != kept(RandomFraction(fraction=0.3, seed=1), pool, tmp_path / "b")
    write_parquet(tmp_path / "other" / "metadata" / "0.parquet", uids[::-1])
    assert chosen == kept(RandomFraction(fraction=0.3), indexed(tmp_path / "other", tmp_path / "i"), tmp_path / "c")
    assert set(chosen) <= set(kept(RandomFraction(fraction=0.5), pool, tmp_path / "d"))


def test_random_numbers_are_uniform_for_any_uids():
    for uids in (
        parse_uids([f"{i:032x}" for i in range(20000)]),
        parse_uids([f"{i:016x}" + "0" * 16 for i in range(20000)]),
    ):
        share = np.histogram(hashed(uids, 0).astype(float) / 2**64, bins=10, range=(0, 1))[0] / 20000
        assert np.abs(share - 0.1).max() < 0.01
        assert np.abs(np.corrcoef(hashed(uids, 0).astype(float), hashed(uids, 1).astype(float))[0, 1]) < 0.03


def test_a_uid_in_two_rows_can_be_drawn_at_the_edge(tmp_path):
    twice = hex_uids(1) * 4
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", twice[:2])
    write_parquet(tmp_path / "p" / "metadata" / "1.parquet", twice[2:])
    assert len(kept(RandomFraction(fraction=0.75), indexed(tmp_path / "p", tmp_path / "i"), tmp_path / "out")) == 1


def test_a_random_subset_of_nothing_is_refused(pool, tmp_path):
    with pytest.raises(ValueError, match=r"keeps 0 of 100 samples; raise filter.fraction"):
        selected(RandomFraction(fraction=0.001), pool, tmp_path / "out")
    with pytest.raises(ValueError, match="at most 1"):
        RandomFraction(fraction=30)


def as_npy(path, uids):
    np.save(path, np.sort(parse_uids(uids)))


def as_parquet(path, uids):
    pq.write_table(pa.table({"score": range(len(uids)), "uid": uids}), path)


def as_text(path, uids):
    path.write_text("\n".join(uids) + "\n\n")


@pytest.mark.parametrize(("name", "write"), [("a.npy", as_npy), ("a.parquet", as_parquet), ("a.txt", as_text)])
def test_a_list_in_every_format_with_repeats(pool, uids, tmp_path, name, write):
    listed = [uids[5], uids[80], uids[5]]
    write(tmp_path / name, listed)
    subset, summary = selected(UidList(path=str(tmp_path / name)), pool, tmp_path / "out")
    assert as_pairs(subset.uids()) == sorted(as_pairs(listed))
    assert (summary.counts.kept, summary.counts.dropped) == (2, 98)
    assert summary.facts.items() >= {"listed": 3, "listed_distinct": 2, "taken": 3, "distinct": 2}.items()
    assert summary.facts["repeats"] == {"1": 1, "2": 1}


def test_foreign_uids_are_refused_with_examples_or_dropped(pool, uids, tmp_path):
    foreign = hex_uids(4, seed=77)
    as_text(tmp_path / "a.txt", [*uids[:6], uids[0], *foreign, foreign[0]])
    with pytest.raises(ValueError, match=r"4 of 10 uids are not in the pool .*\(100 samples\), among them") as error:
        selected(UidList(path=str(tmp_path / "a.txt")), pool, tmp_path / "out")
    assert sum(uid in str(error.value) for uid in foreign) == 3 and "filter.foreign=drop" in str(error.value)
    subset, summary = selected(UidList(path=str(tmp_path / "a.txt"), foreign="drop"), pool, tmp_path / "out")
    assert as_pairs(subset.uids()) == sorted(as_pairs([*uids[:6], uids[0]]))
    assert (summary.counts.kept, summary.counts.missing, summary.counts.total) == (6, 4, 104)


def test_a_list_for_another_pool_is_refused_in_any_case(pool, tmp_path):
    as_text(tmp_path / "a.txt", hex_uids(3, seed=77))
    with pytest.raises(ValueError, match=r"3 of 3 uids are not in the pool.*Is it a list for another pool\?"):
        selected(UidList(path=str(tmp_path / "a.txt"), foreign="drop"), pool, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"zz\n", "a.txt: a uid is 32 hexadecimal digits; row 0 holds 'zz'"),
        ("a.txt", b"", "a.txt lists no uids"),
        ("a.bin", b"\xff\xfe\x00", "a.bin is not text"),
        ("a.parquet", b"PAR1", "a.parquet: not a readable parquet file"),
        ("a.npy", b"", "a.npy is not a readable .npy file"),
    ],
)
def test_what_is_no_list_is_refused(pool, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        selected(UidList(path=str(tmp_path / name)), pool, tmp_path / "out")


def test_an_unsorted_list_of_upstreams_is_refused(pool, uids, tmp_path):
    np.save(tmp_path / "a.npy", parse_uids(sorted(uids, reverse=True)))
    with pytest.raises(ValueError, match="not in lexicographic order; sort them"):
        selected(UidList(path=str(tmp_path / "a.npy")), pool, tmp_path / "out")


def test_a_parquet_without_uids_is_refused(pool, tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: no column 'uid'; it has: id"):
        selected(UidList(path=str(tmp_path / "a.parquet")), pool, tmp_path / "out")


def test_a_list_is_known_by_its_content(uids, tmp_path):
    pool = CommonPool(root=str(tmp_path / "pool")).step()
    stage = UidList(path=str(tmp_path / "a.txt"))
    with pytest.raises(FileNotFoundError, match=r"filter.path=.*no such file.*one uid per line"):
        stage.check(ONE, **stage.step(pool).values)
    assert stage.step(pool).values == {"content": "missing"}
    as_text(tmp_path / "a.txt", uids[:3])
    as_text(tmp_path / "b.txt", uids[:3])
    key = stage.step(pool).key
    assert key == UidList(path=str(tmp_path / "b.txt")).step(pool).key
    as_text(tmp_path / "a.txt", uids[:4])
    assert key != stage.step(pool).key


@pytest.fixture
def built(pool, uids, tmp_path):
    """Build a filter of the pool in a store, and return its uids and summary."""
    source, store = CommonPool(root=str(tmp_path / "pool")).step(), Store(root=str(tmp_path / "store"))

    def build(stage):
        subset = store.build(stage.step(source), ONE)
        assert isinstance(subset, Subset)
        return [format_uid(uid) for uid in subset.uids()], subset.summary

    return build


CLIP, RANDOM = ClipScoreFraction(fraction=0.4), RandomFraction(fraction=0.5)


def test_intersection_and_union_are_those_of_sets(built, uids, tmp_path):
    as_text(tmp_path / "a.txt", uids[:50] * 2)
    parts = {"a": CLIP, "b": RANDOM, "c": UidList(path=str(tmp_path / "a.txt"))}
    sets = [set(built(part)[0]) for part in parts.values()]
    both, summary = built(Intersection(of=parts))
    assert both == sorted(set.intersection(*sets)) and summary["counts"]["kept"] == len(both)
    assert sorted(summary["parts"].values()) == sorted([*map(len, sets[:2]), 100])
    assert built(Union(of=parts))[0] == sorted(set.union(*sets))
    nested = Union(of={"x": Intersection(of={"a": CLIP, "b": RANDOM}), "y": NoFilter()})
    assert built(nested)[0] == sorted(uids)


def test_names_and_order_of_parts_do_not_matter(tmp_path):
    pool = CommonPool(root=str(tmp_path)).step()
    step = Intersection(of={"a": CLIP, "b": RANDOM}).step(pool)
    other = Intersection(of={"pool": RANDOM, "out": CLIP}).step(pool)
    assert (step.key, step.name) == (other.key, other.name)
    assert step.key != Union(of={"a": CLIP, "b": RANDOM}).step(pool).key
    assert step.key != Intersection(of={"a": CLIP, "b": NoFilter()}).step(pool).key
    assert {CLIP.step(pool).key, RANDOM.step(pool).key, pool.key} == {s.key for s in step.steps.values()}


def test_one_part_is_refused_and_so_is_nothing_in_common(built, uids, tmp_path):
    none: dict[str, Filter] = {}
    one: dict[str, Filter] = {"a": CLIP}
    for of in (none, one):
        with pytest.raises(
            ValueError, match=r"Intersection needs two filters or more.*\+filter@filter.of.a=clip_score"
        ):
            Intersection(of=of)
    as_text(tmp_path / "a.txt", uids[:1])
    as_text(tmp_path / "b.txt", uids[1:2])
    apart: dict[str, Filter] = {name: UidList(path=str(tmp_path / f"{name}.txt")) for name in "ab"}
    with pytest.raises(
        ValueError, match=r"intersection-.* kept 0 of 100 samples; 99 dropped by uid_list-.*, 1 dropped by uid_list-"
    ):
        built(Intersection(of=apart))
