"""One finished shard, and the note by which a later attempt knows that it is finished."""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcexp.artifacts.entries import Entries, entries_of
from dcexp.artifacts.files import content_digest, whole_file, write_json
from dcexp.artifacts.locations import TARS, Locations, Tar
from dcexp.artifacts.place import below, size_of
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.shards import STATS_NAME
from dcexp.reshard.plan import shard_file

PLAN = "plan"  # a folder for what is found and decided before anything is written; gone when the shards are done


class Made(NamedTuple):
    """One finished shard: its file name, its samples, and size and digest of the file.

    ``faces`` samples have faces that were seen to; ``lost`` ones have faces that could not be, and are left out.
    """

    name: str
    samples: int
    file: dict[str, int | str]
    faces: int = 0
    lost: int = 0


def planned(out: Path, pool: Path, locations: Path, number: int) -> Entries:
    """What goes into shard ``number``."""
    rows = np.load(shard_file(out / PLAN, number), allow_pickle=False)
    numbers, rows[:, 0] = np.unique(rows[:, 0], return_inverse=True)
    tars, artifact = _tars(pool, locations, content_digest(locations / TARS)), Locations(locations)
    return entries_of([tars[n] for n in numbers.tolist()], [artifact.located(n) for n in numbers.tolist()], rows)


@lru_cache(1)
def _tars(pool: Path, locations: Path, digest: str) -> list[Tar]:
    return Locations(locations).tars(Pool(pool))


def noted(out: Path, folder: str, number: int) -> Made | None:
    """Shard ``number``, if an earlier attempt has finished it and all of it is in ``folder``."""
    note = _note(out, number)
    made = Made(**json.loads(note.read_text())) if note.is_file() else None
    return made if made and size_of(below(folder, made.name)) == made.file["bytes"] else None


def finished(out: Path, number: int, made: Made) -> Made:
    """Write the stats of a shard, and note that it is finished."""
    write_json(out / STATS_NAME.format(number), {"successes": made.samples})
    with whole_file(_note(out, number), durable=False) as file:
        file.write(json.dumps(made._asdict()).encode())
    return made


def _note(out: Path, number: int) -> Path:
    return out / PLAN / f"made-{number:08d}.json"
