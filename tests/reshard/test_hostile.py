"""Resharding of tars as nobody should write them is what a slow reading with tarfile and json says it is."""

import io
import json
import re
import string
import tarfile
from collections import Counter
from itertools import count
from unittest import mock

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.reshard.copy import Copy
from tests.pools import archive, hex_uids, member, overwritten, sample, write_parquet
from tests.reshard.test_copy import resharded

UIDS = [*hex_uids(4), "00ab" + hex_uids(1, seed=1)[0][4:], "0" * 28 + "beef"]
NOWHERE = hex_uids(2, seed=99)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


# The rules, read slowly.


def slow_members(path):
    """Name and content of every regular file of a tar."""
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            if info.isreg():
                yield info.name, tar.extractfile(info).read()


def slow_samples(path):
    """The samples of a tar, each as contents by suffix."""
    samples, last = [], None
    for name, content in slow_members(path):
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not stem or not dot or re.match(r"__[^/]*__($|/)", name):
            continue
        key, suffix = folder + slash + stem, suffix.lower()
        if key != last or suffix in samples[-1]:
            samples.append({})
        samples[-1][suffix], last = content, key
    return samples


def slow_uid(found):
    """The uid of a sample as 32 digits; None where it is corrupt."""
    try:
        uid = json.loads(found["json"])["uid"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    is_one = isinstance(uid, str) and 1 <= len(uid) <= 32 and set(uid) <= set(string.hexdigits)
    return uid.lower().zfill(32) if is_one else None


def slow_reshard(tars, wanted):
    """What is written, in the order of the pool, of samples that are ``wanted`` that often; and the account of tars."""
    written, account, seen = [], [], Counter()
    for path in tars:
        uids = [(slow_uid(found), found) for found in slow_samples(path)]
        kept = [(uid, found) for uid, found in uids if uid and wanted[uid]]
        corrupt = sum(uid is None for uid, _ in uids)
        for uid, found in kept:
            for copy in range(seen[uid] * wanted[uid], (seen[uid] + 1) * wanted[uid]):
                written.append([(f"{uid}-{copy}.{suffix}", found[suffix]) for suffix in sorted(found)])
            seen[uid] += 1
        account.append({
            "tar": path.name, "total": len(uids), "kept": len(kept), "dropped": len(uids) - corrupt - len(kept),
            "missing": 0, "corrupt": corrupt, "damage": "",
        })  # fmt: skip
    return written, account, sorted({uid for uid in wanted if wanted[uid]} - seen.keys())


# Tars as nobody should write them.


def spelled(uid):
    """Contents of a json member that have this uid, and are ever stranger."""
    text = f'"uid": "{uid}"'
    return [
        f"{{{text}}}".encode(),
        json.dumps({"uid": uid.upper()}).encode(),
        json.dumps({"uid": uid.lstrip("0")}).encode(),
        f'{{"a": NaN, {text}, "b": -Infinity}}'.encode(),
        f'{{"a": "\\ud800", {text}}}'.encode(),
        b'{"a": "\xed\xa0\x80", ' + text.encode() + b"}",
        f'{{"uid": "{NOWHERE[0]}", {text}}}'.encode(),
        f'{{"a": {"[" * 200}{"]" * 200}, {text}}}'.encode(),
        f"{{{text}}}".encode("utf-16"),
        f"{{{text}}}".encode("utf-8-sig"),
        f"{{{text}}}".encode().center(9000),
        f'{{"\\u0075id": "{uid}", "a": 1e999, "b": {"9" * 400}}}'.encode(),
    ]


BROKEN = [
    *[None] * 10, b"", b"{", b"\xff", b"null", b"[1]", b'"text"', b"12", b"{}", b"NaN", b"[" * 100_000, b'{"uid": 12}',
    b'{"uid": ""}', b'{"uid": null}', b'{"uid": ["a"]}', b'{"uid": "0x12"}', b'{"uid": "12 "}', b'{"uid": "1_2"}',
    b'{"uid": "' + b"1" * 33 + b'"}', b'{"uid": "12\\n"}', b'{"uid": "' + b" " * 32 + b'"}', b'["uid"]',
    '{"uid": "１２"}'.encode(), b'{"uid": "' + b"a" * 31 + b'\\n"}', b'{"uid": [' + b",".join([b'"a"'] * 32) + b"]}",
    b'{"uid": "' + b"a" * 31 + 'é"}'.encode(), b'{"uid": "12"} {}', b'{"uid": "12"}\0', b'{"uid": "12", "uid": 7}',
    b'{"a": ' + b"9" * 5000 + b', "uid": "12"}', b"\xff\xfe{", b'{"a": "\x01", "uid": "12"}', b'{"uid": "12",}',
]  # fmt: skip
INNER = archive(member("evil.json", spelled(UIDS[0])[0]), member("evil.jpg", b"x" * 600, mtime=1.5))
CONTENTS = [
    b"", b"", b"x", b"x" * 511, b"x" * 512, b"x" * 513, b"x" * 3000, bytes(1024), INNER, b"x" * 512 + INNER,
    bytes(1024) + INNER, INNER[:512], member("large", told=8**11 - 1), member("pax", b"", b"x", told=2**30),
    b"x" * 9000,
]  # fmt: skip
FOLDERS = ["", "", "", "d/", "d.x/", "../", "/root/", "./", "ü/é/", "long/" * 28, "L" * 280 + "/", "__d__/", "a/__d__/"]
STEMS = ["0", "1", "0", "é", "\udcff", "__0", "s" * 96, "m" * 150, "n" * 257, "new\nline", " ", "0-1"]
SUFFIXES = ["jpg", "txt", "seg.png", "JPEG", "jpg", "", "x" * 62, "x" * 63, "y" * 300, "ü.png", "\udcfe", "__", "a b"]
BETWEEN = [
    "folder", "link", "hard link", "pipe", "device", "README", "__meta__", "__d__/0.json", ".hidden.json", "e/.json",
    "global", "GNU volume", "0", "é",
]  # fmt: skip


def between(what):
    """What stands between members and belongs to no sample."""
    kinds = {"folder": b"5", "link": b"2", "hard link": b"1", "pipe": b"6", "device": b"3", "GNU volume": b"V"}
    if what == "global":
        return tarfile.TarInfo.create_pax_global_header({"comment": "7 path=evil.json"}) + member("README")
    return member(what, b"" if what in kinds else b'{"uid": "12"}', kinds.get(what, b"0"))


SAMPLES = st.tuples(
    st.sampled_from(FOLDERS),
    st.sampled_from(STEMS),
    st.sampled_from(range(len(UIDS))),
    st.one_of(st.just(0), st.sampled_from(range(len(spelled("")))), st.sampled_from(range(-len(BROKEN), 0))),
    st.lists(st.tuples(st.sampled_from(SUFFIXES), st.sampled_from(range(len(CONTENTS)))), max_size=4),
    st.sampled_from(["json", "json", "JSON"]),
    st.integers(0, 5),  # where among the other members the json stands
    st.sampled_from(FORMATS),
    st.sampled_from([0, 7, 1234567890.5]),
    st.sampled_from(["", "", "", "path", "size", "second json"]),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(BETWEEN)), max_size=2),
)


