"""What is in an npz file, without reading the numbers."""

import zipfile
from pathlib import Path

import numpy as np

from dcexp.artifacts.pool import REMEDY, DamagedError


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an npz, from their headers alone.

    Raises ValueError for arrays of pickled objects and for files that are no npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {member: _npy_header(archive, member) for member in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
        raise DamagedError(f"{path} is not a readable npz file (truncated, or something else). {REMEDY}") from None
    pickled = [member for member, (_, holds_objects) in headers.items() if holds_objects]
    if pickled:
        raise DamagedError(f"{path}: array {pickled[0]!r} holds pickled objects, which could run code; refused")
    return {member.removesuffix(".npy"): shape for member, (shape, _) in headers.items()}


def _npy_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], bool]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, bool(dtype.hasobject)
