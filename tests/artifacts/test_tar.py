"""The header walk lists what tarfile lists, and says when an archive is not whole."""

import inspect
import io
import os
import re
import tarfile
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset import tariterators

from dcexp.artifacts.headers import header
from dcexp.artifacts.samples import UnreadableSampleError, samples_of, uid_of
from dcexp.artifacts.tar import Members, TarReader
from tests.pools import archive, member, resummed, write_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
WINDOWS = st.integers(1, 16).map(lambda blocks: 512 * blocks)
KINDS = [tarfile.REGTYPE] * 8 + [b"\0", b"7", b"1", b"2", b"3", b"5", b"6", b"D", b"Z"]
INNER = archive(member("evil.json", b"{}"), member("evil.jpg", b"x" * 600, mtime=1.5))
LIKE_HEADERS = {
    "an archive": INNER,
    "a header": b"x" * 512 + INNER[:512],
    "an end": bytes(1024) + INNER,
    "a large one": member("big", told=8**11 - 1),
    "words": b"ustar" * 300,
}


NAMES = st.one_of(
    st.text("ab/.é_\udcff", min_size=1, max_size=12),
    st.builds(
        lambda part, length: (part * length)[:length], st.sampled_from(["ab", "d/é", "a.b/"]), st.integers(90, 270)
    ),
).map(lambda name: name.strip("/") or "a")  # tarfile takes what ends in a slash for a folder
ENTRIES = st.lists(
    st.tuples(
        NAMES,
        st.one_of(st.integers(0, 2000), st.sampled_from(sorted(LIKE_HEADERS))),
        st.sampled_from(KINDS),
        st.sampled_from(FORMATS),
        st.sampled_from([0, 7, 1234567890.5]),
        st.sampled_from(["", "", "path", "size", "comment", "global"]),
    ),
    max_size=10,
)


def built(entries):
    """An archive of such members."""
    return archive(*(put(*entry) for entry in entries))


