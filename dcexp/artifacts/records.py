"""Records as JSON Lines: one object a line, in a file that may be read while it is written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dcexp.artifacts.files import whole_file


def records_in(text: str) -> list[dict[str, Any]]:
    """The records of a file's text; a last line that was cut off, or is still being written, is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the file anew, strict JSON (NaN is refused); whoever reads it meanwhile sees the old one or the new one."""
    with whole_file(path) as file:
        file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
