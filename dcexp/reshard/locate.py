"""Locate: find every sample in the shards of a pool, once for all the subsets of it."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.locations import TARS, Locations, Tar, locate, located_file
from dcexp.artifacts.place import open_place
from dcexp.artifacts.pool import Pool
from dcexp.engines.base import Engine
from dcexp.reshard.progress import with_speed
from dcexp.stage import Stage, Step

NOTES = "notes"  # a folder for what is known of single tars; gone when all are


@dataclass(frozen=True, kw_only=True)
class Locate(Stage):
    """Where the bytes of every sample of a pool lie. Reads the tars once, from end to end, in large pieces."""

    makes = Locations

    def step(self, pool: Step) -> Step:
        """This stage applied to a pool."""
        return Step(self, {"pool": pool})

    def run(self, out: Path, engine: Engine, *, pool: Pool) -> Summary:
        """Write the columns of every tar and ``tars.json`` into ``out``.

        Raises ValueError for a pool without shards. What is damaged is noted; it is told when it is wanted.
        """
        if not pool.shards:
            raise ValueError(
                f"the pool at {pool.root} has metadata but no shards, so there is nothing to train on: download its "
                "shards into shards/ beside metadata/, or stop before they are needed: until=subset"
            )
        (out / NOTES).mkdir(exist_ok=True)
        work = partial(_locate, out, pool.derived_uids)
        items = list(enumerate(pool.shards))
        tars = with_speed(engine.map(work, items), "read the tars", len(items), lambda tar: (tar.samples, tar.size))
        write_json(out / TARS, [tar.entry() for tar in tars])
        for note in (out / NOTES).iterdir():
            note.unlink()
        (out / NOTES).rmdir()
        kept, missing = sum(tar.samples for tar in tars), sum(tar.lacking for tar in tars)
        corrupt = sum(tar.unreadable for tar in tars)
        return Summary(
            counts=Counts(total=kept + missing + corrupt, kept=kept, missing=missing, corrupt=corrupt),
            facts={"tars": len(tars), "damaged": sum(bool(tar.damage) for tar in tars)},
        )


def _locate(out: Path, derived: bool, item: tuple[int, str]) -> Tar:
    """Locate the samples of one tar, unless an earlier attempt has and the tar is as it was."""
    number, place = item
    note = out / NOTES / f"{number:08d}.json"
    if note.is_file():
        known = Tar(place=place, **json.loads(note.read_text()))
        if known.state and known.state == _state(place):
            return known
    tar, located = locate(place, derived=derived)
    located.save(located_file(out, number))
    with whole_file(note, durable=False) as file:
        file.write(json.dumps(tar.entry()).encode())
    return tar


def _state(place: str) -> list[int | str]:
    try:
        file = open_place(place)
    except FileNotFoundError:
        return []
    file.close()
    return file.state