def put(name, content, kind, format, mtime, extra):
    """One member; a pax header also tells what is ``extra``: another name, the size, something of no matter."""
    content = b"x" * content if isinstance(content, int) else LIKE_HEADERS[content]
    content = b"" if kind in b"123456" else content
    kind = (
        b"0" if len(name) > 50 else kind
    )  # tarfile takes an old file for a folder when its name, cut, ends in a slash
    if extra == "global":
        return tarfile.TarInfo.create_pax_global_header({"comment": "x"}) + member(name, content, kind, format)
    size = 700 if kind in b"123456" else len(content)  # which is told of links and folders, too, and means nothing
    if extra == "size" and format == tarfile.PAX_FORMAT:
        return member(name, content, kind, format, mtime, told=size // 3, size=str(size))
    records = {"path": {"path": f"other/{name}"}, "comment": {"comment": "7 size=7 path=evil"}}.get(extra, {})
    return member(name, content, kind, format, mtime, told=size, **records)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One file for all examples of a test."""
    return tmp_path_factory.mktemp("tar") / "a.tar"


def listed(path, window=1 << 22):
    """All members of a tar as (name, offset, size), and its damage."""
    with mock.patch("dcexp.artifacts.tar.WINDOW", window), TarReader(str(path)) as reader:
        walk = list(reader.walk())
        names = [name.decode("utf-8", "surrogateescape") for members in walk for name in members.names]
        offsets, sizes = ([n for members in walk for n in getattr(members, column)] for column in ("offsets", "sizes"))
        return list(zip(names, offsets, sizes, strict=True)), reader.damage


def by_tarfile(path):
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


@settings(max_examples=150)
@given(entries=ENTRIES, window=WINDOWS)
def test_members_are_those_of_tarfile_whatever_the_window(place, entries, window):
    place.write_bytes(built(entries))
    assert listed(place, window) == (by_tarfile(place), "")


def test_directories_and_links_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("x.txt", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    assert [name for name, _, _ in listed(tmp_path / "a.tar")[0]] == ["x.txt"]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_cut_off_anywhere_is_noticed(tmp_path, kind):
    whole = write_tar(tmp_path / "a.tar", [{"jpg": b"x" * 700, "json": b"{}"}] * 2, format=kind).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    cut = tmp_path / "cut.tar"
    for length in range(0, end + 1, 100):
        cut.write_bytes(whole[:length])
        members, damage = listed(cut)
        assert damage, length
        assert all(offset + size <= length for _, offset, size in members)
    cut.write_bytes(whole[: end + 512])
    assert listed(cut)[1] == ""


@pytest.mark.parametrize("place", [0, 1536, 2560])
def test_a_bad_header_is_noticed(tmp_path, place):
    path = write_tar(tmp_path / "a.tar", [{"jpg": b"x" * 700, "json": b"{}"}] * 2, format=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    for offset in (place + 3, place + 130, place + 150):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 0x41]) + content[offset + 1 :])
        assert "bad header" in listed(path)[1]


def test_data_behind_the_end_marker_is_noticed(tmp_path):
    path = write_tar(tmp_path / "a.tar", [{"json": b"{}"}])
    path.write_bytes(path.read_bytes()[:3072] + path.read_bytes())
    assert "behind the end marker" in listed(path)[1]


@pytest.mark.parametrize("blocks", range(22))
def test_an_archive_behind_another_is_noticed_however_long_the_first_is(place, blocks):
    one = archive(member("a.json", bytes(512 * blocks)))
    place.write_bytes(one + one)
    assert [name for name, _, _ in listed(place)[0]] == ["a.json"]
    assert "behind the end marker" in listed(place)[1]
    with TarReader(str(place)) as reader:
        assert all(members.whole for members in reader.walk()), "what is before the end marker is all there"


def sized(field, content=b"x" * 600):
    """An archive whose first member has ``field`` for its size."""
    head = member("a.jpg", content)
    head = resummed(head[:124] + field.ljust(12, b"\0") + head[136:512]) + head[512:]
    return archive(head, member("b.jpg", b"y"))


@pytest.mark.parametrize(
    "field",
    [
        b"00000001130",
        b"       1130 ",
        b"1130",
        b"1130 \0 ",
        b"\x80" + bytes(9) + b"\x02\x58",
        b"000000001130",
        b"0001130",
    ],
)
def test_a_size_may_be_told_in_many_ways(place, field):
    place.write_bytes(sized(field))
    assert listed(place) == (by_tarfile(place), "") and [size for _, _, size in listed(place)[0]] == [600, 1]


@pytest.mark.parametrize("number", [8**11 - 1, 8**12 - 1, 2**62, 2**63 - 512, 2**63, 2**64 - 1024, 2**64 + 600, 2**87])
def test_a_size_beyond_the_archive_is_a_cut(place, number):
    octal, binary = b"%011o" % number, b"\x80" + number.to_bytes(11, "big")
    place.write_bytes(sized(octal if len(octal) < 13 else binary))
    assert listed(place) == ([], f"cut off at byte {place.stat().st_size:,}, inside 'a.jpg'")
    place.write_bytes(sized(binary))
    assert listed(place) == ([], f"cut off at byte {place.stat().st_size:,}, inside 'a.jpg'")


@pytest.mark.parametrize(
    "field",
    [b"\xff" * 12, b"\xff" * 11 + b"\xfe", b"-0000000001", b"00000000009", b"0x258", b"1130\0 12", b"\x81", b"1 1"],
)
def test_a_size_that_is_none_is_a_bad_header(place, field):
    place.write_bytes(sized(field))
    assert listed(place) == ([], "bad header at byte 0")


def pax(records, kind=b"x", told=None):
    """A pax header of ``records`` as they are."""
    head = member("pax", records, kind, tarfile.USTAR_FORMAT, told=told)
    return head


@pytest.mark.parametrize(
    ("records", "damage"),
    [
        (b"11 size=-1\n", "bad pax header"),
        (b"13 size=1e02\n", "bad pax header"),
        (b"08 size=\n", "bad pax header"),
        (b"29 size=99999999999999999999\n", "cut off at byte 10,240, inside 'a.jpg'"),
        (b"4999 size=" + b"9" * 4988 + b"\n", "bad pax header"),
        (b"x size=1\n", "bad pax header"),
        (b"-9 path=evil\n", "bad pax header"),
        (b"0 path=evil\n", "bad pax header"),
        (b"99 path=evil\n", "bad pax header"),
        (b"1_4 path=evil\n", "bad pax header"),
        (b"+14 path=evil\n", "bad pax header"),
        (b"13 path=evil", "bad pax header"),
    ],
)
def test_pax_records_that_make_no_sense_are_damage(place, records, damage):
    place.write_bytes(archive(pax(records), member("a.jpg", b"x"))[:10240])
    assert listed(place) == ([], damage)


@pytest.mark.parametrize(
    "records", [b"13 path=good\n", b"014 path=good\n", b"9 mtime=\n13 path=good\n", b"12 path=bad\n13 path=good\n"]
)
def test_pax_records_have_the_last_word_over_a_name(place, records):
    place.write_bytes(archive(pax(records), member("a.jpg", b"x")))
    assert [name for name, _, _ in listed(place)[0]] == ["good"] and listed(place)[0] == by_tarfile(place)


def test_a_name_ends_at_its_first_zero(place):
    gnu = member("././@LongLink", b"b.jpg\0rest\0", b"L", tarfile.GNU_FORMAT)
    place.write_bytes(archive(gnu, member("a.jpg", b"x"), pax(b"19 path=c.jpg\0rest\n"), member("a.jpg", b"x")))
    assert [name for name, _, _ in listed(place)[0]] == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
@pytest.mark.parametrize("size", [(1 << 20) + 1, 2 << 30])
def test_an_extended_header_of_gigabytes_is_refused_unread(place, kind, size, monkeypatch):
    place.write_bytes(pax(b"", kind, told=size))
    os.truncate(place, size + 4096)
    largest, pread = 0, os.pread

    def watched(file, length, offset):
        nonlocal largest
        largest = max(largest, length)
        return pread(file, length, offset)

    monkeypatch.setattr(os, "pread", watched)
    assert listed(place, 4096) == ([], f"bad header at byte 0: an extended header of {size:,} bytes")
    assert largest <= 4096
    os.truncate(place, 0)


def test_a_megabyte_of_pax_records_takes_no_time(place):
    place.write_bytes(archive(pax(b"9 path=a\n" * 100_000), member("b", b"x")))
    assert listed(place) == ([("a", 512 + 900_096 + 512, 1)], "")


@given(name=st.text("abc-0123.", min_size=1, max_size=150), size=st.integers(0, 2**40))
def test_headers_are_what_tarfile_reads(name, size):
    block = header(name, size)
    info = tarfile.TarFile.open(fileobj=io.BytesIO(block + bytes(1024)), ignore_zeros=False).next()
    assert info is not None and (info.name, info.size, info.mtime, info.uid, info.mode) == (name, size, 0, 0, 0o644)


def keys_and_suffixes(*names):
    return [
        (s.key.decode(), list(s.members))
        for s in samples_of(
            [Members(names=[n.encode() for n in names], offsets=[0] * len(names), sizes=[0] * len(names))]
        )
    ]


def test_samples_are_runs_of_one_key():
    assert keys_and_suffixes("a.jpg", "a.JSON", "b.jpg", "a.txt") == [
        ("a", ["jpg", "json"]), ("b", ["jpg"]), ("a", ["txt"])
    ]  # fmt: skip
    assert keys_and_suffixes("d.x/a.jpg", "d.x/a.seg.png") == [("d.x/a", ["jpg", "seg.png"])]
    assert keys_and_suffixes("README", "__index__/a.txt", "a.txt") == [("a", ["txt"])]
    assert keys_and_suffixes("a.jpg", "a.jpg") == [("a", ["jpg"]), ("a", ["jpg"])]


def by_webdataset(names):
    """The same by webdataset's rules for names; but hidden files are none of its, and it dies of a second suffix."""
    skipped = inspect.signature(tariterators.tar_file_iterator).parameters["skip_meta"].default
    found = []
    for name in names:
        key, suffix = tariterators.base_plus_ext(name)
        if key is None or re.match(skipped, name) or name.rpartition("/")[2].startswith("."):
            continue
        if not found or found[-1][0] != key or suffix.lower() in found[-1][1]:
            found.append((key, []))
        found[-1][1].append(suffix.lower())
    return found


@settings(max_examples=400)
@given(
    names=st.lists(st.one_of(st.text("aB_./", min_size=1, max_size=6), st.sampled_from(["a", "__a.__"])), max_size=9)
)
@example(names=["b.__", "__a.jpg", "__a.__", "__a.json"])
@example(names=["b.", "a.jpg", "a", "a.json"])
def test_samples_are_those_of_webdataset(names):
    assert keys_and_suffixes(*names) == by_webdataset(names)


def test_a_sample_at_a_break_is_one_if_it_lacks_nothing_that_the_one_before_it_has():
    def found(*names):
        walk = [Members(names=[name], offsets=[0], sizes=[0]) for name in names]
        return [(s.key.decode(), list(s.members)) for s in samples_of([*walk, Members(whole=False)])]

    assert found(b"a.jpg", b"a.txt", b"b.jpg") == [("a", ["jpg", "txt"])]
    assert found(b"a.jpg", b"a.txt", b"b.txt", b"b.jpg") == [("a", ["jpg", "txt"]), ("b", ["txt", "jpg"])]
    assert found(b"a.jpg", b"b.jpg", b"b.txt") == [("a", ["jpg"]), ("b", ["jpg", "txt"])]
    assert found(b"a.jpg", b"b.jpg", b"b.txt", b"c.jpg") == [("a", ["jpg"]), ("b", ["jpg", "txt"])]
    assert found(b"a.jpg", b"a.txt") == []
    assert found() == []


def test_uid_of_a_sample():
    uid = "0123456789abcdefABCDEF0000000000"
    assert uid_of({"uid": uid}, "t.tar", b"k", derived=False) == bytes.fromhex(uid)
    assert uid_of({"uid": "ab"}, "t.tar", b"k", derived=False) == bytes(15) + b"\xab"
    assert uid_of({"uid": "ab"}, "t.tar", b"k", derived=True) == uid_of({}, "t.tar", b"k", derived=True)
    for info in ({}, {"uid": 7}, {"uid": ""}, {"uid": "1" * 33}, {"uid": " " * 32}):
        with pytest.raises(UnreadableSampleError):
            uid_of(info, "t.tar", b"k", derived=False)
        derived = uid_of(info, "t.tar", b"k", derived=True)
        assert derived == uid_of({}, "t.tar", b"k", derived=True) and len(derived) == 16
    assert uid_of({}, "t.tar", b"k", derived=True) != uid_of({}, "u.tar", b"k", derived=True)
