"""Pictures: where the encoded bytes of every test image lie, so that any of them can be read without the others."""

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.place import LocalFile

if TYPE_CHECKING:
    from PIL.Image import Image

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Encoded images in files below ``root``: image i is ``sizes[i]`` bytes from ``offsets[i]`` of ``files[file[i]]``.

    ``files`` are relative to ``root``, or absolute; the bytes of a ``deflated`` one are a raw deflate stream, as in
    zip files. ``names`` say which image it is to a person.
    """

    root: Path
    files: Sequence[str]
    file: Ints
    offsets: Ints
    sizes: Ints
    deflated: npt.NDArray[np.bool_]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.file, self.offsets, self.sizes, self.deflated, self.names)}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"

    def place(self, i: int) -> str:
        """The file and the name of image ``i``, for messages."""
        return f"{self.root / self.files[self.file[i]]}: {self.names[i]}"

    def encoded(self, i: int) -> bytes:
        """The bytes of image ``i``; any thread may ask. Raises ValueError, naming it, where they are not to be had."""
        file = LocalFile(str(self.root / self.files[self.file[i]]))  # not kept open: there may be one for each image
        try:
            content = file.read(int(self.offsets[i]), int(self.sizes[i]))
        finally:
            file.close()
        if len(content) < self.sizes[i]:
            raise ValueError(f"{self.place(i)}: the file ends before it")
        if not self.deflated[i]:
            return content
        try:
            return zlib.decompress(content, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise ValueError(f"{self.place(i)}: damaged in its zip file ({error})") from None

    def image(self, i: int) -> "Image":
        """Image ``i`` in its own mode, not turned by what EXIF says. Raises ValueError naming an unreadable one."""
        from PIL import Image, UnidentifiedImageError

        content = self.encoded(i)
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except Exception as error:  # Pillow raises anything from OSError to SyntaxError, by format and damage
            what = f"no known format, {len(content)} bytes" if isinstance(error, UnidentifiedImageError) else error
            raise ValueError(f"{self.place(i)}: not a readable image ({what})") from None
        return image

    def columns(self) -> dict[str, Any]:
        """What a parquet file holds of them, by column."""
        return {
            "file": np.asarray(self.files, dtype=object)[self.file],
            "offset": self.offsets,
            "size": self.sizes,
            "deflated": self.deflated,
            "name": list(self.names),
        }

    @classmethod
    def of(cls, root: Path, columns: Mapping[str, Any]) -> "Pictures":
        """From the columns of :meth:`columns`, as lists or arrays."""
        files, file = np.unique(np.asarray(columns["file"], dtype=str), return_inverse=True)
        return cls(
            root=root,
            files=files.tolist(),
            file=file.astype(np.int64),
            offsets=np.asarray(columns["offset"], np.int64),
            sizes=np.asarray(columns["size"], np.int64),
            deflated=np.asarray(columns["deflated"], np.bool_),
            names=list(columns["name"]),
        )
