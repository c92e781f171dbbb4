"""All results in a store, read back from their files alone: nothing that made them needs to exist any more."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcexp.artifacts.base import MANIFEST
from dcexp.artifacts.lineage import Node, ancestor, mixture, nearest
from dcexp.artifacts.result import RESULT

log = logging.getLogger(__name__)

TRAINER = "checkpoint/Train"  # the one stage that trains by the locked recipe
PRETRAINED = "pretrained"  # the kind of a model that was not trained here


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """The main metric of one checkpoint on one task.

    ``checkpoint`` is the lineage of the checkpoint; ``task`` all that the task is: its definition and its data.
    """

    checkpoint: Node
    key: str
    task: str
    name: str
    score: float
    created: str


Run = dict[str, StoredResult]  # the results of one checkpoint by task key


def stored_runs(root: Path) -> list[Run]:
    """The results in the store ``root`` by checkpoint; of two for the same task, the newer."""
    runs: dict[str, Run] = defaultdict(dict)
    for result in sorted(stored_results(root), key=lambda result: result.created):
        runs[result.checkpoint["key"]][result.key] = result
    return list(runs.values())


def stored_results(root: Path) -> Iterator[StoredResult]:
    """Every finished result that enters averages, of models trained here.

    Those of pretrained models and of tasks without a main metric are left out; what cannot be read is skipped with a
    warning in the log.
    """
    for folder in sorted((root / "result").glob("*/")):
        if folder.suffix in (".partial", ".old"):
            continue
        try:
            result = _result(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is not a readable result, skipped: %r", folder, error)
            continue
        if result:
            yield result


def samples_behind(root: Path, checkpoint: Node) -> int | None:
    """Samples ``checkpoint`` was trained on, repeats counted; None when they are not in the store any more."""
    kinds = ("shards",) if mixture(checkpoint) else ("subset", "shards")  # a subset is of one source alone
    steps = (nearest(checkpoint, kind) for kind in kinds)
    sizes = (_samples(root, step) for step in steps if step)
    return next((size for size in sizes if size is not None), None)


def _samples(root: Path, step: Node) -> int | None:
    try:
        manifest = json.loads((root / step["kind"] / step["name"] / MANIFEST).read_text())
        summary = manifest["summary"]
        return int(summary.get("taken", summary.get("written")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _result(folder: Path) -> StoredResult | None:
    manifest = json.loads((folder / MANIFEST).read_text())
    line = json.loads((folder / RESULT).read_text())
    lineage = manifest["lineage"]
    if lineage["inputs"].get("checkpoint", {}).get("kind") == PRETRAINED:
        return None
    stage, checkpoint = lineage["stage"], ancestor(lineage, "checkpoint")
    ancestor(checkpoint, "pool")
    if checkpoint["stage"]["name"] != TRAINER:
        raise ValueError(f"it was trained by {checkpoint['stage']['name']}, not by the benchmark's recipe")
    if not checkpoint["values"]["scale"]["name"]:
        raise ValueError("its scale has no name")
    score = line["metrics"]["main_metric"]
    if score is None:
        return None
    if not math.isfinite(score):
        raise ValueError(f"its main metric is {score}")
    data = manifest["inputs"].get("evalset", "")
    return StoredResult(
        checkpoint=checkpoint,
        key=line["key"],
        task=json.dumps([line["key"], stage, data], sort_keys=True),
        name=line["dataset"],
        score=score,
        created=manifest["created"],
    )
