"""Tables as csv, some of whose fields are JSON lists of strings: read whole, or refused where the mistake is."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_LONGEST_FIELD = 1 << 30  # characters


class Row(NamedTuple):
    """One row: its fields by column, and for messages its file and number, counted from 1 behind the header."""

    place: str
    fields: dict[str, str]


def read_table(path: Path, wanted: Sequence[str]) -> list[Row]:
    """The rows of a csv file in UTF-8 with a header in which each of the columns ``wanted`` stands once.

    Fields in quotes may hold newlines; empty lines are no rows. Raises ValueError for other columns, a row with more
    or fewer fields than the header, NUL, other encodings and open quotes.
    """
    rows: list[Row] = []
    with _long_fields():
        lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
        try:
            columns = next(lines, [])
            if any(columns.count(name) != 1 for name in wanted):
                found = ", ".join(columns)[:300] or "none"
                raise ValueError(f"{path}: wanted the columns {', '.join(wanted)}, found {found}")
            for fields in filter(None, lines):
                place = f"{path}, row {len(rows) + 1}"
                if len(fields) != len(columns):
                    raise ValueError(f"{place}: wanted {len(columns)} fields as in the header, found {len(fields)}")
                rows.append(Row(place, dict(zip(columns, fields, strict=True))))
        except csv.Error as error:
            raise ValueError(f"{path}, row {len(rows) + 1}: not readable as csv ({error})") from None
    return rows


def strings(place: str, name: str, value: Any) -> list[str]:
    """``value``, if it is a list of strings. Raises ValueError with its ``place`` and the ``name`` of its column."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{place}: {name}: wanted a list of strings, got {str(value)[:80]!r}")
    try:
        "".join(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: {name}: not Unicode text ({error})") from None
    return value


def json_strings(row: Row, name: str) -> list[str]:
    """The list of strings that the field ``name`` holds as JSON. Raises ValueError with the place."""
    text = row.fields[name]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{row.place}: {name}: wanted a JSON list of strings, got {text[:80]!r}") from None
    return strings(row.place, name, value)


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        wrong, what = content.find(b"\0"), "a NUL byte"
    except UnicodeDecodeError as error:
        wrong, what = error.start, "not UTF-8"
    if wrong >= 0:
        line = content.count(b"\n", 0, wrong) + 1
        raise ValueError(f"{path}, line {line}: {what} at byte {wrong:,}; download it again")
    return text


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module has one limit for all; its own is soon reached by a column of tokens."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