def members_of(entry, numbers):
    """The members of a sample, as bytes."""
    folder, stem, uid, text, others, json_, place, format, mtime, odd, noise = entry
    text = spelled(UIDS[uid])[text] if text >= 0 else BROKEN[text]
    contents = [(suffix, CONTENTS[i] + b"%d" % next(numbers) if CONTENTS[i] else b"") for suffix, i in others]
    if text is not None:
        contents.insert(place, (json_, text))
    if odd == "second json":
        contents.append(("json", spelled(UIDS[0])[0]))
    members = []
    for suffix, content in contents:
        name, told, pax = f"{folder}{stem}.{suffix}", None, {}
        if odd == "path":
            name, pax = "another.json", {"path": name}
        elif odd == "size" and format == tarfile.PAX_FORMAT:
            told, pax = 512, {"size": str(len(content))}
        members.append(
            member(name, content, format=tarfile.PAX_FORMAT if pax else format, mtime=mtime, told=told, **pax)
        )
    for at, what in noise:
        members.insert(at, between(what))
    return members


def write_pool(root, tars):
    """A pool of such tars, whose numbers have gaps, among other files; returns the places of the tars."""
    numbers, paths = count(), []
    write_parquet(root / "metadata" / "0.parquet", UIDS)
    for name in ("notes.txt", "00000001.parquet", "00000002.tar.tmp", ".00000003.tar", "00000004.tar.gz"):
        (root / "shards" / name).parent.mkdir(exist_ok=True)
        (root / "shards" / name).write_bytes(INNER)
    (root / "shards" / "00000005.tar").mkdir()
    for number, entries in enumerate(tars):
        paths.append(root / "shards" / f"{number * number * 7:08d}.tar")
        paths[-1].write_bytes(archive(*(m for entry in entries for m in members_of(entry, numbers))))
    return paths


def samples_in(path, expected):
    """The samples of a shard, of those that are expected, each of which has a json: so no two may look like one."""
    members, found = list(slow_members(path)), []
    while members:
        fitting = [one for one in expected if members[: len(one)] == one]
        assert fitting, f"{members[0][0]} begins no sample"
        found.append(max(fitting, key=len))
        del members[: len(found[-1])]
    return found


