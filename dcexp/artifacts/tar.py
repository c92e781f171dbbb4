"""Tar archives by their headers alone: where every member's bytes are, and whether the archive is whole.

Python's ``tarfile`` spends some 20 microseconds on a member and does not say when an archive ends too early;
webdatasets hold a hundred million members. Read here: ustar, GNU long names, and pax ``path`` and ``size``.
"""

import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
_REGULAR, _EXTENDED, _EMPTY_KINDS = b"0\x007", b"LKxXg", b"123456"
_WINDOW = 8192  # read at once: usually the small members behind an image and the next header


class Member(NamedTuple):
    """One regular file in an archive: its bytes are ``[offset, offset + size)`` of the archive."""

    name: str
    offset: int
    size: int


@dataclass(kw_only=True)
class Listing:
    """The members that are whole, in order; ``damage`` says what is wrong with the archive, if anything."""

    members: list[Member] = field(default_factory=list)
    damage: str = ""


class _DamagedError(Exception):
    pass


class TarReader:
    """Positioned reads from one archive, a small window at a time. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size
        self._start, self._window = 0, b""

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file."""
        at = offset - self._start
        if at < 0 or at + size > len(self._window):
            self._start, self._window, at = offset, os.pread(self._file, max(size, _WINDOW), offset), 0
        return self._window[at : at + size]

    def members(self) -> Listing:
        """List the members up to the end of the archive, or to the first damage."""
        listing = Listing()
        try:
            self._list(listing.members)
        except _DamagedError as damage:
            listing.damage = str(damage)
        return listing

    def _list(self, members: list[Member]) -> None:
        offset, path, long_size = 0, "", -1
        while header := self._header(offset):
            kind = header[156:157]
            size = 0 if kind in _EMPTY_KINDS else _size(header, offset)
            if kind in _REGULAR and long_size >= 0:
                size = long_size
            data = offset + BLOCK
            if data + size > self.size:
                raise _DamagedError(f"cut off at byte {self.size:,}, inside {path or _name(header)!r}")
            if kind in _EXTENDED:
                path, long_size = _extension(kind, self.read(data, size), path, long_size)
            else:
                if kind in _REGULAR:
                    members.append(Member(name=path or _name(header), offset=data, size=size))
                path, long_size = "", -1
            offset = data + -(-size // BLOCK) * BLOCK

    def _header(self, offset: int) -> bytes:
        """The header at ``offset``, or nothing at the end marker."""
        header = self.read(offset, BLOCK)
        if not header:
            raise _DamagedError(f"no end marker: cut off at byte {self.size:,}" if offset else "the file is empty")
        if len(header) < BLOCK:
            raise _DamagedError(f"cut off at byte {self.size:,}, inside a header")
        if header == bytes(BLOCK):
            if self.read(offset, tarfile.RECORDSIZE).strip(b"\0"):
                raise _DamagedError(f"more data behind the end marker at byte {offset:,}")
            return b""
        if not _is_sound(header):
            raise _DamagedError(f"bad header at byte {offset:,}")
        return header


def _is_sound(header: bytes) -> bool:
    try:
        checksum = _number(header[148:156])
    except ValueError:
        return False
    # The sum of all bytes, those of the checksum read as blanks. adler32 holds it (modulo 65521) in its low half.
    total = checksum + sum(header[148:156]) - 8 * 32
    return (total + 1) % 65521 == zlib.adler32(header) & 0xFFFF


def _size(header: bytes, offset: int) -> int:
    try:
        return _number(header[124:136])
    except ValueError:
        raise _DamagedError(f"bad header at byte {offset:,}") from None


def _number(digits: bytes) -> int:
    """A size or checksum: octal digits, or binary where octal was too short. Raises ValueError."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    number = int(digits.rstrip(b" \0") or b"0", 8)
    if number < 0:
        raise ValueError(f"negative size {number}")
    return number


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _extension(kind: bytes, data: bytes, path: str, size: int) -> tuple[str, int]:
    """The path and size that an extended header gives the next member; as before where it says nothing."""
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), size
    if kind not in b"xX" or (b" path=" not in data and b" size=" not in data):
        return path, size  # by far the most say only a time
    try:
        while data.strip(b"\0"):
            length = int(data[: data.index(b" ")])
            keyword, _, value = data[len(str(length)) + 1 : length - 1].partition(b"=")
            if keyword == b"path":
                path = value.decode("utf-8", "surrogateescape")
            elif keyword == b"size":
                size = _number(b"%o" % int(value))
            data = data[max(length, 1) :]
    except ValueError:
        raise _DamagedError("bad pax header") from None
    return path, size


def header(name: str, size: int) -> bytes:
    """The header of a regular file; the same bytes for the same name and size, whoever writes it and when."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > 100 or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT)
    digits = b"%011o" % size
    checksum = _EMPTY_SUM + sum(encoded) + sum(digits) - 11 * ord("0")
    parts = (encoded.ljust(100, b"\0"), _EMPTY[100:124], digits, _EMPTY[135:148], b"%06o" % checksum, _EMPTY[154:])
    return b"".join(parts)


_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_EMPTY_SUM = int(_EMPTY[148:154], 8)
