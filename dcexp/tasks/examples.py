"""Test images and their labels out of the tars of an evaluation set: every one, or an error that names it."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = ("webp", "png", "jpg", "jpeg")  # in the order in which upstream looks for them
BLOCK = 512

Members = dict[str, tarfile.TarInfo]


@dataclass(frozen=True, slots=True)
class Example:
    """One test image, still encoded, and the position of its class; ``place`` is its tar and its name there."""

    place: str
    image: bytes
    label: int

    def decode(self) -> "Image":
        """The picture in RGB (upstream converts before it resizes). Raises ValueError naming the image."""
        from PIL import Image

        try:
            return Image.open(io.BytesIO(self.image)).convert("RGB")
        except Exception as error:  # Pillow raises anything from OSError to SyntaxError, by format and damage
            raise ValueError(f"{self.place}: not a readable image ({error})") from None


def examples(tar: Path, classes: int) -> Iterator[Example]:
    """The examples of one tar in its order. Raises ValueError for a damaged tar, a missing image or label."""
    with _opened(tar) as archive:
        for key, members in _samples(archive, tar):
            place = f"{tar}: {key}"
            image, label = _pair(place, members)
            position = _position(_read(archive, label), classes, place)
            yield Example(place, _read(archive, image), position)


def count_examples(tar: Path) -> int:
    """How many examples are in ``tar``, from its headers alone. Raises like :func:`examples`."""
    with _opened(tar) as archive:
        return len([_pair(f"{tar}: {key}", members) for key, members in _samples(archive, tar)])


@contextmanager
def _opened(tar: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(tar, "r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{tar} is truncated or no tar ({error}); download it again") from None


def _samples(archive: tarfile.TarFile, tar: Path) -> Iterator[tuple[str, Members]]:
    """The members of each sample by extension: as in webdataset, neighbours whose names agree up to the first dot."""
    for key, members in groupby(_files(archive, tar), key=lambda member: _split(member.name)[0]):
        sample: Members = {}
        for member in members:
            extension = _split(member.name)[1]
            if extension in sample:
                raise ValueError(f"{tar}: {member.name} occurs twice")
            sample[extension] = member
        yield key, sample


def _files(archive: tarfile.TarFile, tar: Path) -> Iterator[tarfile.TarInfo]:
    last = None
    for last in archive:
        if last.isfile():
            yield last
    _assert_ended(tar, last)


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _assert_ended(tar: Path, last: tarfile.TarInfo | None) -> None:
    """A tar ends with blocks of zeros. Python's reader takes a damaged header for the end, so look what is there."""
    with tar.open("rb") as file:
        file.seek(last.offset_data + -(-last.size // BLOCK) * BLOCK if last else 0)
        if file.read(BLOCK) != bytes(BLOCK):
            where = f"after {last.name}" if last else "at its start"
            raise ValueError(f"{tar} is truncated or damaged {where}; download it again")


def _pair(place: str, members: Members) -> tuple[tarfile.TarInfo, tarfile.TarInfo]:
    """The image and the label of a sample."""
    image = next((members[extension] for extension in IMAGES if extension in members), None)
    if image is None or "cls" not in members:
        raise ValueError(
            f"{place}: wanted an image (.{', .'.join(IMAGES)}) and a label (.cls), found .{', .'.join(sorted(members))}"
        )
    return image, members["cls"]


def _position(text: bytes, classes: int, place: str) -> int:
    if not text.strip().isdigit() or int(text) >= classes:
        raise ValueError(f"{place}.cls: wanted the position of a class, 0 to {classes - 1}, got {text[:40]!r}")
    return int(text)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()
