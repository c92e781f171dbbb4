"""Object stores (``s3://…``) through fsspec. What goes wrong there is an OSError that names the URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, Any, cast

_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime")  # what tells contents apart, surest first
_CONNECTIONS = 64  # at once: as many samples as training asks for together


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises ValueError where none can be had.

    Credentials and endpoints are fsspec's to find: environment variables, ``~/.aws``, ``~/.config/fsspec``.
    """
    protocol, _, path = url.partition("://")
    return _file_system(protocol.lower(), os.getpid()), path


@cache
def _file_system(protocol: str, process: int) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **_options(protocol))
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{protocol}://… cannot be read: {error}. For s3:// install s3fs: pip install 'dcexp[s3]'"
        ) from None


def _options(protocol: str) -> dict[str, Any]:
    """Of s3fs: more connections than the ten of botocore, unless the user's ``config_kwargs`` say how many."""
    from fsspec.config import conf

    if protocol not in ("s3", "s3a"):
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


class CloudFile:
    """An object of an object store. Every read is one request."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._files, self.path = file_system(url)
        about = _asked(url, self._files.info, self.path)
        if about.get("type") == "directory":
            raise IsADirectoryError(f"{url} is a folder; wanted a file")
        self.size = int(about["size"])
        self.state: list[int | str] = [self.size, next((str(about[name]) for name in _VERSIONS if about.get(name)), "")]

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


def objects_in(url: str) -> list[tuple[str, int]]:
    """Names and sizes of the objects directly in a folder; none where there is no folder."""
    files, path = file_system(url)
    try:
        entries = _asked(url, files.ls, path, detail=True)
    except FileNotFoundError:
        return []
    inside = [entry for entry in entries if entry["name"].strip("/") != path.strip("/")]  # a file lists itself
    return [(entry["name"].rpartition("/")[2], int(entry["size"] or 0)) for entry in inside if entry["type"] == "file"]


def is_object(url: str) -> bool:
    """Whether there is an object, and no folder, at ``url``."""
    files, path = file_system(url)
    try:
        return bool(_asked(url, files.info, path)["type"] == "file")
    except FileNotFoundError:
        return False


@contextmanager
def whole_object(url: str) -> Iterator[IO[bytes]]:
    """Open an object for writing; it is there when the block ends well, whole, or not at all."""
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
