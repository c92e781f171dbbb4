"""The evaluation set: an index of the test images of one task, and of what is asked about them."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import INDEX, Artifact
from dcexp.artifacts.files import write_json
from dcexp.artifacts.listing import file_digest, file_state, lines
from dcexp.artifacts.pictures import Ints, Pictures

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
PICTURES = "pictures.parquet"
PLACE = "place.json"


class EvalSet(Artifact):
    """An index of the files of a set, which lie in the artifact itself or in a user's own folder, never copied.

    ``index.json`` says what the files hold, ``pictures.parquet`` where in them the images lie; see subclasses for what
    else there is. ``place.json`` says where they are, and is no part of what the set is.
    """

    kind = "evalset"
    aside = frozenset({PLACE})

    @cached_property
    def index(self) -> dict[str, Any]:
        """``samples`` and the digests of ``files``."""
        index: dict[str, Any] = json.loads((self.path / INDEX).read_text())
        return index

    @cached_property
    def place(self) -> dict[str, Any]:
        """``root`` and, of files that are not in the artifact, the ``states``: size and time of change."""
        place: dict[str, Any] = json.loads((self.path / PLACE).read_text())
        return place

    @cached_property
    def root(self) -> Path:
        """The folder that was indexed."""
        return (self.path / self.place["root"]).resolve()

    @property
    def samples(self) -> int:
        """What there is to answer, counted when it was indexed: images, or questions about images."""
        return int(self.index["samples"])

    @cached_property
    def table(self) -> dict[str, Any]:
        """The columns of ``pictures.parquet``, in the order of the set."""
        return read_columns(self.path / PICTURES)

    @cached_property
    def pictures(self) -> Pictures:
        """The test images."""
        return Pictures.of(self.root, self.table)

    def assert_unchanged(self) -> None:
        """Raise ValueError when files were changed since they were indexed, FileNotFoundError when any is gone."""
        states = self.place["states"]
        changed = sorted(name for name, state in states.items() if file_state(self.root / name) != state)
        if changed:
            raise ValueError(
                f"{self.root}: {', '.join(changed[:3])} changed since this evaluation set was indexed; "
                "if that was meant, index it anew: rebuild=evalset"
            )


class ClassSet(EvalSet):
    """Images of classes: beside the pictures their ``label`` and ``metadata``; ``root`` is in upstream's wds layout."""

    @cached_property
    def classnames(self) -> list[str]:
        """One name per class; the position is the label."""
        return lines(self.root / CLASSNAMES)

    @cached_property
    def templates(self) -> list[str]:
        """Prompt templates with the placeholder ``{c}``."""
        return lines(self.root / TEMPLATES)

    @cached_property
    def labels(self) -> Ints:
        """The class of each image, [n]."""
        return np.asarray(self.table["label"], np.int64)

    @cached_property
    def metadata(self) -> Ints:
        """The integers of each image's ``.npy``, [n, columns]."""
        return np.asarray(self.table["metadata"], np.int64).reshape(len(self.pictures), -1)


class CaptionSet(EvalSet):
    """Images and their captions: ``captions.parquet`` has ``text`` and ``image``, the position of its picture."""

    @cached_property
    def captions(self) -> list[str]:
        """All captions, those of one image together, in the order of the images."""
        return list(self._captions["text"])

    @cached_property
    def owners(self) -> Ints:
        """The position of each caption's picture, [captions]."""
        return np.asarray(self._captions["image"], np.int64)

    @cached_property
    def _captions(self) -> dict[str, Any]:
        return read_columns(self.path / "captions.parquet")


class AssociationSet(EvalSet):
    """Questions which candidate images go with a cue: ``questions.parquet`` has ``cue``, ``candidates`` and ``chosen``.

    Pictures that several questions share are there once.
    """

    @cached_property
    def cues(self) -> list[str]:
        """The word of each question."""
        return list(self._questions["cue"])

    @cached_property
    def candidates(self) -> list[Ints]:
        """For each question the positions of its candidates' pictures."""
        return [np.asarray(positions, np.int64) for positions in self._questions["candidates"]]

    @cached_property
    def chosen(self) -> list[Any]:
        """For each question which of its candidates people associated with the cue, bool [candidates]."""
        return [np.asarray(flags, np.bool_) for flags in self._questions["chosen"]]

    @cached_property
    def _questions(self) -> dict[str, Any]:
        return read_columns(self.path / "questions.parquet")


def write_index(out: Path, root: Path, samples: int, names: Sequence[str]) -> None:
    """Write ``index.json`` and ``place.json`` of the set in ``root``, whose files of those ``names`` are read whole."""
    inside = root.resolve() == out.resolve()
    states = {} if inside else {name: file_state(root / name) for name in names}
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_digest, [root / name for name in names]))
    write_json(out / INDEX, {"samples": samples, "files": dict(zip(names, digests, strict=True))})
    write_json(out / PLACE, {"root": "." if inside else str(root), "states": states})


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns (lists or arrays of one length) as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


def read_columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file, as lists."""
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return columns
