"""What ``python -m dcexp score`` leaves beside tars, as a source finds it: metadata, and notes of what they are of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dcexp.artifacts.listing import file_state
from dcexp.sources.index import named

METADATA, NOTES = "metadata", "scored"


def digest_of_state(out: Path) -> str:
    """A digest of names, sizes and times of the files with metadata and features in ``out``; empty without any.

    By names and sizes alone, features by other weights would be the same.
    """
    files = [path for ending in (".parquet", ".npz") for path in named(out / METADATA, ending)]
    states = {path.name: file_state(path) for path in files}
    return hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest() if states else ""


def check_scored(out: Path, tars: Mapping[str, int]) -> None:
    """Raise ValueError unless ``out`` holds finished metadata of just these tars, given by name with their sizes."""
    found = {path.stem for path in named(out / METADATA, ".parquet")}
    stems = {name.removesuffix(".tar"): size for name, size in tars.items()}
    lacking = sorted(stem for stem, size in stems.items() if stem not in found or not _is_of(out, stem, size))
    if lacking or found - stems.keys():
        raise ValueError(
            f"source.scored={out}: {len(lacking)} of the {len(tars)} tars are not scored there as they are now "
            f"({', '.join(lacking[:3])}), and {len(found - stems.keys())} files with metadata are of other tars. Score "
            f"all of them first: python -m dcexp score out={out} …"
        )


def _is_of(out: Path, stem: str, size: int) -> bool:
    """Whether the note of a tar says that something was finished, and of a tar of that size."""
    try:
        note = json.loads((out / NOTES / f"{stem}.json").read_bytes())
        return note["tar"][0] == size and bool(note["features"])
    except (OSError, ValueError, LookupError, TypeError):
        return False
