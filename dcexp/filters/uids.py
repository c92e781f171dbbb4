"""Your own list of uids: the way in for any selection made elsewhere."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Summary
from dcexp.artifacts.files import content_digest, whole_file
from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.merge import joined
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.subset import Subset, read_subset
from dcexp.artifacts.uid import UID, Indices, Uids, firsts, format_uid, parse_uids, sort_uids
from dcexp.engines.base import Engine
from dcexp.filters.base import Filter
from dcexp.filters.outcome import conclude
from dcexp.filters.rows import unless_damaged
from dcexp.stage import Step

LISTED = "listed.npy"  # the list as it is being looked up


@dataclass(frozen=True, kw_only=True)
class UidList(Filter):
    """The uids in the file ``path``; one that stands there n times is taken n times.

    ``.npy`` is upstream's subset format (dtype u8,u8, sorted), ``.parquet`` has a column ``uid``, anything else is
    text with one uid per line. ``foreign`` says what to do with uids that are not in the pool. The list is known by
    its content, so it may lie anywhere: ``path`` is not compared.
    """

    path: str = field(compare=False)
    foreign: Literal["refuse", "drop"] = "refuse"

    def extra(self, pool: Step) -> dict[str, Any]:
        """A digest of the file's content ("missing" when it is not there yet)."""
        return {"content": content_digest(self._path) if self._path.is_file() else "missing"}

    def check(self, engine: Engine, **values: str) -> None:
        """Raise FileNotFoundError when the list is not there."""
        if not self._path.is_file():
            raise FileNotFoundError(
                f"filter.path={self.path}: no such file ({self._path}). Wanted a list of uids: .npy (u8,u8, sorted), "
                ".parquet with a column uid, or text with one uid per line"
            )

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, content: str = "") -> Summary:
        """Write the subset: the listed uids that the pool has. Raises ValueError for foreign uids, or drops them."""
        self.check(engine)
        if content and content != content_digest(self._path):
            raise ValueError(f"{self._path} was changed while the run was going; give the same command again")
        listed = sort_uids(read_uids(self._path))
        with whole_file(out / LISTED) as file:
            np.save(file, listed)
        found = np.zeros(len(listed), dtype=bool)
        look_up = partial(_positions, out / LISTED, pool.skip_corrupt)
        for positions in engine.map(look_up, pool.parts, what="look up uids"):
            found[positions] = True
        first = firsts(listed)
        foreign = listed[first & ~found]
        self._judge(listed, foreign, pool)
        keep = found[np.flatnonzero(first)[np.cumsum(first) - 1]]
        if within:
            keep &= find_in(within.uids(), listed)[1] > 0
        with whole_file(out / LISTED) as file:
            np.save(file, listed[keep])
        facts = {"listed": len(listed), "listed_distinct": int(first.sum())}
        summary = conclude(self, out, engine, pool, [out / LISTED], joined, facts=facts)
        (out / LISTED).unlink()
        counts = replace(summary.counts, total=pool.rows + len(foreign), missing=len(foreign))
        return replace(summary, counts=counts)

    @property
    def _path(self) -> Path:
        return Path(self.path).expanduser().resolve()

    def _judge(self, listed: Uids, foreign: Uids, pool: Pool) -> None:
        if len(listed) == 0:
            raise ValueError(f"{self._path} lists no uids")
        distinct = int(firsts(listed).sum())
        if len(foreign) == 0 or (self.foreign == "drop" and len(foreign) < distinct):
            return
        alien = len(foreign) == distinct
        remedy = "Is it a list for another pool?" if alien else "To leave them out: filter.foreign=drop"
        raise ValueError(
            f"{self._path}: {len(foreign):,} of {distinct:,} uids are not in the pool at {pool.root} "
            f"({pool.rows:,} samples), among them {', '.join(map(format_uid, foreign[:3]))}. {remedy}"
        )


def read_uids(path: Path) -> Uids:
    """Read a list of uids in any of the three formats, repeats included. Raises ValueError, naming the file."""
    if path.suffix.lower() == ".npy":
        return read_subset(path)
    try:
        return parse_uids(
            _parquet_column(path) if path.suffix.lower() == ".parquet" else path.read_text("utf-8-sig").split()
        )
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; a list of uids is .npy, .parquet, or text with one per line") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parquet_column(path: Path) -> object:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if "uid" not in names:
            raise ValueError(f"no column 'uid'; it has: {', '.join(names)}")
        return file.read(columns=["uid"])["uid"]
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a readable parquet file: {error}") from None


def _positions(listed: Path, skip_corrupt: bool, part: Part) -> Indices:
    """Where the uids of one part first stand in the list; those that do not are left out."""
    uids = unless_damaged(skip_corrupt, part.uids, np.empty(0, UID))
    positions, counts = find_in(np.load(listed, mmap_mode="r", allow_pickle=False), uids)
    return positions[counts > 0]
