"""Copies: of samples that have the same image, or the same caption, only some stay, the best ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from dcexp.artifacts.uid import Uids, is_text, uids_from_bytes
from dcexp.filters.cut import Apart
from dcexp.filters.grouped import GroupedScore, Members
from dcexp.filters.groups import Arrays, in_order, places
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers

QUALITY = "clip_l14_similarity_score"
SPACE = r"[\s\v\p{Z}\x{1c}-\x{1f}\x{85}]+"  # white space as Unicode has it; \s is ASCII, without \v


@dataclass(frozen=True, kw_only=True)
class CopyPlace(GroupedScore):
    """Minus the number of better copies that a row has: rows that have the same in ``column``; 0 for the best.

    Better is a higher ``quality``, a column of numbers, then a lower uid; ``quality=""``: the uid alone. In texts
    neither case, nor Unicode's compatible forms, nor the amount of white space count unless ``normalise`` is false.
    They are compared by 128 bits of xxh3. Rows that lack one of the columns have no score.
    """

    column: str
    quality: str = QUALITY
    normalise: bool = True

    arrays = ("uids", "worse")

    def needs(self) -> tuple[str, ...]:
        """Both columns."""
        return (self.column, *([self.quality] if self.quality else []))

    def members(self, rows: Rows, **extra: Any) -> Members:
        """All rows."""
        worse = -rows.numbers(self.quality).astype(np.float64) if self.quality else np.zeros(len(rows))
        return Members(keys=self._digests(rows), arrays={"uids": rows.uids(), "worse": worse})

    def judge(self, keys: Uids, arrays: Arrays) -> Numbers:
        """The numbers, from 0 downwards."""
        uids = arrays["uids"]
        return -places(*in_order(keys, arrays["worse"], uids["f0"], uids["f1"])).astype(np.float64)

    def _digests(self, rows: Rows) -> Uids:
        """128 bits for what each row has in the column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = rows.table[self.column].combine_chunks()
        if pa.types.is_primitive(column.type):
            column = column.cast(pa.large_string())
        elif is_text(column.type) and self.normalise:
            column = pc.utf8_lower(pc.utf8_normalize(column.cast(pa.large_string()), "NFKC"))
            column = pc.utf8_trim_whitespace(pc.replace_substring_regex(column, SPACE, " "))
        try:
            found = column.cast(pa.large_binary()).dictionary_encode()
        except pa.ArrowNotImplementedError:
            raise ValueError(
                f"{rows.part.parquet}: column {self.column!r} holds {column.type}; wanted text, bytes or numbers"
            ) from None
        digests = b"".join(xxhash.xxh3_128_digest(value) for value in found.dictionary.to_pylist())
        return uids_from_bytes(digests)[found.indices.to_numpy()]


@dataclass(frozen=True, kw_only=True)
class Copies(Apart):
    """Keeps of all samples that have the same in ``column`` the best, ``most`` of them.

    ``column="sha256"``, the digest of the image file, leaves out exact copies of images; ``column="text"`` caps how
    often a caption may come. The other fields: see :class:`CopyPlace`, which is made once for all values of ``most``.
    After another filter only what that has kept is compared.
    """

    column: str
    most: int
    quality: str = QUALITY
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 1:
            raise ValueError(f"filter.most={self.most}: wanted 1 or more copies to keep")

    def by(self) -> CopyPlace:
        """The place among the copies."""
        return CopyPlace(column=self.column, quality=self.quality, normalise=self.normalise)

    def least(self) -> float:
        """That of the last that stays."""
        return 1.0 - self.most
