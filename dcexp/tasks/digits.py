"""The evaluation set that needs no download: scans of handwritten digits that no pool contains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.evalset import EvalSet, EvalSetIndex, test_tars
from dcexp.engines.base import Engine
from dcexp.stage import Stage
from dcexp.tasks.examples import count_examples


@dataclass(frozen=True, kw_only=True)
class DigitsTestSet(Stage):
    """The test scans of the embedded digits (``dcexp/embedded``), written in upstream's layout."""

    makes: ClassVar[type[Artifact]] = EvalSet

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        from dcexp.embedded.testset import write_testset

        write_testset(out)
        samples = sum(map(count_examples, test_tars(out)))
        EvalSetIndex.of(out, samples, as_root=".").write(out)
        return Summary(counts=Counts(total=samples, kept=samples))
