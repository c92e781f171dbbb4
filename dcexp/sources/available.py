"""Which samples of a pool are really there: the uids in its shards. Links die, so it is fewer than the metadata say."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.merge import joined, merge_files
from dcexp.artifacts.place import name_of
from dcexp.artifacts.pool import AVAILABLE
from dcexp.artifacts.samples import Suffixes, batches_of, uids_in
from dcexp.artifacts.tar import TarReader
from dcexp.artifacts.uid import Uids, firsts, parse_uids, sort_uids, uids_from_bytes
from dcexp.engines.base import Engine

log = logging.getLogger(__name__)

PIECES = "available"  # a folder for what single tars hold; gone when all are known
TOGETHER = 64  # files that are merged together


def write_available(out: Path, engine: Engine, tars: Sequence[str]) -> int:
    """Write ``out/available.npy``, the different uids in ``tars``, sorted; returns how many.

    Beside a tar that img2dataset wrote lies a parquet file of the same name that says which samples arrived. Where
    there is none, the headers of the tar and the json of every sample are read. What is damaged is told when the
    samples themselves are needed.
    """
    (out / PIECES).mkdir(exist_ok=True)
    files = list(engine.map(partial(_write_piece, out / PIECES), list(enumerate(tars)), what="look into the shards"))
    level = 0
    while len(files) > TOGETHER:  # merging all at once would look into every file for every range
        groups = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
        items = [(out / PIECES / f"{level}-{number:08d}.npy", group) for number, group in enumerate(groups)]
        files, level = list(engine.map(_join, items, what="merge")), level + 1
    total = merge_files(files, out / AVAILABLE, lambda slices: _distinct(joined(slices)))
    shutil.rmtree(out / PIECES)
    return total


def _join(item: tuple[Path, list[Path]]) -> Path:
    path, files = item
    merge_files(files, path, lambda slices: _distinct(joined(slices)))
    return path


def _distinct(uids: Uids) -> Uids:
    return uids[firsts(uids)]


def _write_piece(folder: Path, item: tuple[int, str]) -> Path:
    number, tar = item
    report = Path(tar).with_suffix(".parquet")
    states = [path.stat() for path in (Path(tar), report) if path.is_file()]
    digest = hashlib.sha256(repr([(state.st_size, state.st_mtime_ns) for state in states]).encode()).hexdigest()
    piece = folder / f"tar-{number:08d}-{digest[:12]}.npy"  # a tar that has changed since is looked into again
    if not piece.is_file():
        uids = _reported(report)
        with whole_file(piece) as file:
            np.save(file, sort_uids(_found(tar) if uids is None else uids))
    return piece


def _reported(report: Path) -> Uids | None:
    """The uids that img2dataset's report calls a success; None where there is no such report."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not report.is_file():
        return None
    try:
        file = pq.ParquetFile(report)
        if not {"uid", "status"} <= set(file.schema_arrow.names):
            return None
        table = file.read(columns=["uid", "status"])
        return parse_uids(table.filter(pc.equal(table["status"], "success"))["uid"])
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s cannot be used, so its tar is read instead: %s", report, error)
        return None


def _found(tar: str) -> Uids:
    names: Suffixes = {}
    with TarReader(tar) as reader:
        batches = batches_of(reader.walk(), names)
        found = [uids_in(reader, batch, names, name_of(tar), derived=False)[0] for batch in batches]
    return uids_from_bytes(b"".join(found))
