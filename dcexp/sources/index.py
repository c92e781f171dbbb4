"""Index a pool: look at every metadata file once, and say in one message what is wrong with it."""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.npz import npz_shapes
from dcexp.artifacts.place import below, is_url
from dcexp.artifacts.pool import REMEDY, DamagedError, Part, PoolIndex
from dcexp.artifacts.uid import is_text
from dcexp.engines.base import Engine
from dcexp.sources.available import write_available

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one metadata file holds: columns, features with their widths, a digest of its uids as they are stored.

    ``damage`` says why the file cannot be used.
    """

    part: Part
    columns: tuple[str, ...] = ()
    features: dict[str, int] = field(default_factory=dict)
    metadata_digest: str = ""
    damage: str = ""


def write_index(
    out: Path,
    engine: Engine,
    *,
    folder: Path,
    root: str,
    shards: list[str],
    derived_uids: bool = False,
    skip_corrupt: bool = False,
) -> Summary:
    """Index the metadata files in ``folder``, and which uids the shards hold; write ``out/index.json``.

    ``root`` and ``shards`` go into the index as they are (see :class:`PoolIndex`). With ``skip_corrupt``, files that
    cannot be read are left out and counted. Raises FileNotFoundError when there is no metadata, ValueError for a
    file that upstream would misread or die of.
    """
    files = metadata_files(folder)
    seen = list(engine.map(partial(look_at, skip_corrupt=skip_corrupt), files, what="index the pool"))
    looks, damaged = [look for look in seen if not look.damage], [look for look in seen if look.damage]
    for look in damaged:
        log.warning("left out with its %s rows (source.skip_corrupt): %s", f"{look.part.rows:,}", look.damage)
    rows = sum(look.part.rows for look in looks)
    if rows == 0:
        raise ValueError(f"the {len(files)} metadata files in {folder.resolve()} hold no samples: the pool is empty")
    tars = [below(str(out / root / "shards"), name) for name in shards]
    PoolIndex(
        root=root,
        rows=rows,
        metadata_digest=hashlib.sha256("".join(look.metadata_digest for look in looks).encode()).hexdigest(),
        columns=[c for c in looks[0].columns if all(c in look.columns for look in looks)],
        features=_common_features(looks),
        parts=[_entry(look.part) for look in looks],
        shards=shards,
        available=rows if derived_uids else _available(out, engine, tars),
        derived_uids=derived_uids,
        skip_corrupt=skip_corrupt,
    ).write(out)
    facts = {
        "metadata_files": len(files),
        "metadata_files_without_features": sum(not look.part.npz for look in looks),
        "corrupt_files": {look.part.parquet: look.damage for look in damaged[:20]},
        "ignored_files": _ignored(folder, seen),
        "shards": len(shards),
    }
    corrupt = sum(look.part.rows for look in damaged)
    return Summary(counts=Counts(total=rows + corrupt, kept=rows, corrupt=corrupt), facts=facts)


def _available(out: Path, engine: Engine, tars: list[str]) -> int | None:
    """How many of the samples are in the shards; None where that would cost reading an object store from end to end."""
    return write_available(out, engine, tars) if tars and not any(map(is_url, tars)) else None


def metadata_files(folder: Path) -> list[Path]:
    """The parquet files of a metadata directory, in name order. Raises FileNotFoundError when there are none."""
    files = sorted(named(folder, ".parquet"))
    if not files:
        raise FileNotFoundError(f"there are no .parquet files in {folder.resolve()}")
    return files


def named(folder: Path, suffix: str) -> list[Path]:
    """The files directly in ``folder`` whose names end in ``suffix``; hidden ones and directories do not count."""
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.name.endswith(suffix) and not p.name.startswith(".") and p.is_file()]


def look_at(path: Path, *, skip_corrupt: bool = False) -> Look:
    """Look at one metadata file and the features beside it. Raises DamagedError, naming the file, or notes it.

    Only the ends of the files are decoded, where they say what they hold; the rows are when a filter reads them.
    """
    npz = path.with_suffix(".npz")
    part = Part(parquet=str(path), npz=str(npz) if npz.is_file() else "", rows=0)
    try:
        columns, rows, digest = _schema(path)
        part = replace(part, rows=rows)
        return Look(part=part, columns=columns, features=_widths(part), metadata_digest=digest)
    except DamagedError as error:
        if not skip_corrupt:
            raise
        return Look(part=part, damage=str(error))


def _schema(path: Path) -> tuple[tuple[str, ...], int, str]:
    """The columns of a parquet file, its number of rows, and a digest of its uids as they are stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        columns = tuple(file.schema_arrow.names)
        if "uid" not in columns:
            raise ValueError(f"{path} has no column 'uid'; it has: {', '.join(columns) or 'no columns at all'}")
        if not is_text(kind := file.schema_arrow.field("uid").type) and file.metadata.num_rows:
            raise ValueError(f"{path}: a uid is 32 hexadecimal digits of text; this column holds {kind}")
        return columns, int(file.metadata.num_rows), _stored_digest(path, file.metadata, "uid")
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"{path} is not a readable parquet file (truncated, or something else): {error}. {REMEDY}"
        ) from None


def _stored_digest(path: Path, metadata: Any, column: str) -> str:
    """sha256 of a column's bytes in the file, several times as fast as decoding them, and of the file's footer.

    The footer has sizes and statistics of all the other columns: another score rarely leaves these as they were.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(-8 - metadata.serialized_size, os.SEEK_END)
        digest.update(file.read())
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema == column:
                    file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                    digest.update(file.read(chunk.total_compressed_size))
    return digest.hexdigest()


def _widths(part: Part) -> dict[str, int]:
    if not part.npz:
        return {}
    shapes = npz_shapes(Path(part.npz))
    for name, shape in shapes.items():
        if shape[:1] != (part.rows,):
            raise DamagedError(
                f"{part.npz}: array {name!r} has shape {shape}, but {Path(part.parquet).name} has {part.rows} rows; "
                f"they must lie side by side in the same order, so one of the two is of another download. {REMEDY}"
            )
    return {name: shape[1] if len(shape) > 1 else 1 for name, shape in shapes.items()}


def _common_features(looks: list[Look]) -> dict[str, int]:
    """The features that all parts have. Raises ValueError when a feature has two widths."""
    first = looks[0]
    common = {name: w for name, w in first.features.items() if all(name in look.features for look in looks)}
    for look in looks:
        for name, width in common.items():
            if look.features[name] != width:
                raise ValueError(
                    f"{look.part.npz}: {name!r} is {look.features[name]} wide, but in {first.part.npz} it is {width}"
                )
    return common


def _entry(part: Part) -> dict[str, str | int]:
    return {"parquet": Path(part.parquet).name, "npz": Path(part.npz).name if part.npz else "", "rows": part.rows}


def _ignored(folder: Path, looks: Iterable[Look]) -> int:
    used = {Path(name).name for look in looks for name in (look.part.parquet, look.part.npz)}
    return sum(path.is_file() and path.name not in used for path in folder.iterdir())
