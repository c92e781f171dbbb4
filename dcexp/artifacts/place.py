"""Places: paths on this machine and URLs of object stores (``s3://…``, through fsspec), read by ranges of bytes.

A place is a string, so that it can stand in JSON, in a yaml and on the command line. What has ``://`` in it is a URL;
everything else is a path, so ``pipe:`` and the like, which run commands in other libraries, mean nothing here.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from dcexp.artifacts.cloud import CloudFile, is_object, objects_in, whole_object
from dcexp.artifacts.files import whole_file

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
State = list[int | str]  # tells one content of a place from another: size, and time of change or ETag


def is_url(place: str) -> bool:
    return _URL.match(place) is not None


def absolute(place: str) -> str:
    """The one spelling of a place: an absolute path, or the URL without a slash at its end."""
    return place.rstrip("/") if is_url(place) else str(Path(place).expanduser().resolve())


def below(folder: str, name: str) -> str:
    """The place ``name`` in ``folder``; ``name`` itself where it is absolute."""
    return name if is_url(name) else f"{folder}/{name}" if is_url(folder) else str(Path(folder) / name)


def name_of(place: str) -> str:
    """The last part of a place."""
    return place.rstrip("/").rpartition("/")[2]


class RangeReader(Protocol):
    """One open file. ``size`` in bytes; ``state`` changes when its content does."""

    place: str
    size: int
    state: State

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file."""

    def fill(self, buffer: memoryview, offset: int) -> int:
        """Read as much as ``buffer`` holds from ``offset``; returns how many bytes there were."""

    def fileno(self) -> int:
        """The file descriptor. Raises OSError where there is none."""

    def close(self) -> None: ...


def open_place(place: str) -> RangeReader:
    """Open for reading. Raises OSError (FileNotFoundError where there is nothing)."""
    return CloudFile(place) if is_url(place) else LocalFile(place)


class LocalFile:
    """A file of this machine, or of a file system that is mounted here."""

    def __init__(self, place: str) -> None:
        self.place, self._fd = place, os.open(place, os.O_RDONLY)
        status = os.fstat(self._fd)
        self.size = status.st_size
        self.state: State = [status.st_size, status.st_mtime_ns]

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def fill(self, buffer: memoryview, offset: int) -> int:
        done = 0
        while done < len(buffer) and (n := os.preadv(self._fd, [buffer[done:]], offset + done)):
            done += n
        return done

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def listed(folder: str, suffix: str) -> dict[str, int]:
    """The names directly in ``folder`` that end in ``suffix``, and their sizes, in name order.

    Hidden files and folders do not count; a folder that is not there is empty.
    """
    entries = objects_in(folder) if is_url(folder) else _in_folder(folder)
    return {name: size for name, size in sorted(entries) if name.endswith(suffix) and not name.startswith(".")}


def _in_folder(path: str) -> list[tuple[str, int]]:
    if not Path(path).is_dir():
        return []
    with os.scandir(path) as entries:
        return [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]


def exists(place: str) -> bool:
    """Whether there is a file, whole, at ``place``."""
    return is_object(place) if is_url(place) else Path(place).is_file()


def size_of(place: str) -> int:
    """Bytes of the file at ``place``; -1 where there is none."""
    try:
        file = open_place(place)
    except FileNotFoundError:
        return -1
    file.close()
    return file.size


@contextmanager
def whole_place(place: str) -> Iterator[IO[bytes]]:
    """Open a place for writing; it is there when the block ends well, whole, or not at all.

    Not durable: what is written may be lost with the machine, not with the process.
    """
    if is_url(place):
        with whole_object(place) as file:
            yield file
    else:
        with whole_file(Path(place), durable=False) as file:
            yield file
