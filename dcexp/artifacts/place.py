"""Places: paths on this machine and URLs of object stores (``s3://…``, through fsspec), read by ranges of bytes.

A place is a string, so that it can stand in JSON, in a yaml and on the command line. What has ``://`` in it is a URL;
everything else is a path, so ``pipe:`` and the like, which run commands in other libraries, mean nothing here.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol, cast

from dcexp.artifacts.files import whole_file

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
State = list[int | str]  # tells one content of a place from another: size, and time of change or ETag
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime")  # what file systems call that, surest first
_CONNECTIONS = 64  # to an object store at once: as many samples as training asks for together


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


class CloudFile:
    """An object of an object store. Every read is one request."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._files, self.path = file_system(url)
        about = _asked(url, self._files.info, self.path)
        if about.get("type") == "directory":
            raise IsADirectoryError(f"{url} is a folder; wanted a file")
        self.size = int(about["size"])
        self.state: State = [self.size, next((str(about[name]) for name in _VERSIONS if about.get(name)), "")]

    def read(self, offset: int, size: int) -> bytes:
        stop = min(offset + size, self.size)
        return _asked(self.place, self._files.cat_file, self.path, start=offset, end=stop) if offset < stop else b""

    def fill(self, buffer: memoryview, offset: int) -> int:
        content = self.read(offset, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def fileno(self) -> int:
        raise OSError(f"{self.place} is no local file")

    def close(self) -> None:
        pass


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises ValueError where none can be had.

    Credentials and endpoints are fsspec's to find: environment variables, ``~/.aws``, ``~/.config/fsspec``.
    """
    return _file_system(_URL.match(url)[0], os.getpid()), url.partition("://")[2]  # type: ignore[index]


@cache
def _file_system(protocol: str, process: int) -> Any:
    import fsspec

    name = protocol.removesuffix("://").lower()
    try:
        return fsspec.filesystem(name, skip_instance_cache=True, use_listings_cache=False, **_options(name))
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{protocol}… cannot be read: {error}. For s3:// install s3fs: pip install 'dcexp[s3]'"
        ) from None


def _options(name: str) -> dict[str, Any]:
    """Of s3fs: more connections than the ten of botocore, unless the user's ``config_kwargs`` say how many."""
    from fsspec.config import conf

    if name not in ("s3", "s3a"):
        return {}
    return {"config_kwargs": {"max_pool_connections": _CONNECTIONS, **conf.get("s3", {}).get("config_kwargs", {})}}


def _asked(url: str, ask: Any, *args: Any, **options: Any) -> Any:
    """The answer of a file system; what goes wrong names the URL."""
    try:
        return ask(*args, **options)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} is not there") from None
    except Exception as error:  # each file system raises its own
        raise OSError(f"{url} cannot be reached: {type(error).__name__}: {error}") from error


def listed(folder: str, suffix: str) -> dict[str, int]:
    """The names directly in ``folder`` that end in ``suffix``, and their sizes, in name order.

    Hidden files and folders do not count; a folder that is not there is empty.
    """
    entries = _in_store(folder) if is_url(folder) else _in_folder(folder)
    return {name: size for name, size in sorted(entries) if name.endswith(suffix) and not name.startswith(".")}


def _in_store(url: str) -> list[tuple[str, int]]:
    files, path = file_system(url)
    try:
        entries = _asked(url, files.ls, path, detail=True)
    except FileNotFoundError:
        return []
    inside = [entry for entry in entries if entry["name"].strip("/") != path.strip("/")]  # a file lists itself
    return [(name_of(entry["name"]), int(entry["size"] or 0)) for entry in inside if entry["type"] == "file"]


def _in_folder(path: str) -> list[tuple[str, int]]:
    if not Path(path).is_dir():
        return []
    with os.scandir(path) as entries:
        return [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]


def exists(place: str) -> bool:
    """Whether there is a file, whole, at ``place``."""
    if not is_url(place):
        return Path(place).is_file()
    files, path = file_system(place)
    try:
        return bool(_asked(place, files.info, path)["type"] == "file")
    except FileNotFoundError:
        return False


@contextmanager
def whole_place(place: str) -> Iterator[IO[bytes]]:
    """Open a place for writing; it is there when the block ends well, whole, or not at all.

    Not durable: what is written may be lost with the machine, not with the process.
    """
    if is_url(place):
        with _whole_object(place) as file:
            yield file
    else:
        with whole_file(Path(place), durable=False) as file:
            yield file


@contextmanager
def _whole_object(url: str) -> Iterator[IO[bytes]]:
    files, path = file_system(url)
    file = _asked(url, files.open, path, "wb")
    try:
        yield cast(IO[bytes], _Upload(url, file))
        _asked(url, file.close)
    except BaseException:
        with suppress(Exception):  # what went wrong first is what matters
            _take_back(files, path, file)
        raise


class _Upload:
    """A file of an object store that is being written; what goes wrong names its URL."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def write(self, content: bytes | memoryview) -> int:
        return int(_asked(self._url, self._file.write, content))


def _take_back(files: Any, path: str, file: Any) -> None:
    """Leave nothing of a file that was not written to its end."""
    from fsspec.spec import AbstractBufferedFile

    if isinstance(file, AbstractBufferedFile):  # of an object store, where nothing shows before it is closed
        file.closed = True  # or it would close itself when it is collected
        file.discard()
    else:
        file.close()
        files.rm_file(path)
