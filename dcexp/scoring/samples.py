"""What is in a tar that is to be scored: the rows of its metadata, and images and captions a few at a time."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dcexp.artifacts.place import exists, name_of, open_place
from dcexp.artifacts.samples import Sample, UnreadableSampleError, read_json, samples_of
from dcexp.artifacts.tar import TarReader
from dcexp.sources.webdataset import row_of, schema
from dcexp.training.reading import IMAGES

log = logging.getLogger(__name__)

TOGETHER = 64  # samples in a piece
OF_JSON = ("url", "sha256")  # further columns of CommonPool that img2dataset's json has


class Raw(NamedTuple):
    """What a model is given of a sample: the file of its image, and its caption; None where there is none."""

    image: bytes | None
    text: str | None


class Reading:
    """One walk through a tar. ``rows`` and ``keys`` grow with it: those of source=webdataset, in its order.

    ``corrupt`` counts samples that have no row, for their json or caption cannot be read, and the end of a damaged
    tar as one. Memory: the rows, and a piece.
    """

    def __init__(self, reader: TarReader, tar: str) -> None:
        self._reader, self._tar = reader, tar
        self.rows: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.corrupt = 0

    def pieces(self, together: int = TOGETHER) -> Iterator[list[Raw]]:
        """The samples in order, so many at a time; the last are fewer."""
        piece: list[Raw] = []
        for sample in samples_of(self._reader.walk()):
            try:
                piece.append(self._taken(sample))
            except UnreadableSampleError:
                self.corrupt += 1
            if len(piece) == together:
                yield piece
                piece = []
        if piece:
            yield piece
        self.corrupt += bool(self._reader.damage)

    def _taken(self, sample: Sample) -> Raw:
        info = read_json(self._reader, sample)
        row = row_of(self._reader, name_of(self._tar), sample, info)
        more = {name: info[name] for name in OF_JSON if _is_text(info.get(name))}
        self.rows.append(row | more)
        self.keys.append(sample.key.rpartition(b"/")[2].decode("utf-8", "backslashreplace"))
        place = next((sample.members[suffix] for suffix in IMAGES if suffix in sample.members), None)
        return Raw(None if place is None else self._reader.read(*place), row["text"])

    def table(self) -> Any:
        """The metadata as a pyarrow Table; with the columns of img2dataset's report, where one lies beside the tar."""
        import pyarrow as pa

        kinds = schema()
        for name in OF_JSON:
            kinds = kinds.append(pa.field(name, pa.string())) if any(name in row for row in self.rows) else kinds
        report = f"{self._tar.removesuffix('.tar')}.parquet"
        return _with_report(pa.Table.from_pylist(self.rows, kinds), self.keys, report)


def _is_text(value: object) -> bool:
    """Whether it is text that a column can hold: json may have half a surrogate pair."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def _with_report(table: Any, keys: Sequence[str], place: str) -> Any:
    """``table`` and the columns of the report at ``place``, found by img2dataset's ``key``, or else by uid.

    Where both have a column, the report says what the samples themselves do not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not exists(place):
        return table
    try:
        report = pq.read_table(pa.BufferReader(_content(place)), use_threads=False)
        by = next((name for name in ("key", "uid") if name in report.column_names), "")
        if not by:
            return table
        rows = {value: row for row, value in enumerate(report[by].to_pylist())}
        wanted = keys if by == "key" else table["uid"].to_pylist()
        found = report.take(pa.array([rows.get(value) for value in wanted], pa.int64()))
        columns = {name: table[name] for name in table.column_names}
        for name in found.column_names:
            if name not in columns:
                columns[name] = found[name]
            elif name not in ("uid", "text"):
                columns[name] = pc.coalesce(table[name], found[name].cast(table[name].type))
        return pa.table(columns)
    except (pa.ArrowException, OSError) as error:
        log.warning("%s cannot be used, so its columns are left out: %s", place, error)
        return table


def _content(place: str) -> bytes:
    file = open_place(place)
    try:
        return file.read(0, file.size)
    finally:
        file.close()
