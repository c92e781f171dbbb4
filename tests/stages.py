"""Small stages for testing the machinery: they write a line, count how often they ran, and can be told to fail."""

import errno
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.engines.base import Engine
from dcexp.stage import Stage, Step


class Note(Artifact):
    kind = "note"

    @property
    def text(self) -> str:
        return (self.path / "note.txt").read_text()


class Book(Note):
    kind = "book"


@dataclass(frozen=True, kw_only=True)
class Write(Stage):
    """Writes ``text``; leaves a mark in ``marks`` (outside the artifact) each time it really runs."""

    makes: ClassVar[type[Artifact]] = Note
    text: str
    loud: bool = False
    marks: str = field(default="", compare=False)
    seconds: float = field(default=0.0, compare=False)
    fail: str = field(default="", compare=False)

    def step(self, **inputs: Any) -> Step:
        return Step(self, inputs)

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        if self.marks:
            (Path(self.marks) / f"{time.monotonic_ns()}-{os.getpid()}").touch()
        before = (out / "half.txt").exists()
        (out / "half.txt").write_text("half")
        time.sleep(self.seconds)
        if self.fail == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        parts = [artifact.text for artifact in inputs.values() if isinstance(artifact, Note)]
        (out / "note.txt").write_text("+".join([*parts, self.text.upper() if self.loud else self.text]))
        kept = 2 if self.fail == "count" else 1
        return Summary(counts=Counts(total=1, kept=kept), facts={"continued": before})


@dataclass(frozen=True, kw_only=True)
class Bind(Write):
    makes: ClassVar[type[Artifact]] = Book
