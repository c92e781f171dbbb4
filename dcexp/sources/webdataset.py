"""Bring your own data: a folder of webdataset tars, without metadata."""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.place import absolute, below, is_url, listed, name_of
from dcexp.artifacts.samples import Sample, UnreadableSampleError, read_json, samples_of, uid_of
from dcexp.artifacts.tar import TarReader
from dcexp.engines.base import Engine
from dcexp.sources.base import Source
from dcexp.sources.commonpool import listing_of
from dcexp.sources.index import write_index
from dcexp.sources.scored import METADATA, check_scored, digest_of_state
from dcexp.stage import Step

log = logging.getLogger(__name__)

_LARGEST = 2**63 - 1  # that a column can hold


@dataclass(frozen=True, kw_only=True)
class WebDataset(Source):
    """The tars in the folder ``root``, a path or a URL.

    They stay where they are; metadata are made from what is in them, or are those in the folder ``scored`` where
    ``python -m dcexp score`` has written them, with features.

    Columns: ``uid`` (see :func:`dcexp.artifacts.samples.uid_of`), ``text`` (the txt member, else ``caption`` of the
    json), ``original_width`` and ``original_height`` (from the json, pixels; null where it does not say). The data
    are known by the absolute place of ``root`` and the names and sizes of its tars.
    """

    root: str = field(compare=False)
    scored: str = field(default="", compare=False)

    def step(self) -> Step:
        """The step, with the absolute place and the listing; tars that are not there yet are listed as missing."""
        tars = listing_of(self._root, (".tar",), sizes=True)
        return Step(self, {"folder": self._root, "listing": tars or "missing", **self._scored_step()})

    def _scored_step(self) -> dict[str, str]:
        if not self.scored:
            return {}
        return {"scored": str(self._scored), "scores": digest_of_state(self._scored) or "missing"}

    def check(self, engine: Engine, **values: str) -> None:
        """Raise FileNotFoundError when there are no tars, ValueError when the folder is a pool with metadata.

        Raises ValueError, too, when ``scored`` does not hold finished metadata of just these tars as they are.
        """
        for pool in () if self.scored else (self._root, self._root.rpartition("/")[0]):
            if listed(below(pool, "metadata"), ".parquet"):
                raise ValueError(f"{pool} has metadata beside its shards: source=commonpool source.root={pool}")
        if not listed(self._root, ".tar"):
            there = is_url(self._root) or Path(self._root).is_dir()
            wrong = "has no .tar files directly in it" if there else "is no such directory"
            raise FileNotFoundError(
                f"source.root={self.root}: {self._root} {wrong}; wanted a folder of webdataset tars"
            )
        if self.scored:
            check_scored(self._scored, listed(self._root, ".tar"))

    def run(self, out: Path, engine: Engine, *, folder: str = "", listing: str = "", **scored: str) -> Summary:
        """Write one metadata file per tar into ``out/metadata``, and the index of the pool into ``out``.

        With ``scored``, the index alone is written.
        """
        self.check(engine)
        tars = [below(self._root, name) for name in listed(self._root, ".tar")]
        if self.scored:
            place = self._scored
            return write_index(out, engine, folder=place / METADATA, root=str(place), shards=tars, derived_uids=True)
        tallies = list(engine.map(partial(_describe, out / "metadata"), tars, what="read the tars"))
        damaged = {name_of(tar): damage for tar, (_, damage) in zip(tars, tallies, strict=True) if damage}
        for name, damage in damaged.items():
            log.warning("%s: %s; the samples before that are used", name, damage)
        corrupt = sum(lost for lost, _ in tallies)
        indexed = write_index(out, engine, folder=out / "metadata", root=".", shards=tars, derived_uids=True)
        counts = Counts(total=indexed.counts.kept + corrupt, kept=indexed.counts.kept, corrupt=corrupt)
        facts = {**indexed.facts, "damaged": len(damaged), "damaged_tars": dict(list(damaged.items())[:20])}
        return Summary(counts=counts, facts=facts)

    @property
    def _root(self) -> str:
        return absolute(self.root)

    @property
    def _scored(self) -> Path:
        return Path(self.scored).expanduser().resolve()


def _describe(folder: Path, tar: str) -> tuple[int, str]:
    """Write the metadata of one tar. Returns the number of unreadable samples, and what is wrong with the tar."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    corrupt = 0
    with TarReader(tar) as reader:
        for sample in samples_of(reader.walk()):
            try:
                rows.append(row_of(reader, name_of(tar), sample, read_json(reader, sample)))
            except UnreadableSampleError:
                corrupt += 1
    with whole_file(folder / f"{name_of(tar).removesuffix('.tar')}.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema()), file)
    return corrupt + bool(reader.damage), reader.damage


def schema() -> Any:
    """The columns that every sample has, as pyarrow's schema."""
    import pyarrow as pa

    return pa.schema(
        {"uid": pa.string(), "text": pa.string(), "original_width": pa.int64(), "original_height": pa.int64()}
    )


def row_of(reader: TarReader, tar_name: str, sample: Sample, info: dict[str, Any]) -> dict[str, Any]:
    """The values of these columns for a sample whose json says ``info``. Raises UnreadableSampleError."""
    return {
        "uid": uid_of(info, tar_name, sample.key, derived=True).hex(),
        "text": _text(reader, sample, info),
        "original_width": _pixels(info, "original_width", "width"),
        "original_height": _pixels(info, "original_height", "height"),
    }


def _text(reader: TarReader, sample: Sample, info: dict[str, Any]) -> str | None:
    place = sample.members.get("txt")
    if place is None:
        caption = info.get("caption")
        if not isinstance(caption, str):
            return None
        content = caption.encode("utf-8", "surrogatepass")
    else:
        content = reader.read(*place)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UnreadableSampleError(f"{sample.key!r}: its text is not UTF-8") from None


def _pixels(info: dict[str, Any], *names: str) -> int | None:
    return next((info[name] for name in names if type(info.get(name)) is int and abs(info[name]) <= _LARGEST), None)
