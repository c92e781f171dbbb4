"""Scores of rows among others of the same kind: of a cluster, or copies of one another."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.merge import Range
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.artifacts.scores import damaged_mark
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import UID, Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import inside
from dcexp.filters.groups import Arrays, Groups
from dcexp.filters.rows import Rows, View, unless_damaged
from dcexp.filters.score import Numbers, Score

FOLDER = "groups"  # rows by their keys; gone with the last score


@dataclass(frozen=True, kw_only=True)
class Members:
    """The keys of some rows, and what to judge them by."""

    keys: Uids
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GroupedScore(Score):
    """A score that a row has among the rows of its key. Write ``members`` and ``judge``.

    On the disk, meanwhile: 32 bytes a row and the ``arrays``. Memory: a part or
    about ``together`` rows of these in a worker (more where one key has more).
    """

    relative = True

    arrays: ClassVar[tuple[str, ...]] = ()
    together: ClassVar[int] = 1 << 19

    def members(self, rows: Rows, **extra: Any) -> Members:
        """The keys of some rows, and the ``arrays`` by which they are judged."""
        raise NotImplementedError(f"{type(self).__name__} has no members()")

    def judge(self, keys: Uids, arrays: Arrays) -> Numbers:
        """A number for each of some rows, among which there are all of every key, shape (len(keys),)."""
        raise NotImplementedError(f"{type(self).__name__} has no judge()")

    def view(self, pool: Pool, within: Subset | None, **extra: Any) -> View:
        """The rows that are looked at."""
        return View(columns=self.needs(), within=inside(within), skip_corrupt=pool.skip_corrupt)

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """Copy all members in the order of their keys, judge range by range, and give every part its own."""
        self.check_pool(pool)
        (folder := out / FOLDER).mkdir(exist_ok=True)
        groups, parts = Groups(folder), list(enumerate(pool.parts))
        artifacts = {name: value for name, value in extra.items() if isinstance(value, Artifact)}
        gather = partial(_gather, self, groups, self.view(pool, within, **extra), artifacts)
        list(engine.map(gather, parts, what=f"{self.label}: copy"))
        found = groups.ranges(len(parts), self.together)
        list(engine.map(partial(_judge, self, groups, len(parts)), list(enumerate(found)), what=f"{self.label}: judge"))
        summary = super().run(out, engine, pool=pool, within=within, groups=groups, **artifacts)
        remove_folder(folder)
        return summary

    def score(self, rows: Rows, **extra: Any) -> Numbers:
        """What was found about the rows."""
        groups = extra["groups"]
        if damaged_mark(groups.path, rows.number).is_file():
            raise DamagedError(f"{rows.part.parquet}, or the features beside it, could not be read")
        return rows.of_part(groups.found(rows.number, rows.part.rows))


def _gather(
    stage: GroupedScore, groups: Groups, view: View, artifacts: dict[str, Artifact], item: tuple[int, Part]
) -> None:
    """Copy the members of one part, unless an earlier attempt has; of a damaged one, none."""
    number, part = item
    if groups.has(number):
        return

    def put() -> bool:
        rows, _ = view.rows(number, part)
        members = stage.members(rows, **artifacts)
        groups.put(number, np.flatnonzero(rows.where), members.keys, members.arrays)
        return True

    if not unless_damaged(view.skip_corrupt, put, otherwise=False):
        damaged_mark(groups.path, number).touch()
        groups.put(number, np.empty(0, np.int64), np.empty(0, UID), {})


def _judge(stage: GroupedScore, groups: Groups, parts: int, item: tuple[int, Range]) -> None:
    number, edges = item
    if groups.has_found(number):
        return
    keys, arrays, ends = groups.gathered(parts, edges, stage.arrays)
    values: npt.NDArray[Any] = stage.judge(keys, arrays) if len(keys) else np.empty(0, np.float32)
    assert values.shape == keys.shape, f"{type(stage).__name__}.judge: wanted {len(keys)} numbers, got {values.shape}"
    groups.give_back(number, values, ends)
