"""A shard is what tarfile would write, to the byte; or there is none, and it is said why."""

import io
import json
import os
import tarfile
import tracemalloc
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts import entries as entries_module
from dcexp.artifacts.entries import entries_of
from dcexp.artifacts.headers import LARGEST_SIZE, header, headers
from dcexp.artifacts.locations import locate
from dcexp.artifacts.tarball import write_tarball
from tests.pools import archive, hex_uids, member

LONG = ["x" * 63, "x" * 64, "ü" * 32, "y" * 300, "y.ü" * 200, "z" * 2000]
SUFFIXES = ["jpg", "json", "txt", "a", "seg.png", "ü.png", "\udcff", "x" * 62, *LONG]
SIZES = [0, 1, 511, 512, 513, 1024, 3000, 9000]


def content_of(size, seed):
    return np.random.default_rng((size, seed)).bytes(size)


def pool(folder, tars):
    """Tars of such samples, which are contents by suffix, and all that :func:`entries_of` wants to know of them."""
    located = []
    for number, samples in enumerate(tars):
        members = [
            member(f"{i:04d}.{suffix}", content, format=tarfile.PAX_FORMAT)
            for i, (uid, found) in enumerate(samples)
            for suffix, content in {**found, "json": json.dumps({"uid": uid}).encode()}.items()
        ]
        (folder / f"{number}.tar").write_bytes(archive(*members))
        located.append(locate(str(folder / f"{number}.tar"), derived=False))
    return [tar for tar, _ in located], [columns for _, columns in located]


