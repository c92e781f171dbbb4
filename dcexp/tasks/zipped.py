"""Pictures in zip files: found by their names, to be read where they lie. Nothing is extracted."""

import struct
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from dcexp.artifacts.place import LocalFile
from dcexp.tasks.layouts import Spot

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, and the lengths of the name and of the extra field behind it
_SIGNATURE = b"PK\3\4"
_UNREADABLE = 0x1 | 0x20 | 0x40  # flags: encrypted, a patch to another file, strongly encrypted
_METHODS = {zipfile.ZIP_STORED: False, zipfile.ZIP_DEFLATED: True}


def zipped(root: Path, archive: str, wanted: Mapping[str, str]) -> dict[str, Spot]:
    """Where in the zip file ``root/archive`` the members lie whose names, without folders, are the keys of ``wanted``.

    Its values say who wants them, for messages. Raises ValueError for a damaged archive, for a member that is not
    there, is there twice, is cut off, or is neither stored nor deflated.
    """
    path = root / archive
    members = _members(path)
    file = LocalFile(str(path))
    try:
        return {name: _spot(file, archive, _only(path, members[name], name, wanted[name])) for name in wanted}
    finally:
        file.close()


def _members(path: Path) -> defaultdict[str, list[zipfile.ZipInfo]]:
    """The central directory, by the last part of the names."""
    members = defaultdict(list)
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                members[info.filename.rpartition("/")[2]].append(info)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"{path} is truncated, damaged or no zip file ({error}); download it again") from None
    return members


def _only(path: Path, found: list[zipfile.ZipInfo], name: str, place: str) -> zipfile.ZipInfo:
    if not found:
        raise ValueError(f"{place}: {name!r} is not in {path}")
    if len(found) > 1:
        names = ", ".join(info.filename for info in found[:3])
        raise ValueError(f"{place}: {name!r} is in {path} more than once: {names}")
    info = found[0]
    if info.flag_bits & _UNREADABLE or info.compress_type not in _METHODS:
        raise ValueError(
            f"{path}: {info.filename}: wanted a member that is stored or deflated, not encrypted; "
            f"got method {info.compress_type}, flags {info.flag_bits:#x}"
        )
    return info


def _spot(file: LocalFile, archive: str, info: zipfile.ZipInfo) -> Spot:
    """Where the data are. The directory only knows where the member's own header is, which may be of another length."""
    header = file.read(info.header_offset, _LOCAL_HEADER.size) if info.header_offset >= 0 else b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_SIGNATURE):
        raise ValueError(f"{file.place} is damaged: no header of {info.filename} where it should be; download it again")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + name + extra
    if offset + info.compress_size > file.size:
        raise ValueError(f"{file.place} is damaged: it ends inside {info.filename}; download it again")
    return Spot(archive, offset, info.compress_size, _METHODS[info.compress_type], info.filename)
