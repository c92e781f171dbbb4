"""The samples of a webdataset tar, and the one rule by which a sample has its uid.

Members that stand side by side and share the part of their name before the first dot are one sample; the part
behind that dot, in lower case, is the suffix (webdataset's own convention).
"""

import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from dcexp.artifacts.tar import Members, TarReader
from dcexp.artifacts.uid import DIGITS

_NO_SAMPLE = re.compile(rb"__[^/]*__(?:$|/)")
_HEX = re.compile(r"[0-9a-fA-F]+")

Place = tuple[int, int]  # offset in the tar and size, bytes
Suffixes = dict[str, int]  # the suffixes of a tar, numbered as they come


class Sample(NamedTuple):
    """One sample: its key in the tar, and where its members lie, by suffix, in the order of the tar."""

    key: bytes
    members: dict[str, Place]


class Batch(NamedTuple):
    """Some samples as columns. Sample i has the key ``keys[i]`` and owns the members ``ends[i-1]:ends[i]``.

    ``suffixes`` (numbers by a table that all batches of a tar share), ``offsets`` and ``sizes`` are of members.
    """

    keys: list[bytes]
    ends: list[int]
    suffixes: list[int]
    offsets: list[int]
    sizes: list[int]


def batches_of(walk: Iterable[Members], names: Suffixes) -> Iterator[Batch]:
    """Group members into samples, a batch for each part of the walk. Suffixes are added to ``names``.

    A suffix that comes twice in a row of equal keys begins another sample. Where the walk breaks off, more of the last
    sample may have been to come: it counts if it has every suffix of the one before it. Batches come while the walk is
    where they lie (but for the first sample of each), so what is read of them at once is cheap
    (:meth:`TarReader.read`).
    """
    known: dict[bytes, int] = {}  # extensions as they stand in names, and the suffixes they are
    open_ = Batch([], [], [], [], [])  # holds one sample, the last one, of which there may be more to come
    key, seen = b"", set[int]()  # of that sample, and the suffixes it has
    before, whole = seen, True
    for members in walk:
        keys, ends, suffixes, offsets, sizes = open_
        whole = members.whole
        for name, offset, size in zip(members.names, members.offsets, members.sizes, strict=True):
            stem, _, extension = name.partition(b".")
            suffix = known.get(extension, -1)
            if stem != key or suffix < 0 or suffix in seen:
                parts = _parts(name)
                if parts is None:
                    continue
                stem, extension, text = parts
                suffix = names.setdefault(text, len(names))
                if extension and b"__" not in extension:  # else the name may have no dot, or be one that is skipped
                    known[extension] = suffix
                if stem != key or suffix in seen:
                    if keys:
                        ends.append(len(suffixes))
                    keys.append(stem)
                    key, before, seen = stem, seen, set()
            seen.add(suffix)
            suffixes.append(suffix)
            offsets.append(offset)
            sizes.append(size)
        last = ends[-1] if ends else 0
        open_ = Batch(keys[-1:], [], suffixes[last:], offsets[last:], sizes[last:])
        if ends:
            yield Batch(keys[:-1], ends, suffixes[:last], offsets[:last], sizes[:last])
    if open_.keys and (whole or (before and before <= seen)):
        yield open_._replace(ends=[len(open_.suffixes)])


def samples_of(walk: Iterable[Members]) -> Iterator[Sample]:
    """The same, sample by sample."""
    names: Suffixes = {}
    for batch in batches_of(walk, names):
        yield from samples_in(batch, names)


def samples_in(batch: Batch, names: Suffixes) -> Iterator[Sample]:
    """The samples of a batch, one by one."""
    texts, start = list(names), 0
    for key, end in zip(batch.keys, batch.ends, strict=True):
        yield Sample(key, {texts[batch.suffixes[i]]: (batch.offsets[i], batch.sizes[i]) for i in range(start, end)})
        start = end


def _parts(name: bytes) -> tuple[bytes, bytes, str] | None:
    """Key, extension and suffix of a member; None for what belongs to no sample."""
    folder, slash, file = name.rpartition(b"/")
    stem, dot, extension = file.partition(b".")
    if not dot or not stem or (name.startswith(b"__") and _NO_SAMPLE.match(name)):
        return None
    return folder + slash + stem, extension, extension.decode("utf-8", "surrogateescape").lower()


class UnreadableSampleError(ValueError):
    """A sample whose json does not say what it has to say."""


def read_json(reader: TarReader, sample: Sample) -> dict[str, Any]:
    """The json member of a sample; empty when it has none. Raises UnreadableSampleError when it is broken."""
    place = sample.members.get("json")
    if place is None:
        return {}
    try:
        value = _parsed(reader.read(*place))
    except (ValueError, RecursionError):
        raise UnreadableSampleError(f"{_text(sample.key)}: its json cannot be decoded") from None
    if not isinstance(value, dict):
        raise UnreadableSampleError(f"{_text(sample.key)}: its json is no object")
    return value


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # five times as slow, and less strict: NaN, lone surrogates


def uid_of(info: dict[str, Any], tar_name: str, key: bytes, *, derived: bool) -> bytes:
    """The 16 bytes of a sample's uid: ``uid`` of its json, 32 hexadecimal digits.

    Where that is missing and ``derived`` is set, the first 128 bits of BLAKE2b over ``<tar name>/<key>``: stable
    as long as the tar keeps its name. Where it is not set, fewer digits are read with leading zeros, as in the
    metadata of a pool, and anything else raises UnreadableSampleError.
    """
    uid = info.get("uid")
    if isinstance(uid, str) and len(uid) <= DIGITS and _HEX.fullmatch(uid) and (len(uid) == DIGITS or not derived):
        return bytes.fromhex(uid.zfill(DIGITS))
    if not derived:
        raise UnreadableSampleError(f"{_text(key)}: no uid of 32 hexadecimal digits in its json")
    return hashlib.blake2b(tar_name.encode("utf-8", "surrogateescape") + b"/" + key, digest_size=16).digest()


def uids_in(
    reader: TarReader, batch: Batch, names: Suffixes, tar_name: str, *, derived: bool
) -> tuple[bytes, list[int]]:
    """The uids of a batch, 16 bytes each, by :func:`uid_of`, and the positions of the samples that have one."""
    json_ = names.get("json", -1)
    at = [i for i, suffix in enumerate(batch.suffixes) if suffix == json_]
    if len(at) == len(batch.keys):  # else some have none
        try:
            contents = [orjson.loads(reader.read(batch.offsets[i], batch.sizes[i])) for i in at]
            uids = [content["uid"] for content in contents]
            if all(len(uid) == DIGITS for uid in uids):
                return binascii.unhexlify("".join(uids)), list(range(len(uids)))
        except (ValueError, TypeError, KeyError):
            pass  # one by one, then
    raw, readable = bytearray(), []
    for number, sample in enumerate(samples_in(batch, names)):
        try:
            raw += uid_of(read_json(reader, sample), tar_name, sample.key, derived=derived)
            readable.append(number)
        except UnreadableSampleError:
            continue
    return bytes(raw), readable


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
