"""The samples of a webdataset tar, and the one rule by which a sample has its uid.

Members that stand side by side and share the part of their name before the first dot are one sample; the part
behind that dot, in lower case, is the suffix (webdataset's own convention).
"""

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


class Sample(NamedTuple):
    """One sample: its key in the tar, and where its members lie, by suffix, in the order of the tar."""

    key: bytes
    members: dict[str, Place]


def samples_of(walk: Iterable[Members]) -> Iterator[Sample]:
    """Group members into samples. A suffix that comes twice in a row of equal keys begins another sample.

    Samples come while the walk is where they lie, so what is read of them at once is cheap (:meth:`TarReader.read`).
    """
    known: dict[bytes, str] = {}  # extensions as they stand in names, and the suffixes they are
    key, sample = b"", None
    places: dict[str, Place] = {}
    for members in walk:
        for name, offset, size in zip(members.names, members.offsets, members.sizes, strict=True):
            stem, _, extension = name.partition(b".")
            suffix = known.get(extension, "")
            if not suffix or stem != key or suffix in places:
                parts = _parts(name)
                if parts is None:
                    continue
                stem, extension, suffix = parts
                known[extension] = suffix
                if sample is None or stem != key or suffix in places:
                    if sample is not None:
                        yield sample
                    key, places = stem, {}
                    sample = Sample(key, places)
            places[suffix] = (offset, size)
    if sample is not None:
        yield sample


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


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
