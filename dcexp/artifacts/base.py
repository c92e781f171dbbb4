"""What every artifact is: a finished directory with a manifest, and the counts it answers for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

MANIFEST = "manifest.json"
REQUIRED = ("kind", "key", "created", "digest", "summary", "inputs", "lineage", "code", "files")
INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Where the samples of a stage went: ``total = kept + dropped + missing + corrupt``.

    ``dropped`` was decided, ``missing`` was wanted and not there, ``corrupt`` was there and not readable.
    """

    total: int
    kept: int
    dropped: int = 0
    missing: int = 0
    corrupt: int = 0

    @property
    def add_up(self) -> bool:
        """True when no sample is unaccounted for."""
        return self.total == self.kept + self.dropped + self.missing + self.corrupt

    def __str__(self) -> str:
        parts = [f"{self.kept:,} kept"]
        parts += [f"{n:,} {word}" for word in ("dropped", "missing", "corrupt") if (n := getattr(self, word))]
        return f"{self.total:,} in = {' + '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a stage says of its own work: the counts, and named facts for whoever reads the manifest.

    ``files`` are size and digest, as in the manifest, of files that were hashed while they were written, by name:
    what is large need not be read again.
    """

    counts: Counts
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"counts": asdict(self.counts), **self.facts}


class Artifact:
    """A finished directory of the store. Subclasses add what is in it and how to read it."""

    kind: ClassVar[str]
    aside: ClassVar[frozenset[str]] = frozenset()  # files for people: what is made from the artifact does not see them

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest, as :meth:`dcexp.store.Store.build` wrote it. Raises ValueError for a damaged one."""
        path = self.path / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
            if missing := [key for key in REQUIRED if key not in manifest]:
                raise ValueError(f"it lacks {', '.join(missing)}")
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete {self.path}, and the same command makes it anew"
            ) from None
        return manifest

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of its work (``counts`` and its own facts)."""
        summary: dict[str, Any] = self.manifest["summary"]
        return summary

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


class Indexed(Artifact):
    """An artifact that says what there is instead of holding it: ``index.json``, whose ``root`` says where.

    The files lie in the artifact itself (embedded data) or in a user's own folder, which is never copied.
    """

    @cached_property
    def index(self) -> dict[str, Any]:
        """What ``index.json`` holds."""
        index: dict[str, Any] = json.loads((self.path / INDEX).read_text())
        return index

    @cached_property
    def root(self) -> Path:
        """The directory that was indexed."""
        return (self.path / self.index["root"]).resolve()
