"""The folder that scores are written to: what it must not hold, and what is said where it cannot be written."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dcexp.scoring.files import Files
from dcexp.scoring.shard import Job
from dcexp.sources.index import named
from dcexp.sources.scored import METADATA, NOTES

ENDINGS = {"parquet", "npz", "json"}
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


def refuse_foreign(out: Path, tars: Sequence[str]) -> None:
    """Raise ValueError when there are files in ``out/metadata`` that would be lost, or are of other tars.

    Those of other tars would be one pool with these. What has no note, score has not made.
    """
    found = [path for ending in (".parquet", ".npz") for path in named(out / METADATA, ending)]
    made = {path.stem for path in named(out / NOTES, ".json")} & {Files.of(out, tar).stem for tar in tars}
    if other := sorted(path.name for path in found if path.stem not in made):
        raise ValueError(
            f"out={out}: {METADATA}/ holds {len(other)} files that are of other tars, or were not made by score "
            f"({', '.join(other[:3])}); give a folder of its own, or remove them"
        )


def refuse_other_model(job: Job, tars: Sequence[str]) -> None:
    """Raise ValueError when the tars have features of this name by another model: pools may have been made of them."""
    for tar in tars:
        there = Files.of(job.out, tar).noted()["features"].get(job.feature)
        if there and (before := there["identity"]) != job.identity:
            differ = [name for name, value in job.identity.items() if before.get(name) != value]
            said = ", ".join(f"{name}: {before.get(name)} there, {job.identity[name]} here" for name in differ)
            raise ValueError(
                f"feature={job.feature}: {job.out} has features of this name that were made otherwise ({said}). Give "
                "the new ones another name, feature=…, or a folder of their own, out=…"
            )


def tidy(out: Path) -> None:
    """Remove what a killed attempt left unfinished."""
    for folder in (out / METADATA, out / NOTES):
        for path in named(folder, ".tmp"):
            if ENDINGS.intersection(path.name.split(".")):
                path.unlink()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say of a full disk, and of a folder that cannot be written, that it is ``out`` and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(
                f"no space left for features in {out}: free some, and give the same command again. Tars that are "
                "finished are not scored again"
            ) from error
        if error.errno in CLOSED and _concerns(error.filename, out):
            raise OSError(f"out={out} cannot be written: {error}") from error
        raise


def _concerns(name: object, out: Path) -> bool:
    """Whether the file of an error is ``out``, in it, or a folder above it."""
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else Path()
    return path.is_relative_to(out) or out.is_relative_to(path)
