"""Evaluation sets that may lie on a disk in one of several layouts: the first that is there is indexed, not copied."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.evalset import PICTURES, write_columns, write_index
from dcexp.engines.base import Engine
from dcexp.stage import Value
from dcexp.tasks.evalsets import FolderSet

log = logging.getLogger(__name__)


class Spot(NamedTuple):
    """Where one encoded image lies; the fields are the columns of ``pictures.parquet``."""

    file: str
    offset: int
    size: int
    deflated: bool
    name: str


@dataclass(frozen=True, kw_only=True)
class Content(ABC):
    """What was read of a set: where its distinct images lie, and, in subclasses, what is asked about them.

    ``dropped`` counts the rows that belong to another split.
    """

    parquet: ClassVar[str]
    spots: Sequence[Spot]
    dropped: int = 0

    @property
    @abstractmethod
    def samples(self) -> int:
        """What there is to answer."""

    @abstractmethod
    def columns(self) -> Mapping[str, Any]:
        """What ``parquet`` holds, beside ``pictures.parquet``."""

    def write(self, out: Path) -> None:
        """Write both tables into ``out``."""
        write_columns(out / PICTURES, dict(zip(Spot._fields, zip(*self.spots, strict=True), strict=True)))
        write_columns(out / self.parquet, self.columns())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which a set may lie on a disk.

    ``find`` gives the names of its files below ``root``, or raises FileNotFoundError saying what was looked for and
    what was there; ``read`` reads these files, and raises ValueError naming the first that is not as it should be.
    """

    name: str
    root: Path
    find: Callable[[Path], list[str]]
    read: Callable[[Path, list[str], Engine], Content]


@dataclass(frozen=True, kw_only=True)
class LaidOutSet(FolderSet):
    """The set ``folder`` below ``root``, in the first of the ``layouts`` that is there."""

    def layouts(self) -> Sequence[Layout]:
        """Where to look, in this order."""
        raise NotImplementedError(f"{type(self).__name__} has no layouts()")

    @property
    def top(self) -> Path:
        """``root``, absolute."""
        return Path(self.root).expanduser().resolve()

    def files(self) -> tuple[Path, list[str]]:
        """See :meth:`FolderSet.files`."""
        layout, names = self.found()
        return layout.root, names

    def check(self, engine: Engine, **values: Value) -> None:
        """Raise FileNotFoundError, saying what was looked for and how to get it, if the set is in no layout there."""
        self.found()

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        layout, names = self.found()
        log.info("%s: indexing the %s in %s", self.folder, layout.name, layout.root)
        content = layout.read(layout.root, names, engine)
        if not content.samples:
            raise ValueError(f"{layout.root / names[0]}: there is nothing of the test split in it")
        content.write(out)
        write_index(out, layout.root, content.samples, names)
        facts = {"root": str(layout.root), "layout": layout.name, "pictures": len(content.spots)}
        counts = Counts(total=content.samples + content.dropped, kept=content.samples, dropped=content.dropped)
        return Summary(counts=counts, facts=facts)

    def found(self) -> tuple[Layout, list[str]]:
        """The first layout that is there, and the names of its files. Raises FileNotFoundError, see :meth:`check`."""
        reasons = []
        for layout in self.layouts():
            try:
                names = layout.find(layout.root)
                for name in names:
                    (layout.root / name).stat()
            except (FileNotFoundError, NotADirectoryError) as error:
                reasons.append(f"  {layout.name}: {f'{error.filename} is not there' if error.filename else error}")
            else:
                return layout, names
        raise FileNotFoundError(
            f"no evaluation set in {self.home}. Looked for, in this order:\n" + "\n".join(reasons) + f"\n{self.advice}"
        )


def csv_and_zip(folder: Path) -> list[str]:
    """The files of a set as they lie in its repository. Raises FileNotFoundError."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [[name for name in names if name.endswith(suffix)] for suffix in (".csv", ".zip")]
    if any(len(of_kind) != 1 for of_kind in found):
        there = ", ".join(name for of_kind in found for name in of_kind[:3])
        raise FileNotFoundError(f"wanted one .csv and one .zip in {folder}, found {there or 'none'}")
    return [name for of_kind in found for name in of_kind]
