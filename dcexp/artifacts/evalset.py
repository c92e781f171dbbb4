"""The evaluation set: images, labels, class names and templates of one zero-shot task, in the wds layout."""

from functools import cached_property
from pathlib import Path

from dcexp.artifacts.base import Artifact


class EvalSet(Artifact):
    """``classnames.txt``, ``zeroshot_classification_templates.txt``, ``test/nshards.txt``, ``test/0.tar`` …"""

    kind = "evalset"

    @cached_property
    def classnames(self) -> list[str]:
        """One name per class; the position is the label."""
        return _lines(self.path / "classnames.txt")

    @cached_property
    def templates(self) -> list[str]:
        """Prompt templates with the placeholder ``{c}``."""
        return _lines(self.path / "zeroshot_classification_templates.txt")

    @property
    def tars(self) -> list[Path]:
        """The shards of the test split, in order."""
        shards = int((self.path / "test" / "nshards.txt").read_text())
        return [self.path / "test" / f"{i}.tar" for i in range(shards)]


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]
