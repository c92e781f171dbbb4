"""One file from the web: downloaded by one process at a time, continued where it broke off, named when it is right."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

BLOCK = 1 << 20
SECONDS_OF_SILENCE = 60


def fetch(url: str, target: Path, sha256: str, digest: Callable[[Path], str]) -> None:
    """Download ``url`` to ``target``, whose ``digest`` must be ``sha256``. What another process has put there is taken.

    Raises OSError when it cannot be had, and ValueError when it is another file. In the first case what had come stays
    in ``<target>.tmp``, for the next attempt; in the second it is thrown away.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.tmp")
    with _alone(unfinished) as file:
        if target.exists():
            return
        continued = file.tell() > 0
        _receive(url, file)
        if (got := digest(unfinished)) != sha256 and continued:
            file.truncate(0)  # what lay there may have been the beginning of something else
            _receive(url, file)
            got = digest(unfinished)
        if got != sha256:
            file.truncate(0)
            raise ValueError(f"{url} is not the file it should be: wanted sha256 {sha256}, got {got}")
        unfinished.replace(target)


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """``path`` open for appending, by one process at a time; it is removed when nothing is in it."""
    while True:
        with path.open("ab") as file:
            with suppress(OSError):  # not every file system has locks; without one, the digest still tells
                fcntl.flock(file, fcntl.LOCK_EX)
            # The one who held the lock before may have renamed or removed what was opened here.
            if not _is_at(file, path):
                continue
            try:
                yield file
            finally:
                file.flush()
                if os.fstat(file.fileno()).st_size == 0 and _is_at(file, path):
                    path.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _receive(url: str, file: IO[bytes]) -> None:
    """Append to ``file`` until it is whole, over as many connections as bring something new."""
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            return _append(url, file, before)
        except HTTPError as error:
            if error.code == 416 and before:  # no byte is left to send: it had come whole
                return None
            raise
        except (OSError, HTTPException) as error:
            if file.seek(0, os.SEEK_END) <= before:
                raise error if isinstance(error, OSError) else ConnectionError(repr(error)) from None


def _append(url: str, file: IO[bytes], before: int) -> None:
    """Append what one connection brings. Raises ConnectionError when that is less than was announced."""
    request = Request(url, headers={"Range": f"bytes={before}-"} if before else {})
    with urlopen(request, timeout=SECONDS_OF_SILENCE) as answer:
        if answer.status != 206:
            file.truncate(0)
            before = 0
        announced = answer.headers.get("Content-Length")
        total = before + int(announced) if announced else None
        with _progress(url.rpartition("/")[2], before, total) as advance:
            while block := answer.read(BLOCK):
                file.write(block)
                advance(len(block))
    file.flush()
    if total is not None and (size := file.seek(0, os.SEEK_END)) != total:
        raise ConnectionError(f"the connection broke off after {size:,} of {total:,} bytes")


@contextmanager
def _progress(name: str, before: int, total: int | None) -> Iterator[Callable[[int], Any]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("download {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=before)
        yield lambda size: progress.advance(task, size)