@settings(max_examples=80)
@given(
    tars=st.lists(st.lists(SAMPLES, max_size=6), min_size=1, max_size=4),
    times=st.lists(st.integers(0, 3), min_size=len(UIDS), max_size=len(UIDS)),
    elsewhere=st.integers(0, 2),
    window=st.sampled_from([1, 2, 3, 5, 9, 16, 8192, 8192]),
    shard_size=st.integers(1, 6),
    shuffle=st.booleans(),
)
def test_what_is_written_and_counted_is_what_tarfile_and_json_say(
    tmp_path_factory, tars, times, elsewhere, window, shard_size, shuffle
):
    folder = tmp_path_factory.mktemp("hostile")
    paths = write_pool(folder / "pool", tars)
    wanted = Counter(dict(zip([*UIDS, *NOWHERE], [*times, elsewhere, 1], strict=True)))
    expected, account, missing = slow_reshard(paths, wanted)
    stage = Copy(shard_size=shard_size, shuffle=shuffle, max_missing=1)
    with mock.patch("dcexp.artifacts.tar.WINDOW", 512 * window):
        if not expected:
            with pytest.raises(ValueError, match="nothing to train on"):
                resharded(folder / "pool", list(wanted.elements()), folder / "out", stage)
            return
        shards, summary = resharded(folder / "pool", list(wanted.elements()), folder / "out", stage)
    found = [samples_in(path, expected) for path in shards.places]
    if not shuffle and max(times) <= 1:
        assert [one for shard in found for one in shard] == expected
    assert sorted(one for shard in found for one in shard) == sorted(expected)
    assert [len(shard) for shard in found] == list(shards.sizes.values()) == sizes_of(len(expected), shard_size)
    assert json.loads((shards.path / "tars.json").read_text()) == account
    assert listed_as_missing(shards) == missing
    add = {name: sum(tar[name] for tar in account) for name in ("total", "kept", "dropped", "corrupt")}
    counts = summary.counts
    assert (counts.kept, counts.dropped, counts.corrupt) == (add["kept"], add["dropped"], add["corrupt"])
    assert (counts.missing, counts.total) == (len(missing), add["total"] + len(missing))


def sizes_of(samples, most):
    return [min(most, samples - start) for start in range(0, samples, most)]


def listed_as_missing(shards):
    path = shards.path / "missing.parquet"
    return pq.read_table(path)["uid"].to_pylist() if path.exists() else []


# Tars that are not whole any more. Each of a pool has samples of its own, so one pool holds them all.

SMALL, STEP = 3, 64  # samples of a tar, bytes
KINDS = [(tarfile.USTAR_FORMAT, 7), (tarfile.GNU_FORMAT, 7), (tarfile.PAX_FORMAT, 1234567890.5)]


def small_tar(number, kind):
    """A tar, where its parts are whatever the number, and its samples as they are to be written."""
    format, mtime = kind
    uids = hex_uids(SMALL, seed=number)
    samples = [sample(uid, f"{uid} {i}".encode() * (1 + 7 * i), text=uid) for i, uid in enumerate(uids)]
    members = [
        member(f"{i:04d}.{suffix}", content, format=format, mtime=mtime)
        for i, found in enumerate(samples)
        for suffix, content in found.items()
    ]
    return archive(*members), [
        [(f"{uid}-0.{suffix}", found[suffix]) for suffix in sorted(found)]
        for uid, found in zip(uids, samples, strict=True)
    ]


def spoilt_pool(folder, contents, announced=None):
    """Tars of such ``contents``, all of whose samples are wanted: what is written of each, and its account."""
    numbers = {uid: number for number in range(len(contents)) for uid in hex_uids(SMALL, seed=number)}
    write_parquet(folder / "pool" / "metadata" / "0.parquet", list(numbers))
    (folder / "pool" / "shards").mkdir()
    for number, content in enumerate(contents):
        (folder / "pool" / "shards" / f"{number:08d}.tar").write_bytes(content)
        if announced is not None:
            stats = folder / "pool" / "shards" / f"{number:08d}_stats.json"
            stats.write_text(json.dumps({"successes": announced}))
    shards, _ = resharded(folder / "pool", list(numbers), folder / "out", Copy(max_missing=1))
    written = [{} for _ in contents]
    for name, content in (found for path in shards.places for found in slow_members(path)):
        written[numbers[name[:32]]].setdefault(name[:32], []).append((name, content))
    account = json.loads((shards.path / "tars.json").read_text())
    return [list(samples.values()) for samples in written], account


