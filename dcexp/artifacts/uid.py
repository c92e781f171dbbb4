"""Uids: 128-bit sample identifiers, hex text outside, two u64 inside (upstream's ``u8,u8``)."""

import binascii
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

UID = np.dtype("u8,u8")
DIGITS = 32

Uids = npt.NDArray[np.void]
Indices = npt.NDArray[np.int64]

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_BLOCK = 1 << 22  # uids looked at together where the whole array may be larger than memory


def parse_uids(column: Any) -> Uids:
    """Turn a pyarrow string column (array or chunked) or a list of str into uids, shape (n,), dtype u8,u8.

    A uid of fewer than 32 digits is the same number without its leading zeros, and is read as that. Raises
    ValueError naming the first value that is not 1 to 32 hexadecimal digits.
    """
    return uids_from_bytes(uid_bytes(column))


def uid_bytes(column: Any) -> bytes:
    """The uids of a column, as for :func:`parse_uids`, as 16 big-endian bytes each."""
    parsed, row = [], 0
    for chunk in _chunks(column):
        parsed.append(_parse(chunk, row))
        row += len(chunk)
    return parsed[0] if len(parsed) == 1 else b"".join(parsed)


def count_short(column: Any) -> int:
    """How many uids of a column (as for :func:`parse_uids`) lack leading zeros."""
    import pyarrow.compute as pc

    lengths = [pc.binary_length(chunk).to_numpy(zero_copy_only=False) for chunk in _chunks(column) if len(chunk)]
    return sum(int((length < DIGITS).sum()) for length in lengths)


def is_text(kind: Any) -> bool:
    """True for pyarrow's types of text."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _chunks(column: Any) -> list[Any]:
    import pyarrow as pa

    array = pa.array(column, pa.large_string()) if isinstance(column, list) else column
    chunks: list[Any] = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return chunks


def _parse(array: Any, first_row: int) -> bytes:
    import pyarrow as pa

    if len(array) == 0:
        return b""
    if not is_text(array.type):
        raise ValueError(f"a uid is 32 hexadecimal digits of text; this column holds {array.type}")
    text = array.cast(pa.large_string())
    given, offsets = text, _offsets(text)
    if text.null_count or (np.diff(offsets) != DIGITS).any():
        text = _padded(text, first_row)
        offsets = _offsets(text)
    try:
        return binascii.unhexlify(memoryview(text.buffers()[2])[offsets[0] : offsets[-1]])
    except binascii.Error:
        raise ValueError(_complaint(given.to_pylist(), first_row)) from None


def _offsets(text: Any) -> Indices:
    return np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]


def _padded(text: Any, first_row: int) -> Any:
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy(zero_copy_only=False)
    if ((lengths < 1) | (lengths > DIGITS)).any():
        raise ValueError(_complaint(text.to_pylist(), first_row))
    return pc.ascii_lpad(text, DIGITS, "0")


def _complaint(values: list[str | None], first_row: int) -> str:
    hexadecimal = frozenset("0123456789abcdefABCDEF")
    row, bad = next(
        (i, v) for i, v in enumerate(values) if not v or len(v) > DIGITS or set(v) - hexadecimal or not v.isascii()
    )
    return f"a uid is 32 hexadecimal digits; row {first_row + row} holds {bad!r}"


def uids_from_bytes(raw: bytes) -> Uids:
    """Turn 16 big-endian bytes per uid into uids, shape (len(raw) / 16,)."""
    halves = np.frombuffer(raw, dtype=np.uint64)
    return (halves.byteswap() if sys.byteorder == "little" else halves).view(UID)


def format_uid(uid: Any) -> str:
    """The 32 lower-case hexadecimal digits of one uid."""
    return f"{int(uid[0]):016x}{int(uid[1]):016x}"


def uid_digits(uids: Uids) -> npt.NDArray[np.uint8]:
    """The 32 lower-case hexadecimal digits of many uids, shape (n, 32)."""
    raw = np.stack([uids["f0"], uids["f1"]], axis=1).astype(">u8").view(np.uint8).reshape(-1, DIGITS // 2)
    return _HEX[np.stack([raw >> 4, raw & 15], axis=2).reshape(-1, DIGITS)]


def format_uids(uids: Uids) -> list[str]:
    """The digits of many uids as text."""
    text: list[str] = uid_digits(uids).view(f"S{DIGITS}").ravel().astype(str).tolist()
    return text


def sort_uids(uids: Uids, *, in_runs: bool = False) -> Uids:
    """Uids in lexicographic order; equal uids end up side by side.

    ``in_runs``: they are a few sorted lists, one behind the other, which are merged three times as fast.
    """
    # Numbers sort three times as fast as an order of numbers, so the leading bits of a uid and its row are sorted
    # as one number. Real uids are hashes: few share their leading bits, and only those are sorted again.
    bits = len(uids).bit_length()
    keys = (uids["f0"] >> bits << bits) | np.arange(len(uids), dtype=np.uint64)
    keys.sort(kind="stable" if in_runs else None)
    rows = np.ascontiguousarray(uids).view(np.uint64).reshape(-1, 2)
    rows = rows.take((keys & ((1 << bits) - 1)).view(np.int64), axis=0)
    keys >>= bits
    equal = keys[1:] == keys[:-1]
    if equal.any():
        tied = np.append(equal, False) | np.insert(equal, 0, False)
        group = rows[tied]
        rows[tied] = group[np.lexsort((group[:, 1], group[:, 0]))]
    return rows.reshape(-1).view(UID)


def is_sorted(uids: Uids) -> bool:
    """True when the uids are in lexicographic order (repeats allowed)."""
    for start in range(0, max(len(uids) - 1, 0), _BLOCK):
        high, low = uids["f0"][start : start + _BLOCK + 1], uids["f1"][start : start + _BLOCK + 1]
        later = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
        if not later.all():
            return False
    return True


def firsts(uids: Uids) -> npt.NDArray[np.bool_]:
    """True where a sorted array holds a uid for the first time: selects the distinct uids."""
    new = np.ones(len(uids), dtype=bool)
    new[1:] = (uids["f0"][1:] != uids["f0"][:-1]) | (uids["f1"][1:] != uids["f1"][:-1])
    return new


def begins(new: npt.NDArray[np.bool_]) -> Indices:
    """Where the run of equal uids begins that each stands in, by the outcome of :func:`firsts`, shape (len(new),)."""
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
