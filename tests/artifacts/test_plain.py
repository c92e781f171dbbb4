"""Headers taken many at a time are those that would have been taken one by one."""

import tarfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.plain import Run, plain_members
from tests.artifacts.test_tar import ENTRIES, INNER, WINDOWS, built, listed
from tests.pools import archive, member, overwritten, resummed

BLOCK = 512
FIELDS = [
    (0, b"\0"), (3, b"\0z"), (50, b"x" * 50), (0, b"\xff"),
    (124, b"00000000010 "), (124, b"        700\0"), (124, b"00000000009\0"), (124, b"7" * 11), (124, b"7" * 12),
    (124, b"\x80" + bytes(10) + b"\x20"), (124, b"\xff" * 12), (124, bytes(12)), (124, b"00000002000"), (135, b"3"),
    (135, b"x"), (156, b"\0"), (156, b"L"), (156, b"x"), (156, b"g"), (156, b"5"), (156, b"Z"),
    (257, b"ustar  \0"), (257, b"Ustar"), (345, b"some/folder"),
]  # fmt: skip
SUMS = [b"%06o\0 "] * 6 + [b"%07o\0", b"%6o\0 ", b"%06o  ", b"%06o \0", b"%08o"]


def flip(content, at, by):
    """Change one byte."""
    at %= len(content)
    return overwritten(content, at, bytes([content[at] ^ by]))


def change(content, at, field, form):
    """Change a field of a header, and its checksum with it."""
    at = headers_of(content)[at % len(headers_of(content))]
    head = resummed(overwritten(content[at : at + BLOCK].ljust(BLOCK, b"\0"), *field))
    return overwritten(content, at, overwritten(head, 148, form % int(head[148:154], 8)))


def tell(content, at, size, beside, filling):
    """Put a pax header before a member. Its record begins with its length, the first digit ``beside`` what it was."""
    at = headers_of(content)[at % len(headers_of(content))]
    tens, ones = size // 10 + beside, size % 10 - 10 * beside
    record = bytes([(ord("0") + tens) % 256, (ord("0") + ones) % 256]) + b" mtime=" + filling
    record = record[:size].ljust(size, b"\n")
    return content[:at] + member("pax", record, b"x", tarfile.USTAR_FORMAT) + content[at:]


def cut(content, at):
    """Leave out the rest."""
    return content[: at % len(content)]


def move(content, at, copies):
    """Leave out a block, or have it twice."""
    at = at % len(content) // BLOCK * BLOCK
    return content[:at] + content[at : at + BLOCK] * copies + content[at + BLOCK :]


def headers_of(content):
    """Where there are headers, and where it looks as if there were."""
    return [at for at in range(0, len(content), BLOCK) if content[at + 257 : at + 262] == b"ustar"] or [0]