def ends_of(content):
    """Where the content of the last member of each sample ends, and where the end marker begins."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
        return [info.offset_data + info.size for info in infos[2::3]], tar.offset


@pytest.mark.parametrize(("kind", "announced"), zip(KINDS, [SMALL, None, None], strict=True))
def test_a_tar_cut_off_anywhere_gives_whole_samples_and_says_so(tmp_path, kind, announced):
    ends, end = ends_of(small_tar(0, kind)[0])
    cuts = range(0, end + 1024 + STEP, STEP)
    whole = [small_tar(number, kind) for number in range(len(cuts))]
    contents = [content[:length] for (content, _), length in zip(whole, cuts, strict=True)]
    written, account = spoilt_pool(tmp_path, contents, announced)
    for (_, samples), length, found, tar in zip(whole, cuts, written, account, strict=True):
        there = sum(stop <= length for stop in ends)
        assert there - (there == 1) <= len(found) <= there, length  # of a first sample nobody knows what belongs to it
        assert found == samples[: len(found)], length
        assert bool(tar["damage"]) == (length < end + 512), length
        lacking = SMALL - len(found) if announced else 0
        rest = {"dropped": 0, "missing": lacking, "corrupt": bool(tar["damage"]) and not lacking}
        assert tar == tar | rest | {"kept": len(found), "total": len(found) + lacking + rest["corrupt"]}, length


@pytest.mark.parametrize(("announced", "lacking"), [(SMALL + 2, 2), (SMALL, 0), (1, 0), (-1, 0), ("3", 0), (None, 0)])
def test_samples_that_are_announced_and_lacking_are_missing_and_damage(tmp_path, announced, lacking):
    content, samples = small_tar(0, KINDS[0])
    content = overwritten(content, content.rindex(b'{"uid"'), b"[")  # what is there and cannot be read lacks not
    (written,), (tar,) = spoilt_pool(tmp_path, [content], announced)
    assert written == samples[:-1]
    assert (tar["missing"], tar["corrupt"], tar["total"]) == (lacking, 1, SMALL + lacking)
    assert tar["damage"] == (f"3 samples, but its _stats.json says {announced}" if lacking else "")


AT = st.integers(0, 1 << 20)


def headers_of(content):
    """The bytes of each sample's headers, pax headers included."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    return [
        [at for info in infos[3 * i : 3 * i + 3] for at in range(info.offset, info.offset_data)] for i in range(SMALL)
    ]


@settings(max_examples=6)
@given(
    kind=st.sampled_from(KINDS),
    flips=st.lists(st.tuples(st.integers(0, SMALL - 1), AT, st.integers(1, 255)), min_size=40, max_size=40),
)
def test_a_header_with_a_wrong_byte_costs_what_is_behind_it_and_no_more(tmp_path_factory, kind, flips):
    headers = headers_of(small_tar(0, kind)[0])
    whole = [small_tar(number, kind) for number in range(len(flips) + 1)]
    contents = [content for content, _ in whole]
    for number, (i, place, by) in enumerate(flips):
        at = headers[i][place % len(headers[i])]
        contents[number] = overwritten(contents[number], at, bytes([contents[number][at] ^ by]))
    written, account = spoilt_pool(tmp_path_factory.mktemp("flipped"), contents)
    assert written[-1] == whole[-1][1]
    for (_, samples), (i, *_), found, tar in zip(whole, flips, written, account, strict=False):
        assert found == samples[: len(found)] and len(found) >= i - (i == 1)
        assert len(found) == SMALL or tar["damage"]


@settings(max_examples=6)
@given(
    kind=st.sampled_from(KINDS),
    spots=st.lists(
        st.lists(st.tuples(AT, st.binary(min_size=1, max_size=40)), min_size=1, max_size=3),
        min_size=30,
        max_size=30,
    ),
)
def test_wrong_bytes_anywhere_change_nothing_before_them(tmp_path_factory, kind, spots):
    contents = [small_tar(number, kind)[0] for number in range(len(spots) + 1)]
    ends, length = ends_of(contents[0])[0], len(contents[0])
    for number, changes in enumerate(spots):
        for place, new in changes:
            contents[number] = overwritten(contents[number], place % length, new)
    written, account = spoilt_pool(tmp_path_factory.mktemp("noise"), contents)
    for number, (found, changes) in enumerate(zip(written, [*spots, []], strict=True)):
        first = min((place % length for place, _ in changes), default=length)
        before = sum(stop <= first for stop in ends)
        before -= before == 1  # of a first sample nobody knows what belongs to it
        assert found[:before] == small_tar(number, kind)[1][:before]
    for tar in account:
        assert tar["total"] == tar["kept"] + tar["dropped"] + tar["missing"] + tar["corrupt"]
