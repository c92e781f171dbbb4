"""Uids: 128-bit sample identifiers, hex text outside, two u64 inside (upstream's ``u8,u8``)."""

from typing import Any

import numpy as np
import numpy.typing as npt

UID = np.dtype("u8,u8")
DIGITS = 32

Uids = npt.NDArray[np.void]

_NIBBLE = np.full(256, 255, dtype=np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)
_NIBBLE[np.frombuffer(b"ABCDEF", dtype=np.uint8)] = np.arange(10, 16)


def parse_uids(column: Any) -> Uids:
    """Turn a pyarrow string column (array or chunked) or a list of str into uids, shape (n,), dtype u8,u8.

    Raises ValueError naming the first value that is not 32 hexadecimal digits.
    """
    import pyarrow as pa

    array = pa.array(column) if isinstance(column, list) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks leaves a list when 2 GiB are exceeded
        return np.concatenate([parse_uids(chunk) for chunk in array.chunks])
    if len(array) == 0:
        return np.empty(0, dtype=UID)
    text = array.cast(pa.large_string())
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    if text.null_count or (np.diff(offsets) != DIGITS).any():
        raise ValueError(_complaint(text.to_pylist()))
    data = np.frombuffer(text.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    nibbles = _NIBBLE[data].reshape(-1, DIGITS)
    if (nibbles == 255).any():
        raise ValueError(_complaint(text.to_pylist()))
    halves = ((nibbles[:, 0::2] << 4) | nibbles[:, 1::2]).view(">u8").astype(np.uint64)
    return np.ascontiguousarray(halves).view(UID).reshape(-1)


def _complaint(values: list[str | None]) -> str:
    hexadecimal = frozenset("0123456789abcdefABCDEF")
    row, bad = next((i, v) for i, v in enumerate(values) if v is None or len(v) != DIGITS or set(v) - hexadecimal)
    return f"a uid is 32 hexadecimal digits; row {row} holds {bad!r}"


def format_uid(uid: Any) -> str:
    """The 32 lower-case hexadecimal digits of one uid."""
    return f"{int(uid[0]):016x}{int(uid[1]):016x}"


def sort_uids(uids: Uids) -> Uids:
    """Uids in lexicographic order; equal uids end up side by side."""
    order = np.lexsort((uids["f1"], uids["f0"]))
    return uids[order]


def is_sorted(uids: Uids) -> bool:
    """True when the uids are in lexicographic order (repeats allowed)."""
    high, low = uids["f0"], uids["f1"]
    later = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
    return bool(later.all())


def count_in(wanted: Uids, uids: Uids) -> npt.NDArray[np.int64]:
    """How often each of ``uids`` stands in the sorted array ``wanted``, shape (len(uids),)."""
    left = np.searchsorted(wanted, uids, side="left")
    right = np.searchsorted(wanted, uids, side="right")
    return right - left
