"""Folders that end up the same whatever an interrupted attempt left in them."""

from collections.abc import Callable, Iterable
from pathlib import Path


def write_folder(folder: Path, files: Iterable[tuple[str, Callable[[Path], None]]]) -> None:
    """Make `folder` hold exactly `files`: pairs of a name and what writes it to a path.

    Each file is written beside its place and renamed, so a file that has its name is whole. Everything else in
    the folder is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = set()
    for name, write in files:
        partial = folder / f"{name}.partial"
        write(partial)
        partial.replace(folder / name)
        names.add(name)
    for stray in folder.iterdir():
        if stray.name not in names:
            stray.unlink()
