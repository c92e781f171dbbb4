"""Index a pool: look at every metadata file once, and say in one message what is wrong with it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.pool import Part, PoolIndex, npz_shapes
from dcexp.engines.base import Engine


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one metadata file holds: columns, features with their widths, a digest of its uids in order."""

    part: Part
    columns: tuple[str, ...]
    features: dict[str, int]
    uids_digest: str


def write_index(
    out: Path, engine: Engine, *, folder: Path, root: str, shards: list[str], derived_uids: bool = False
) -> Summary:
    """Index the metadata files in ``folder`` and write ``out/index.json``.

    ``root`` and ``shards`` go into the index as they are (see :class:`PoolIndex`). Raises FileNotFoundError when
    there is no metadata, ValueError for a file that upstream would misread or die of.
    """
    files = metadata_files(folder)
    looks = list(engine.map(look_at, files, what="index the pool"))
    rows = sum(look.part.rows for look in looks)
    if rows == 0:
        raise ValueError(f"the {len(files)} metadata files in {folder.resolve()} hold no samples: the pool is empty")
    PoolIndex(
        root=root,
        rows=rows,
        uids_digest=hashlib.sha256("".join(look.uids_digest for look in looks).encode()).hexdigest(),
        columns=[c for c in looks[0].columns if all(c in look.columns for look in looks)],
        features=_common_features(looks),
        parts=[_entry(look.part) for look in looks],
        shards=shards,
        derived_uids=derived_uids,
    ).write(out)
    facts = {
        "metadata_files": len(files),
        "metadata_files_without_features": sum(not look.part.npz for look in looks),
        "ignored_files": _ignored(folder, looks),
        "shards": len(shards),
    }
    return Summary(counts=Counts(total=rows, kept=rows), facts=facts)


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


def look_at(path: Path) -> Look:
    """Look at one metadata file and the features beside it. Raises ValueError, naming the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        columns = tuple(file.schema_arrow.names)
        rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file (truncated, or something else): {error}") from None
    if "uid" not in columns:
        raise ValueError(f"{path} has no column 'uid'; it has: {', '.join(columns) or 'no columns at all'}")
    npz = path.with_suffix(".npz")
    part = Part(parquet=str(path), npz=str(npz) if npz.is_file() else "", rows=rows)
    digest = hashlib.sha256(part.uids().tobytes()).hexdigest()
    return Look(part=part, columns=columns, features=_widths(part), uids_digest=digest)


def _widths(part: Part) -> dict[str, int]:
    if not part.npz:
        return {}
    shapes = npz_shapes(Path(part.npz))
    for name, shape in shapes.items():
        if shape[:1] != (part.rows,):
            raise ValueError(
                f"{part.npz}: array {name!r} has shape {shape}, but {Path(part.parquet).name} has {part.rows} rows; "
                "they must lie side by side in the same order, so one of the two is of another download"
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
