"""The evaluation set: an index of the test images of one task, and of what is asked about them."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import INDEX, Indexed
from dcexp.artifacts.files import write_json
from dcexp.artifacts.pictures import Ints, Pictures

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
PICTURES = "pictures.parquet"
TEXTS = {".txt", ".csv"}  # known by their content; of tars, zips and images the size must do


class EvalSet(Indexed):
    """``index.json`` says which files it is of, ``pictures.parquet`` where in them the images lie; see subclasses."""

    kind = "evalset"

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
        wanted = self.index["files"]
        found = listing(self.root, wanted)
        changed = sorted(name for name in wanted if found[name] != wanted[name])
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


def write_index(out: Path, as_root: str, samples: int, files: Mapping[str, str]) -> None:
    """Write ``out/index.json``; readers find the set's folder as ``as_root``: absolute, or relative to ``out``."""
    write_json(out / INDEX, {"root": as_root, "samples": samples, "files": dict(files)})


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


def listing(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Files below ``root`` by name: the sha256 of a text, the size of anything else in bytes.

    Raises FileNotFoundError for the first that is not there.
    """
    return {name: _state(root / name) for name in names}


def _state(path: Path) -> str:
    if path.suffix in TEXTS:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{path.stat().st_size} bytes"


def lines(path: Path) -> list[str]:
    """The lines, stripped; empty ones are no class and no template."""
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in found if line]
