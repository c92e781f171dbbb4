"""Whole files or none: every file of an artifact appears under its name only when it is complete."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import xxhash

DigestTable = dict[str, dict[str, Any]]
DIGESTS: Mapping[str, Callable[[], Any]] = MappingProxyType({"sha256": hashlib.sha256, "xxh128": xxhash.xxh3_128})


def digest_kind(name: str) -> str:
    """How a file is known: by sha256; tars, of which there may be terabytes, by a digest that costs next to nothing."""
    return "xxh128" if name.endswith(".tar") else "sha256"


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it gets its name by one rename when the block ends well.

    Not ``durable``: the file need not outlive a crash of the machine, as opposed to that of a process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            try:
                yield file
            except OSError as error:
                if error.errno is None:  # numpy says how much it could not write, and not why; it is given up anyway
                    reserve(file, os.fstat(file.fileno()).st_size, 1 << 20)
                raise
            if durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def reserve(file: IO[bytes], start: int, size: int) -> None:
    """Have the disk keep room for a piece of a file. Raises OSError where it has none; macOS cannot be asked."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)


def remove_folder(folder: Path) -> None:
    """Delete a folder that an attempt goes on from: its name goes first, so no attempt ever meets half of it."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented strict JSON (NaN is refused), whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    with whole_file(path) as file:
        file.write(text.encode() + b"\n")


def file_digests(
    folder: Path, skip: Callable[[str], bool], known: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> DigestTable:
    """Size and digest of every file below ``folder``, by relative name, sorted; ``skip`` drops names.

    What is ``known`` (it was hashed while it was written) is taken as it is, if the size is right.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def digest(name: str) -> dict[str, Any]:
        size = (folder / name).stat().st_size
        if name in known and known[name]["bytes"] == size:
            return dict(known[name])
        kind = digest_kind(name)
        with (folder / name).open("rb") as file:
            return {"bytes": size, kind: hashlib.file_digest(file, DIGESTS[kind]).hexdigest()}

    names = [name for name in names if not skip(name)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def content_digest(path: Path) -> str:
    """The sha256 of a file, computed once per process as long as the file does not change."""
    state = path.stat()
    return _content_digest(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _content_digest(path: Path, size: int, mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(table: DigestTable, aside: frozenset[str] = frozenset()) -> str:
    """One sha256 over the names and digests of a table: equal tables, but for ``aside``, mean equal contents."""
    lines = [f"{name} {entry[digest_kind(name)]}\n" for name, entry in sorted(table.items()) if name not in aside]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
