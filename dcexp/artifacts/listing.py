"""The files of an evaluation set: what tells one state of them from another, and the text in them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dcexp.artifacts.files import DIGESTS

TEXTS = {".txt", ".csv"}  # known by their content before they are indexed, tars and zips by their size


def listing(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Files below ``root`` by name: the sha256 of a text, the size of anything else in bytes.

    Raises FileNotFoundError for the first that is not there.
    """
    return {name: _looks(root / name) for name in names}


def _looks(path: Path) -> str:
    return file_digest(path) if path.suffix in TEXTS else f"{path.stat().st_size} bytes"


def file_state(path: Path) -> list[int]:
    """What changes when a file is written: its size, and its time of change in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def file_digest(path: Path) -> str:
    """The sha256 of a text; of anything else, which may be large, the xxh128."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, DIGESTS["sha256" if path.suffix in TEXTS else "xxh128"]).hexdigest()


def lines(path: Path) -> list[str]:
    """The lines, stripped; empty ones are no class and no template. Raises ValueError for what is not UTF-8."""
    found = [line.strip() for line in text_of(path).split("\n")]
    return [line for line in found if line]


def text_of(path: Path) -> str:
    """The text in a file, without a byte order mark. Raises ValueError, naming it, for what is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted text in UTF-8 ({error})") from None
