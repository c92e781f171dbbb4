"""The evaluation set that needs no download: scans of handwritten digits that no pool contains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.evalset import ClassSet
from dcexp.engines.base import Engine
from dcexp.tasks.base import EvalSource
from dcexp.tasks.evalsets import index_classes


@dataclass(frozen=True, kw_only=True)
class DigitsTestSet(EvalSource):
    """The test scans of the embedded digits (``dcexp/embedded``), written in upstream's layout."""

    makes: ClassVar[type[Artifact]] = ClassSet

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        from dcexp.embedded.testset import write_testset

        write_testset(out)
        return index_classes(out, out, ["cls"], engine)
