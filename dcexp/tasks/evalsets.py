"""Evaluation sets of images and classes that were downloaded: indexed where they lie."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.evalset import CLASSNAMES, PICTURES, TEMPLATES, ClassSet, write_columns, write_index
from dcexp.artifacts.listing import lines, listing
from dcexp.engines.base import Engine
from dcexp.hub import Origin
from dcexp.stage import Step, Value
from dcexp.tasks.base import EvalSource
from dcexp.tasks.wds import NSHARDS, integers, label, picture_columns, samples, shard_names

LAYOUT = f"{CLASSNAMES}, {TEMPLATES}, {NSHARDS}, test/0.tar and so on"
Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class FolderSet(EvalSource):
    """An evaluation set in the folder ``<root>/<folder>``; nothing is copied. Write ``files`` and ``run``.

    ``hub`` is the dataset repository of the Hugging Face Hub that has it, at ``revision`` (a commit; empty: the
    newest); empty: none has.
    """

    layout: ClassVar[str]

    root: str = field(compare=False)
    folder: str
    hub: str = field(default="", compare=False)
    revision: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        return self.folder

    @property
    def home(self) -> Path:
        """The folder, absolute."""
        return (Path(self.root).expanduser() / self.folder).resolve()

    def files(self) -> tuple[Path, list[str]]:
        """The files of the set: the folder they are named in, and their names. Raises OSError for one not there."""
        raise NotImplementedError(f"{type(self).__name__} has no files()")

    def origin(self) -> Origin | None:
        """See :meth:`EvalSource.origin`."""
        return Origin(repo=self.hub, revision=self.revision, folder=self.home) if self.hub else None

    def step(self) -> Step:
        """The step, with the absolute path and a digest of the listing: other files are another set."""
        try:
            found = json.dumps(listing(*self.files()), sort_keys=True)
        except OSError:
            found = "missing"
        return Step(self, {"path": str(self.home), "listing": hashlib.sha256(found.encode()).hexdigest()})

    def check(self, engine: Engine, **values: Value) -> None:
        """Raise FileNotFoundError, saying where it was looked for and how to get it, if any file is missing."""
        try:
            listing(*self.files())
        except OSError as error:
            missing = f"{error.filename} is not there"
            raise FileNotFoundError(f"no evaluation set in {self.home}: {missing}.\n{self.advice}") from None

    @property
    def advice(self) -> str:
        """What is wanted, and how to get it."""
        where = "here it lies: evalsets=DIR"
        if origin := self.origin():
            ours = f"python -m dcexp download evalsets={self.root} tasks=datacomp   (or what you have chosen for tasks)"
            where = f"To get it:\n  {ours}\n  {origin.command}\nor say w{where}"
        else:
            where = f"Say w{where}"
        return f"Wanted: {self.layout}. {where}"


@dataclass(frozen=True, kw_only=True)
class ClassFolder(FolderSet):
    """Images of classes in upstream's layout (``wds_<name>_test``).

    ``reads`` are the files that every sample has beside its image: ``cls``, the label, ``npy``, integers. Indexing
    reads the headers of the tars and these: a truncated tar is found here, before a model is loaded.
    """

    makes: ClassVar[type[Artifact]] = ClassSet
    layout: ClassVar[str] = LAYOUT

    reads: list[Literal["cls", "npy"]] = field(default_factory=lambda: ["cls"])

    def files(self) -> tuple[Path, list[str]]:
        """See :meth:`FolderSet.files`."""
        return self.home, class_files(self.home)

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        self.check(engine)
        return index_classes(self.home, out, self.reads, engine)


def class_files(home: Path) -> list[str]:
    """The names of the files of a set in upstream's layout. Raises FileNotFoundError, ValueError."""
    return [CLASSNAMES, TEMPLATES, NSHARDS, *shard_names(home)]


def index_classes(home: Path, out: Path, reads: Sequence[str], engine: Engine) -> Summary:
    """Write the index of the set in ``home`` into ``out``."""
    tars, classes, templates = shard_names(home), lines(home / CLASSNAMES), lines(home / TEMPLATES)
    parts = engine.map(partial(_tar_columns, home, tuple(reads)), tars, what=f"index {home.name}")
    columns: Columns = {}
    for part in parts:
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    _assert_sound(home, columns, len(classes) if "cls" in reads else 0)
    write_columns(out / PICTURES, columns)
    found = len(columns["name"])
    write_index(out, home, found, class_files(home))
    facts = {"root": str(home), "classes": len(classes), "templates": len(templates)}
    return Summary(counts=Counts(total=found, kept=found), facts=facts)


def _tar_columns(home: Path, reads: tuple[str, ...], name: str) -> Columns:
    tar = home / name
    found = list(samples(tar, reads))
    columns = picture_columns(name, found)
    if "cls" in reads:
        columns["label"] = [label(sample, tar) for sample in found]
    if "npy" in reads:
        columns["metadata"] = [integers(sample, tar) for sample in found]
    return columns


def _assert_sound(home: Path, columns: Columns, classes: int) -> None:
    for i, position in enumerate(columns.get("label", []) if classes else []):
        if position >= classes:
            raise ValueError(
                f"{home / columns['file'][i]}: {columns['name'][i]}.cls: wanted the position of a class, "
                f"0 to {classes - 1}, as {CLASSNAMES} has {classes} lines; got {position}"
            )
    widths = [len(vector) for vector in columns.get("metadata", [])]
    for i, width in enumerate(widths):
        if width != widths[0]:
            raise ValueError(
                f"{home / columns['file'][i]}: {columns['name'][i]}.npy holds {width} integers, others {widths[0]}"
            )
