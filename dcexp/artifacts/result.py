"""The result: what one checkpoint scores on one task."""

import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import write_json
from dcexp.artifacts.records import write_records

RESULT = "result.json"
Metrics = Mapping[str, float | None]


class Result(Artifact):
    """``result.json``: one line of upstream's ``eval_results.jsonl`` (key, dataset, metrics)."""

    kind = "result"

    @cached_property
    def line(self) -> dict[str, Any]:
        """``{"key", "dataset", "metrics": {..., "main_metric"}}``; None, too, for what upstream left bare NaN."""
        line: dict[str, Any] = json.loads((self.path / RESULT).read_text())
        return {**line, "metrics": _strict(line["metrics"])}

    @property
    def main_metric(self) -> float | None:
        """The number that enters averages (a fraction, 0 to 1); None for a task that has none."""
        value: float | None = self.line["metrics"]["main_metric"]
        return value

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics there are, as ``eval/<task>/<metric>``."""
        return {f"eval/{self.line['key']}/{k}": v for k, v in self.line["metrics"].items() if v is not None}


def write_result(out: Path, key: str, name: str, metrics: Metrics, main_metric: float | None) -> None:
    """Write ``out/result.json``; NaN (a group with nobody in it) becomes null, as strict JSON wants."""
    line = {"key": key, "dataset": name, "metrics": _strict({**metrics, "main_metric": main_metric})}
    write_json(out / RESULT, line)


def _strict(metrics: Metrics) -> dict[str, float | None]:
    return {k: None if v is not None and math.isnan(v) else v for k, v in metrics.items()}


def results_in(artifacts: Iterable[Artifact]) -> list[Result]:
    """Those of ``artifacts`` that are results."""
    return [artifact for artifact in artifacts if isinstance(artifact, Result)]


def numbers_of(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """The metrics of the results among ``artifacts``."""
    return {name: value for result in results_in(artifacts) for name, value in result.numbers.items()}


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write a line for each, as upstream's ``eval_results.jsonl`` has them."""
    write_records(path, [result.line for result in results])
