"""Uids: 128-bit sample identifiers, hex text outside, two u64 inside (upstream's ``u8,u8``)."""

import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

UID = np.dtype("u8,u8")
DIGITS = 32

Uids = npt.NDArray[np.void]

_BLOCK = 1 << 22  # uids looked at together where an array may be larger than memory


def parse_uids(column: Any) -> Uids:
    """Turn a pyarrow string column (array or chunked) or a list of str into uids, shape (n,), dtype u8,u8.

    Raises ValueError naming the first value that is not 32 hexadecimal digits.
    """
    import pyarrow as pa

    array = pa.array(column, pa.large_string()) if isinstance(column, list) else column
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    starts = np.cumsum([0, *map(len, chunks)])
    parsed = [_parse(chunk, int(row)) for chunk, row in zip(chunks, starts, strict=False) if len(chunk)]
    return parsed[0] if len(parsed) == 1 else np.concatenate([np.empty(0, UID), *parsed])


def _parse(array: Any, first_row: int) -> Uids:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.can_cast(array.type, pa.large_string()) if hasattr(pc, "can_cast") else False:
        raise ValueError
    text = array.cast(pa.large_string())
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    if text.null_count or (np.diff(offsets) != DIGITS).any():
        raise ValueError(_complaint(text.to_pylist(), first_row))
    try:
        raw = binascii.unhexlify(memoryview(text.buffers()[2])[offsets[0] : offsets[-1]])
    except binascii.Error:
        raise ValueError(_complaint(text.to_pylist(), first_row)) from None
    return uids_from_bytes(raw)
