"""Tar archives by their headers alone: where every member's bytes are, and whether the archive is whole.

Python's ``tarfile`` spends some 20 microseconds on a member and does not say when an archive ends too early;
webdatasets hold a hundred million members. Read here: ustar, GNU long names, and pax ``path`` and ``size``. Archives
are read in large windows; plain headers, as nearly all are, are taken many at a time, the others one by one.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from dcexp.artifacts.place import open_place
from dcexp.artifacts.plain import BLOCK, plain_members

_REGULAR, _EXTENDED, _EMPTY_KINDS = b"0\x007", b"LKxXg", b"123456"
_LONGEST_END = tarfile.RECORDSIZE + BLOCK  # two empty blocks, and what fills up the record in which they end
_LARGEST_EXTENSION = 1 << 20  # bytes; names and times are not longer, a hostile header may say it is
WINDOW = 1 << 22  # bytes read at once; larger members are skipped over


@dataclass(kw_only=True)
class Members:
    """Regular files in an archive, in order: their names, and where their bytes are: ``[offset, offset + size)``.

    They are not ``whole`` where damage ends them: there may have been more.
    """

    names: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    whole: bool = True


class _DamagedError(Exception):
    pass


class TarReader:
    """The members of the archive at ``place``, a path or a URL. Use as a context manager.

    When a walk has ended, ``damage`` says what is wrong with the archive, if anything.
    """

    def __init__(self, place: str) -> None:
        self._file = open_place(place)
        self.size, self.state = self._file.size, self._file.state
        self.damage = ""
        self._buffer = np.empty(min(WINDOW, -(-self.size // BLOCK) * BLOCK), np.uint8)
        self._start, self._length = 0, 0  # the window: what of the archive is in the buffer
        self._path, self._long_size = b"", -1  # what an extended header says of the next member

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file. Costs little where the walk is."""
        at = offset - self._start
        if at >= 0 and at + size <= self._length:
            return self._buffer[at : at + size].tobytes()
        return self._file.read(offset, size)

    def walk(self) -> Iterator[Members]:
        """The whole members, a window of the archive at a time, up to its end or to the first damage."""
        offset = 0
        while offset >= 0:
            self._start, self._length = offset, self._file.fill(self._buffer.data, offset)
            members = Members()
            try:
                offset = self._take_window(offset, members)
            except _DamagedError as damage:
                self.damage, members.whole, offset = str(damage), False, -1
            if members.names or not members.whole:
                yield members

    def _take_window(self, offset: int, members: Members) -> int:
        """Take the members whose headers are in the window. Returns where the next header is; -1 at the end."""
        end = offset + self._length
        if not self._path and self._long_size < 0:
            blocks = self._buffer[: self._length // BLOCK * BLOCK].reshape(-1, BLOCK)
            run = plain_members(blocks, self.size - offset)
            members.names += run.names
            members.offsets += (run.blocks * BLOCK + offset).tolist()
            members.sizes += run.sizes.tolist()
            offset += run.end * BLOCK
        while offset < end or not self._length:
            header = self._header(offset)
            if not header:
                return -1
            offset = self._take(header, offset, members)
        return offset

    def _take(self, header: bytes, offset: int, members: Members) -> int:
        """Take one header of any kind; returns where the next one is."""
        kind = header[156:157]
        size = 0 if kind in _EMPTY_KINDS else _size(header, offset)
        if self._long_size >= 0 and kind not in _EMPTY_KINDS + _EXTENDED:
            size = self._long_size
        data = offset + BLOCK
        if data + size > self.size:
            name = (self._path or _name(header)).decode("utf-8", "backslashreplace")
            raise _DamagedError(f"cut off at byte {self.size:,}, inside {name!r}")
        if kind in _EXTENDED:
            if size > _LARGEST_EXTENSION:
                raise _DamagedError(f"bad header at byte {offset:,}: an extended header of {size:,} bytes")
            self._path, self._long_size = _extension(kind, self.read(data, size), self._path, self._long_size)
        else:
            if kind in _REGULAR:
                members.names.append(self._path or _name(header))
                members.offsets.append(data)
                members.sizes.append(size)
            self._path, self._long_size = b"", -1
        return data + -(-size // BLOCK) * BLOCK

    def _header(self, offset: int) -> bytes:
        """The header at ``offset``, or nothing at the end marker."""
        header = self.read(offset, BLOCK)
        if not header:
            raise _DamagedError(f"no end marker: cut off at byte {self.size:,}" if offset else "the file is empty")
        if len(header) < BLOCK:
            raise _DamagedError(f"cut off at byte {self.size:,}, inside a header")
        if header == bytes(BLOCK):
            if self.read(offset, _LONGEST_END + BLOCK).strip(b"\0"):
                self.damage = f"more data behind the end marker at byte {offset:,}"
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


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _extension(kind: bytes, data: bytes, path: bytes, size: int) -> tuple[bytes, int]:
    """The path and size that an extended header gives the next member; as before where it says nothing."""
    if kind == b"L":
        return data.partition(b"\0")[0], size
    if kind not in b"xX" or (b" path=" not in data and b" size=" not in data):
        return path, size  # by far the most say only a time
    try:
        for keyword, value in _records(data):
            if keyword == b"path":
                path = value.partition(b"\0")[0]
            elif keyword == b"size":
                size = _number(b"%o" % int(value))
    except ValueError:
        raise _DamagedError("bad pax header") from None
    return path, size


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keywords and values of a pax header: lines that begin with their own length. Raises ValueError."""
    start, end = 0, len(data.rstrip(b"\0"))
    while start < end:
        space = data.index(b" ", start)
        digits = data[start:space]
        stop = start + int(digits)
        if not digits.isdigit() or data[max(stop - 1, space) : stop] != b"\n":
            raise ValueError(f"no record of {digits!r} bytes")
        keyword, _, value = data[space + 1 : stop - 1].partition(b"=")
        yield keyword, value
        start = stop
