"""The samples of a webdataset tar, and the one rule by which a sample has its uid.

Members that stand side by side and share the part of their name before the first dot are one sample; the part
behind that dot, in lower case, is the suffix (webdataset's own convention).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dcexp.artifacts.tar import Member, TarReader
from dcexp.artifacts.uid import DIGITS

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_NO_SAMPLE = re.compile(r"__[^/]*__(?:$|/)")
_HEX = re.compile(r"[0-9a-fA-F]+")


@dataclass(kw_only=True, slots=True)
class Sample:
    """One sample: its key in the tar, and where its members lie, by suffix, in the order of the tar."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


def samples_of(members: Iterable[Member]) -> Iterator[Sample]:
    """Group members into samples. A suffix that comes twice in a row of equal keys begins another sample."""
    sample: Sample | None = None
    for member in members:
        match = _NAME.fullmatch(member.name)
        if match is None or _NO_SAMPLE.match(member.name):
            continue
        key, suffix = match[1], match[2].lower()
        if sample is None or sample.key != key or suffix in sample.members:
            if sample is not None:
                yield sample
            sample = Sample(key=key)
        sample.members[suffix] = member
    if sample is not None:
        yield sample


class UnreadableSampleError(ValueError):
    """A sample whose json does not say what it has to say."""


def read_json(reader: TarReader, sample: Sample) -> dict[str, Any]:
    """The json member of a sample; empty when it has none. Raises UnreadableSampleError when it is broken."""
    member = sample.members.get("json")
    if member is None:
        return {}
    try:
        value = json.loads(reader.read(member.offset, member.size))
    except (ValueError, RecursionError):
        raise UnreadableSampleError(f"{sample.key}: its json cannot be decoded") from None
    if not isinstance(value, dict):
        raise UnreadableSampleError(f"{sample.key}: its json is no object")
    return value


def uid_of(info: dict[str, Any], tar_name: str, key: str, *, derived: bool) -> bytes:
    """The 16 bytes of a sample's uid: ``uid`` of its json, 32 hexadecimal digits.

    Where that is missing and ``derived`` is set, the first 128 bits of BLAKE2b over ``<tar name>/<key>``: stable
    as long as the tar keeps its name. Where it is not set, fewer digits are read with leading zeros, as in the
    metadata of a pool, and anything else raises UnreadableSampleError.
    """
    uid = info.get("uid")
    if isinstance(uid, str) and len(uid) <= DIGITS and _HEX.fullmatch(uid) and (len(uid) == DIGITS or not derived):
        return bytes.fromhex(uid.zfill(DIGITS))
    if not derived:
        raise UnreadableSampleError(f"{key}: no uid of 32 hexadecimal digits in its json")
    return hashlib.blake2b(f"{tar_name}/{key}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
