"""The evaluation set: images, labels, class names and templates of one zero-shot task, in the wds layout."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from dcexp.artifacts.base import INDEX, Indexed
from dcexp.artifacts.files import write_json

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
NSHARDS = "test/nshards.txt"
LAYOUT = f"{CLASSNAMES}, {TEMPLATES}, {NSHARDS}, test/0.tar and so on"


class EvalSet(Indexed):
    """An index of class names, templates and the tars of the test split; ``root`` is in the wds layout."""

    kind = "evalset"

    @property
    def samples(self) -> int:
        """Images in the test split, counted when it was indexed."""
        return int(self.index["samples"])

    @cached_property
    def classnames(self) -> list[str]:
        """One name per class; the position is the label."""
        return _lines(self.root / CLASSNAMES)

    @cached_property
    def templates(self) -> list[str]:
        """Prompt templates with the placeholder ``{c}``."""
        return _lines(self.root / TEMPLATES)

    @property
    def tars(self) -> list[Path]:
        """The shards of the test split, in order."""
        return test_tars(self.root)

    def assert_unchanged(self) -> None:
        """Raise ValueError when files were changed since they were indexed, FileNotFoundError when any is gone."""
        files, wanted = listing(self.root), self.index["files"]
        changed = sorted(name for name in files.keys() | wanted.keys() if files.get(name) != wanted.get(name))
        if changed:
            raise ValueError(
                f"{self.root}: {', '.join(changed[:3])} changed since this evaluation set was indexed; "
                "if that was meant, index it anew: rebuild=evalset"
            )


@dataclass(frozen=True, kw_only=True)
class EvalSetIndex:
    """What ``index.json`` holds. ``root`` is absolute, or relative to the artifact's own directory."""

    root: str
    samples: int
    classes: int
    templates: int
    files: Mapping[str, str]

    @classmethod
    def of(cls, root: Path, samples: int, as_root: str) -> "EvalSetIndex":
        """Index the folder ``root``, which later readers will find as ``as_root``."""
        return cls(
            root=as_root,
            samples=samples,
            classes=len(_lines(root / CLASSNAMES)),
            templates=len(_lines(root / TEMPLATES)),
            files=listing(root),
        )

    def write(self, out: Path) -> None:
        """Write ``out/index.json``."""
        write_json(out / INDEX, asdict(self))


def test_tars(root: Path) -> list[Path]:
    """The tars that ``test/nshards.txt`` speaks of: ``test/0.tar`` to ``test/<n-1>.tar``. Raises ValueError."""
    text = (root / NSHARDS).read_text().strip()
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{root / NSHARDS}: wanted the number of tars, got {text[:40]!r}")
    return [root / "test" / f"{i}.tar" for i in range(int(text))]


def listing(root: Path) -> dict[str, str]:
    """Every file of the set by relative name: the sha256 of a text, the size of a tar in bytes.

    Raises FileNotFoundError for the first file that is not there.
    """
    found = {name: _sha256(root / name) for name in (CLASSNAMES, TEMPLATES, NSHARDS)}
    return found | {tar.relative_to(root).as_posix(): f"{tar.stat().st_size} bytes" for tar in test_tars(root)}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lines(path: Path) -> list[str]:
    """The lines, stripped; empty ones are no class and no template."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]
