"""Questions which images go with a cue (WinoGAViL): the evaluation set of associations, indexed where it lies."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.evalset import AssociationSet
from dcexp.engines.base import Engine
from dcexp.tasks.arrows import cached_arrow, extracted, read_arrow
from dcexp.tasks.layouts import Content, LaidOutSet, Layout, Spot, csv_and_zip
from dcexp.tasks.tabletext import Row, json_strings, read_table, strings
from dcexp.tasks.zipped import zipped

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AssociationFolder(LaidOutSet):
    """Questions in ``<root>/<folder>``, as csv and zip; or in the cache ``<root>/hf_cache``.

    An image that is a candidate in several questions is one picture.
    """

    makes: ClassVar[type[Artifact]] = AssociationSet
    layout: ClassVar[str] = "a .csv with the columns cue, candidates and associations, and a .zip of the images"

    def layouts(self) -> Sequence[Layout]:
        cache = partial(cached_arrow, name=Path(self.folder).name)
        return (
            Layout(name="csv and zip", root=self.home, find=csv_and_zip, read=_of_csv),
            Layout(name="cache of datasets", root=self.top, find=cache, read=_of_cache),
        )


class Question(NamedTuple):
    """A cue, the names of its candidates' images, and which of them people chose."""

    place: str
    cue: str
    images: Sequence[str]
    chosen: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class Questions(Content):
    """All questions, their candidates as positions of pictures."""

    parquet: ClassVar[str] = "questions.parquet"
    questions: Sequence[Question]
    candidates: Sequence[Sequence[int]]

    @property
    def samples(self) -> int:
        return len(self.questions)

    def columns(self) -> Mapping[str, Any]:
        return {
            "cue": [question.cue for question in self.questions],
            "candidates": self.candidates,
            "chosen": [question.chosen for question in self.questions],
        }

    @classmethod
    def of(cls, questions: Sequence[Question], spots: Mapping[str, Spot]) -> "Questions":
        """From questions and where their images lie, by name; these become the pictures, in this order."""
        position = {name: i for i, name in enumerate(spots)}
        candidates = [[position[name] for name in question.images] for question in questions]
        return cls(spots=list(spots.values()), questions=questions, candidates=candidates)


def _of_csv(folder: Path, names: list[str], engine: Engine) -> Questions:
    table, archive = names
    questions = [_row_question(row) for row in read_table(folder / table, ["cue", "candidates", "associations"])]
    return Questions.of(questions, zipped(folder, archive, _images(questions)))


def _row_question(row: Row) -> Question:
    candidates = json_strings(row, "candidates")
    chosen = _chosen(row.place, row.fields["cue"], candidates, json_strings(row, "associations"))
    return Question(row.place, row.fields["cue"], [f"{word}.jpg" for word in candidates], chosen)


def _of_cache(root: Path, names: list[str], engine: Engine) -> Questions:
    path = root / names[0]
    rows = read_arrow(path, "candidate_images", ["cue", "candidates", "associations"])
    questions = [_cached_question(f"{path}, row {i}", row) for i, row in enumerate(rows, 1)]
    return Questions.of(questions, extracted(root, _images(questions)))


def _cached_question(place: str, row: Mapping[str, Any]) -> Question:
    candidates, associations = (strings(place, name, row[name]) for name in ("candidates", "associations"))
    images = strings(place, "candidate_images", row["candidate_images"])
    if len(images) != len(candidates):
        raise ValueError(f"{place}: {len(candidates)} candidates and {len(images)} images of them")
    return Question(place, row["cue"], images, _chosen(place, row["cue"], candidates, associations))


def _images(questions: Sequence[Question]) -> dict[str, str]:
    """Every image once, and the first question that needs it."""
    wanted: dict[str, str] = {}
    for question in questions:
        for name in question.images:
            wanted.setdefault(name, question.place)
    return wanted


def _chosen(place: str, cue: str | None, candidates: Sequence[str], associations: Sequence[str]) -> list[bool]:
    """Which candidates are among the associations. Raises ValueError where there is nothing to ask or to answer.

    Upstream takes no notice of associations that are no candidates, so neither does this, but for a word in the log.
    """
    if not cue or not cue.strip():
        raise ValueError(f"{place}: the cue is empty")
    if strange := [word for word in associations if word not in candidates]:
        log.warning("%s: the associations %s are not among the candidates", place, ", ".join(strange))
    chosen = [word in associations for word in candidates]
    if not any(chosen):
        raise ValueError(f"{place}: no candidate is an association: nothing is right, and as many are to be found")
    return chosen