def slow_header(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    short = len(name.encode("utf-8", "surrogateescape")) <= 100
    return info.tobuf(tarfile.USTAR_FORMAT if short else tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def slow_shard(samples):
    """The shard of samples (uid, copy, contents by suffix)."""
    return archive(*(
        slow_header(f"{uid}-{copy}.{suffix}", len(found[suffix])) + found[suffix] + bytes(-len(found[suffix]) % 512)
        for uid, copy, found in samples
        for suffix in sorted(found)
    ))  # fmt: skip


TARS = st.lists(
    st.lists(st.dictionaries(st.sampled_from(SUFFIXES), st.sampled_from(SIZES), max_size=4), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)


def filled(tars):
    """Samples with contents in place of sizes: (uid, contents by suffix)."""
    uids = iter(hex_uids(12))
    return [
        [
            (next(uids), {suffix: content_of(size, i) for i, (suffix, size) in enumerate(sample.items())})
            for sample in tar
        ]
        for tar in tars
    ]


@settings(max_examples=80)
@given(tars=TARS, choice=st.data(), chunk=st.integers(1, 40), more=st.integers(0, 40))
def test_a_shard_is_what_tarfile_would_write(tmp_path_factory, tars, choice, chunk, more):
    folder, tars = tmp_path_factory.mktemp("tarball"), filled(tars)
    known, located = pool(folder, tars)
    places = [(number, row) for number, samples in enumerate(tars) for row in range(len(samples))]
    copies = st.sampled_from([0, 1, 2, 10, 99_999, 2**31 - 1])
    rows = choice.draw(
        st.lists(st.builds(lambda place, copy: (*place, copy), st.sampled_from(places), copies), min_size=1)
    )
    entries = entries_of(known, located, np.array(rows, np.int32))
    samples = []
    for number, row, copy in rows:
        uid, found = tars[number][row]
        samples.append((uid, copy, {**found, "json": json.dumps({"uid": uid}).encode()}))
    with mock.patch.multiple("dcexp.artifacts.tarball", CHUNK=chunk, _LARGE=chunk + more):
        entry = write_tarball(str(folder / "out.tar"), [(entries, {})])
    written = (folder / "out.tar").read_bytes()
    assert written == slow_shard(samples)
    assert entry == {"bytes": len(written), "xxh128": xxhash.xxh3_128_hexdigest(written)}
    names = [f"{uid}-{copy}.{suffix}" for uid, copy, found in samples for suffix in sorted(found)]
    with tarfile.open(fileobj=io.BytesIO(written), encoding="utf-8", errors="surrogateescape") as tar:
        assert tar.getnames() == names


@pytest.fixture
def four(tmp_path):
    """Two samples in each of two tars, one of them large: as they are to be written, and their entries."""
    tars = filled([[{"jpg": 3000, "txt": 10}, {"jpg": 40_000, "x" * 70: 5}], [{"txt": 0}, {"jpg": 513}]])
    known, located = pool(tmp_path, tars)
    rows = np.array([(0, 0, 0), (1, 1, 0), (0, 1, 3), (1, 0, 0)], np.int32)
    samples = []
    for number, row, copy in rows.tolist():
        uid, found = tars[number][row]
        samples.append((uid, copy, {**found, "json": json.dumps({"uid": uid}).encode()}))
    return samples, entries_of(known, located, rows)


def written(folder, parts, chunk=4 << 11, large=32 << 11):
    """The bytes of a shard of some parts."""
    with mock.patch.multiple("dcexp.artifacts.tarball", CHUNK=chunk, _LARGE=large):
        write_tarball(str(folder / "out.tar"), parts)
    return (folder / "out.tar").read_bytes()


def test_webdataset_reads_a_shard(tmp_path, four):
    import webdataset as wds

    samples, entries = four
    written(tmp_path, [(entries, {})])
    found = list(wds.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False))
    assert [s["__key__"] for s in found] == [f"{uid}-{copy}" for uid, copy, _ in samples]
    for one, (_, _, members) in zip(found, samples, strict=True):
        assert {suffix: content for suffix, content in one.items() if not suffix.startswith("__")} == members


def test_parts_stand_one_behind_the_other(tmp_path, four):
    samples, entries = four
    parts = [entries.part(0, 1), entries.part(1, 1), entries.part(1, 4)]
    assert written(tmp_path, [(part, {}) for part in parts]) == slow_shard(samples)


@pytest.mark.parametrize("parts", [0, 1])
def test_a_shard_of_nothing_is_an_archive(tmp_path, four, parts):
    assert written(tmp_path, [(four[1].part(2, 2), {})] * parts) == bytes(10240)


@pytest.mark.parametrize(("chunk", "large"), [(4 << 11, 32 << 11), (8, 8), (8, 40), (1, 1)])
def test_given_contents_stand_in_place_of_what_is_in_the_tars(tmp_path, four, chunk, large):
    samples, entries = four
    contents = {0: b"", 1: b"x" * 5000, 4: b"y" * 511, 6: b"z"}
    sizes = entries.sizes.copy()
    for i, content in contents.items():
        sizes[i] = len(content)
    names = [entries.names[i] for i in entries.suffixes]
    of = np.repeat(np.arange(4), entries.ends - entries.starts)
    for i, content in contents.items():
        samples[of[i]][2][names[i]] = content
    assert written(tmp_path, [(replace(entries, sizes=sizes), contents)], chunk, large) == slow_shard(samples)


def test_a_member_is_written_before_the_one_that_stands_before_it_in_the_tar(tmp_path):
    tars = filled([[dict.fromkeys(["z", "b", "a", "zz", "y"], 600)]])
    rows = np.array([(0, 0, 0)], np.int32)
    uid, found = tars[0][0]
    found = {**found, "json": json.dumps({"uid": uid}).encode()}
    for chunk in (1, 100):
        assert written(tmp_path, [(entries_of(*pool(tmp_path, tars), rows), {})], chunk, chunk) == slow_shard(
            [(uid, 0, found)]
        )


def test_a_sample_may_have_more_members_than_one_call_reads(tmp_path):
    tars = filled([[{f"{i:04d}": i for i in range(1500)}]])
    rows = np.array([(0, 0, 0), (0, 0, 1)], np.int32)
    uid, found = tars[0][0]
    found = {**found, "json": json.dumps({"uid": uid}).encode()}
    entries = entries_of(*pool(tmp_path, tars), rows)
    assert written(tmp_path, [(entries, {})]) == slow_shard([(uid, copy, found) for copy in (0, 1)])


def test_members_far_from_each_other_are_found(tmp_path):
    """A member that belongs to no sample, larger than what is read and thrown away, between those of one."""
    uid = hex_uids(1)[0]
    found = {"jpg": b"image", "json": json.dumps({"uid": uid}).encode()}
    (tmp_path / "0.tar").write_bytes(
        archive(member("0.jpg", found["jpg"]), member("README", bytes(200_000)), member("0.json", found["json"]))
    )
    tar, columns = locate(str(tmp_path / "0.tar"), derived=False)
    entries = entries_of([tar], [columns], np.array([(0, 0, 0)], np.int32))
    assert written(tmp_path, [(entries, {})]) == slow_shard([(uid, 0, found)])


def test_reads_that_give_less_than_asked_for_are_gone_on_with(tmp_path, four, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, views, at: preadv(file, [next(v for v in views if len(v))[:700]], at)
    )
    samples, entries = four
    assert written(tmp_path, [(entries, {})]) == written(tmp_path, [(entries, {})], 4, 4) == slow_shard(samples)


@pytest.mark.parametrize("chunk", [4 << 11, 1])
def test_a_tar_that_has_changed_is_refused(tmp_path, four, chunk):
    os.utime(tmp_path / "1.tar", (1, 1))
    with pytest.raises(ValueError, match=r"1\.tar has changed since its samples were found; find them anew: rebuild="):
        written(tmp_path, [(four[1], {})], chunk, chunk)
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("chunk", [4 << 11, 1])
def test_a_tar_that_is_gone_is_refused(tmp_path, four, chunk):
    (tmp_path / "1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.tar is gone. Put it back, or find the samples anew: rebuild="):
        written(tmp_path, [(four[1], {})], chunk, chunk)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar"]


@pytest.mark.parametrize("chunk", [4 << 11, 1])
@pytest.mark.parametrize("length", [0, 1000, 42_000])
def test_a_tar_that_shrinks_while_it_is_read_is_refused(tmp_path, four, chunk, length, monkeypatch):
    open_place = entries_module.open_place

    def opened(place):
        file = open_place(place)
        if place.endswith("0.tar"):
            os.truncate(place, length)
        return file

    monkeypatch.setattr(entries_module, "open_place", opened)
    with pytest.raises(OSError, match=r"0\.tar has become shorter while it was read"):
        written(tmp_path, [(four[1], {})], chunk, chunk)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "1.tar"]


@given(
    names=st.lists(st.text("aé-0.\udcff", max_size=100).filter(lambda n: len(slow_name(n)) <= 100), min_size=1),
    sizes=st.data(),
)
def test_headers_are_those_of_tarfile(names, sizes):
    sizes = [sizes.draw(st.integers(0, LARGEST_SIZE)) for _ in names]
    raw = [slow_name(name) for name in names]
    columns = np.frombuffer(b"".join(name.ljust(100, b"\0") for name in raw), np.uint8).reshape(-1, 100)
    columns = columns[:, : max(map(len, raw))]
    expected = [slow_header(name, size) for name, size in zip(names, sizes, strict=True)]
    assert [block.tobytes() for block in headers(columns, np.array(sizes))] == expected


def slow_name(name):
    return name.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("size", [0, LARGEST_SIZE, LARGEST_SIZE + 1, 2**40])
@pytest.mark.parametrize("name", ["a.jpg", "x" * 101, "ü" * 51, "y" * 3000, "\udcff" * 101])
def test_a_header_of_any_size_and_name_is_read_by_tarfile(name, size):
    head = header(name, size)
    info = tarfile.TarInfo.frombuf(head[-512:], "utf-8", "surrogateescape")
    with tarfile.open(fileobj=io.BytesIO(head + bytes(1024)), encoding="utf-8", errors="surrogateescape") as tar:
        first = tar.firstmember
    assert first is not None and (first.name, first.size, first.mtime, first.mode) == (name, size, 0, 0o644)
    assert len(head) % 512 == 0 and info.isreg()


def test_a_suffix_of_a_megabyte_costs_no_more_than_itself(tmp_path):
    """As many samples as a shard has, one of them with a name that only a hostile tar has."""
    tars = filled([[{"x" * 900_000: 1}]])
    uids = hex_uids(2000, seed=4)
    tars[0] += [(uid, {"txt": b"1"}) for uid in uids]
    entries = entries_of(*pool(tmp_path, tars), np.array([(0, row, 0) for row in range(2001)], np.int32))
    tracemalloc.start()
    written(tmp_path, [(entries, {})])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
