"""The evaluation set that needs no download: scans of handwritten digits that no pool contains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.evalset import EvalSetIndex, test_tars
from dcexp.engines.base import Engine
from dcexp.tasks.base import EvalSource
from dcexp.tasks.examples import count_examples


@dataclass(frozen=True, kw_only=True)
class DigitsTestSet(EvalSource):
    """The test scans of the embedded digits (``dcexp/embedded``), written in upstream's layout."""

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        from dcexp.embedded.testset import write_testset

        write_testset(out)
        samples = sum(map(count_examples, test_tars(out)))
        EvalSetIndex.of(out, samples, as_root=".").write(out)
        return Summary(counts=Counts(total=samples, kept=samples))
