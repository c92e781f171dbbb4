"""Tars of an evaluation set by their headers: where each image is, its label and its integers; or an error."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcexp.artifacts.listing import text_of
from dcexp.artifacts.tar import TarReader

IMAGES = ("webp", "png", "jpg", "jpeg")  # in the order in which upstream looks for them
NSHARDS = "test/nshards.txt"
NPY, LARGEST = b"\x93NUMPY", 2**63 - 1
READ = ("cls", "npy", "txt")  # what is read at once, of whatever length; an image only when it is looked at


class Member(NamedTuple):
    """A file in a tar: where its bytes are, and for one of ``READ`` what they are."""

    offset: int
    size: int
    content: bytes = b""


class Sample(NamedTuple):
    """One sample: ``name`` as its key stands in the tar, and its members by extension."""

    name: str
    members: Mapping[str, Member]

    @property
    def image(self) -> Member | None:
        """The image, of several the first in upstream's order."""
        return next((self.members[extension] for extension in IMAGES if extension in self.members), None)


def shard_names(root: Path) -> list[str]:
    """The tars that ``test/nshards.txt`` speaks of: ``test/0.tar`` to ``test/<n-1>.tar``. Raises ValueError."""
    text = text_of(root / NSHARDS).strip()
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise ValueError(f"{root / NSHARDS}: wanted the number of tars, got {text[:40]!r}")
    return [f"test/{i}.tar" for i in range(int(text))]


def samples(tar: Path, wanted: Sequence[str]) -> Iterator[Sample]:
    """The samples of one tar in its order: neighbours whose names agree up to the first dot, as in webdataset.

    Raises ValueError for a damaged tar, and for a sample without an image or one of the extensions ``wanted``.
    """
    for key, files in groupby(_files(tar), key=lambda file: file[0]):
        members: dict[str, Member] = {}
        for _, extension, member in files:
            if extension in members:
                raise ValueError(f"{tar}: {key}.{extension} occurs twice")
            members[extension] = member
        sample = Sample(key, members)
        if sample.image is None or any(extension not in members for extension in wanted):
            found = ", .".join(sorted(members))
            also = "".join(f" and a .{extension}" for extension in wanted)
            raise ValueError(f"{tar}: {key}: wanted an image (.{', .'.join(IMAGES)}){also}, found .{found}")
        yield sample


def picture_columns(tar: str, found: Iterable[Sample]) -> dict[str, list[Any]]:
    """The columns of ``pictures.parquet`` for the samples of the tar of that name."""
    named = [(sample.name, sample.image) for sample in found]
    return {
        "file": [tar] * len(named),
        "offset": [image.offset for _, image in named if image],
        "size": [image.size for _, image in named if image],
        "deflated": [False] * len(named),
        "name": [name for name, _ in named],
    }


def _files(tar: Path) -> Iterator[tuple[str, str, Member]]:
    with TarReader(str(tar)) as reader:
        for window in reader.walk():
            for name, offset, size in zip(window.names, window.offsets, window.sizes, strict=True):
                key, extension = _split(name.decode("utf-8", "backslashreplace"))
                content = reader.read(offset, size) if extension in READ else b""
                yield key, extension, Member(offset, size, content)
        if reader.damage:
            raise ValueError(f"{tar} is truncated or damaged ({reader.damage}); download it again")


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def label(sample: Sample, tar: Path) -> int:
    """The position of the sample's class, from its ``.cls``. Raises ValueError."""
    text = sample.members["cls"].content.strip()
    if not text.isdigit() or len(text) > 9:
        raise ValueError(f"{tar}: {sample.name}.cls: wanted the position of a class, got {text[:40]!r}")
    return int(text)


def integers(sample: Sample, tar: Path) -> list[int]:
    """The vector of integers in the sample's ``.npy``. Raises ValueError; never unpickles."""
    place, content = f"{tar}: {sample.name}.npy", sample.members["npy"].content
    if not content.startswith(NPY):
        raise ValueError(f"{place}: not a readable array of numbers (it begins with {content[:8]!r})")
    try:
        vector = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a damaged header can end in anything from SyntaxError to MemoryError
        raise ValueError(f"{place}: not a readable array of numbers ({error})") from None
    if vector.ndim != 1 or vector.dtype.kind not in "iu" or (vector > LARGEST).any():
        raise ValueError(f"{place}: wanted a vector of integers below 2**63, got {vector.dtype} {vector.shape}")
    return [int(value) for value in vector]