AT = st.integers(0, 1 << 20)
FILLINGS = [b"1.5\n", b"1 path=evil.jpg\n", b"1 size=7\n", b"1\n12 size=100\n", b"1\n16 path=evil.c\n", b""]
SPOILS = st.lists(
    st.one_of(
        st.tuples(st.just(flip), AT, st.integers(1, 255)),
        st.tuples(st.just(change), AT, st.sampled_from(FIELDS), st.sampled_from(SUMS)),
        st.tuples(
            st.just(tell), AT, st.integers(9, 40), st.sampled_from([0, 0, 0, -4, -1, 1, 3]), st.sampled_from(FILLINGS)
        ),
        st.tuples(st.just(cut), AT),
        st.tuples(st.just(move), AT, st.sampled_from([0, 2])),
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One file for all examples of a test."""
    return tmp_path_factory.mktemp("plain") / "a.tar"


def none_plain(window, room):
    return Run([], np.empty(0, np.int64), np.empty(0, np.int64), 0)


def one_by_one(path, window=1 << 22):
    """The members of a tar and its damage, no two headers taken together."""
    with mock.patch("dcexp.artifacts.tar.plain_members", none_plain):
        return listed(path, window)


@settings(max_examples=400)
@given(entries=ENTRIES, spoils=SPOILS, window=WINDOWS, other=WINDOWS)
def test_taken_together_or_one_by_one_members_and_damage_are_the_same(place, entries, spoils, window, other):
    content = built(entries)
    for spoil, *how in spoils:
        content = spoil(content or bytes(BLOCK), *how)
    place.write_bytes(content)
    assert listed(place, window) == listed(place) == one_by_one(place, other)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("mtime", [7, 1.5])
def test_every_field_is_taken_for_the_same(place, field, mtime):
    content = archive(*members_of(tarfile.PAX_FORMAT, mtime, 4))
    for number in range(len(headers_of(content))):
        for form in SUMS[5:]:
            place.write_bytes(change(content, number, field, form))
            assert listed(place) == one_by_one(place), (number, form)


def run_of(content):
    """What is taken together of an archive."""
    window = np.frombuffer(content[: len(content) // BLOCK * BLOCK], np.uint8).reshape(-1, BLOCK)
    return plain_members(window, len(content))


def members_of(format, mtime, count=20):
    return [member(f"{i:05d}.jpg", b"x" * (i * 100), format=format, mtime=mtime) for i in range(count)]


@pytest.mark.parametrize(
    ("format", "mtime"),
    [(tarfile.USTAR_FORMAT, 7), (tarfile.GNU_FORMAT, 7), (tarfile.PAX_FORMAT, 7), (tarfile.PAX_FORMAT, 1234567890.123)],
)
def test_all_of_an_ordinary_archive_is_taken_together(format, mtime):
    content = archive(*members_of(format, mtime))
    run = run_of(content)
    assert run.names == [b"%05d.jpg" % i for i in range(20)]
    assert run.sizes.tolist() == [i * 100 for i in range(20)]
    assert run.end * BLOCK == len(b"".join(members_of(format, mtime)))


@pytest.mark.parametrize(
    "odd",
    [
        member("folder", kind=tarfile.DIRTYPE),
        member("link", kind=tarfile.SYMTYPE),
        member("x" * 101, b"1"),
        member("x" * 101, b"1", format=tarfile.GNU_FORMAT),
        member("x/" * 70 + "y", b"1", format=tarfile.USTAR_FORMAT),
        member("name", b"1", path="other"),
        member("name", b"1", size="1"),
        member("name", b"1", comment="not a time"),
        flip(member("name", b"1"), 257, 1),
        flip(member("name", b"1"), 3, 1),
        bytes(BLOCK),
    ],
)
def test_what_is_not_plain_ends_the_run(odd):
    before, after = b"".join(members_of(tarfile.USTAR_FORMAT, 7)), member("after.jpg", b"1")
    run = run_of(archive(before, odd, after))
    assert len(run.names) == 20 and run.end * BLOCK == len(before)
    assert run_of(archive(odd, after)).end == 0


def test_a_pax_header_at_the_end_of_a_window_is_not_what_it_tells(place):
    head = member("22 mtime=1234567890.5\n", b"22 path=evil/evil.jpg\n", b"x", tarfile.USTAR_FORMAT)
    place.write_bytes(archive(head, member("a.jpg", b"x")))
    assert [name for name, _, _ in listed(place, BLOCK)[0]] == ["evil/evil.jpg"]


@pytest.mark.parametrize("inner", [INNER, bytes(512) + INNER, INNER[:512], member("big", told=8**11 - 1)])
def test_what_looks_like_a_header_within_a_member_is_not_taken_for_one(inner):
    run = run_of(archive(member("a.tar", inner), member("b.tar", b"x" * 512 + inner), member("c.jpg", b"1")))
    assert run.names == [b"a.tar", b"b.tar", b"c.jpg"]


@pytest.mark.parametrize("ending", [b"\0x", b"x ", b"  ", b"\0\0"])
def test_a_checksum_of_another_form_is_left_to_be_read_by_itself(ending):
    """Even where it is what the sum would be if its ending were the usual one."""
    head = member("a.jpg", b"1")
    total = int(head[148:154], 8) + sum(ending) - ord(" ")
    assert run_of(archive(overwritten(head, 148, b"%06o" % total + ending))).end == 0
    assert run_of(archive(head)).end > 0


@pytest.mark.parametrize("lacking", [1, 200, 511, 512, 700])
def test_a_member_that_does_not_fit_is_not_taken(lacking):
    content = b"".join(members_of(tarfile.USTAR_FORMAT, 7)) + member("last.jpg", b"x" * 1024)
    assert run_of(content).names[-1] == b"last.jpg"
    window = np.frombuffer(content, np.uint8).reshape(-1, BLOCK)
    assert plain_members(window, len(content) - lacking).names[-1] == b"00019.jpg"
