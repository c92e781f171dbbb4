"""The header walk lists what tarfile lists, and says when an archive is not whole."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.headers import header
from dcexp.artifacts.samples import UnreadableSampleError, samples_of, uid_of
from dcexp.artifacts.tar import Members, TarReader
from tests.pools import write_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def listed(path):
    """All members of a tar as (name, offset, size), and its damage."""
    with TarReader(str(path)) as reader:
        walk = list(reader.walk())
        names = [name.decode("utf-8", "surrogateescape") for members in walk for name in members.names]
        offsets, sizes = ([n for members in walk for n in getattr(members, column)] for column in ("offsets", "sizes"))
        return list(zip(names, offsets, sizes, strict=True)), reader.damage


def by_tarfile(path):
    with tarfile.open(path) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.text("ab/.é_", min_size=1, max_size=90).filter(lambda n: n.strip("/")), max_size=8),
    size=st.integers(0, 2000),
    kind=st.sampled_from(FORMATS[1:]),
)
def test_members_are_those_of_tarfile(tmp_path_factory, names, size, kind):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(path, "w", format=kind) as tar:
        for name in names:
            info = tarfile.TarInfo(name.strip("/") * 2)
            info.size, info.mtime = size, 12.5
            tar.addfile(info, io.BytesIO(bytes(size)))
    assert listed(path) == (by_tarfile(path), "")


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
