"""The cache that Hugging Face ``datasets`` leaves when it has run a loading script: read without ``datasets``.

Its Arrow file holds absolute paths of the images, extracted beside it, where ``datasets`` was when it wrote them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcexp.tasks.layouts import Spot

if TYPE_CHECKING:
    import pyarrow as pa

CACHE = "hf_cache"
_OWNER, _CONFIG = "nlphuji", "TEST"


def cached_arrow(root: Path, name: str) -> list[str]:
    """The name, below ``root``, of the one Arrow file of the set ``name``. Raises FileNotFoundError."""
    folder = root / CACHE / f"{_OWNER}___{name}" / _CONFIG
    found = sorted(path for path in folder.glob("*/*/*-test.arrow") if path.parent.suffix != ".incomplete")
    if len(found) != 1:
        there = ", ".join(path.relative_to(folder).as_posix() for path in found[:3]) or "none"
        raise FileNotFoundError(f"wanted one */*/*-test.arrow in {folder}, found {there}")
    return [found[0].relative_to(root).as_posix()]


def read_arrow(path: Path, images: str, others: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of an Arrow stream: the columns ``others`` as they are, in ``images`` the path or the list of paths.

    Raises ValueError for other columns, for images that are in the file itself, and for a damaged file.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
            if missing := sorted({images, *others} - set(table.column_names)):
                raise ValueError(f"lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}")
            _assert_paths(table[images], images)
            table = table.select([images, *others])
            table.validate(full=True)
            rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not the Arrow file of this set, or damaged: {error}") from None
    return [{**row, images: _paths(row[images])} for row in rows]


def _assert_paths(column: "pa.ChunkedArray", name: str) -> None:
    """Raise ValueError where a column of images is of another type, or holds the bytes themselves."""
    import pyarrow as pa
    import pyarrow.compute as pc

    listed = pa.types.is_list(column.type)
    kind = column.type.value_type if listed else column.type
    if not pa.types.is_struct(kind) or {kind.field(i).name for i in range(kind.num_fields)} != {"bytes", "path"}:
        raise ValueError(f"{name} is {column.type}: wanted images, struct<bytes: binary, path: string>")
    for chunk in column.chunks:
        embedded = pc.struct_field(chunk.flatten() if listed else chunk, "bytes")
        if embedded.null_count < len(embedded):
            raise ValueError(f"{name} holds the images themselves; only paths of files are read")


def _paths(value: Any) -> Any:
    return [_paths(image) for image in value] if isinstance(value, list) else value and value["path"]


def extracted(root: Path, wanted: Mapping[str, str]) -> dict[str, Spot]:
    """Where the images lie whose recorded paths are the keys of ``wanted``; its values say who wants them.

    In a cache that was moved, they are looked for in ``root/hf_cache``. Raises ValueError for one that is not there.
    """
    return {recorded: _extracted(root, recorded, place) for recorded, place in wanted.items()}


def _extracted(root: Path, recorded: str, place: str) -> Spot:
    was, here = Path(recorded), root / CACHE / recorded.rpartition(f"/{CACHE}/")[2].lstrip("/")
    found = next((path for path in (was, here) if path.is_absolute() and path.is_file()), None)
    if found is None:
        raise ValueError(f"{place}: its image is not there: neither {was} nor {here}")
    file = found.relative_to(root) if found.is_relative_to(root) else found
    return Spot(file.as_posix(), 0, found.stat().st_size, False, found.name)
