"""The checkpoint: a trained CLIP in open_clip's own file format, and the curve that led there."""

from functools import cached_property
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Artifact

LATEST = "epoch_latest.pt"
METRICS = "metrics.jsonl"
MONITOR = "monitor.jsonl"  # what a monitor saw of it; absent without one


class Checkpoint(Artifact):
    """``epoch_latest.pt`` (loads as open_clip's ``pretrained=``), ``epoch_<k>.pt`` and ``metrics.jsonl``."""

    kind = "checkpoint"
    aside = frozenset({MONITOR})

    @property
    def weights(self) -> Path:
        """The final weights."""
        return self.path / LATEST

    @property
    def metrics(self) -> Path:
        """One JSON line per logged optimizer step."""
        return self.path / METRICS

    @property
    def model(self) -> str:
        """open_clip's name of the architecture."""
        return str(self.scale["recipe"]["model"])

    @cached_property
    def scale(self) -> dict[str, Any]:
        """The scale it was trained at: name, recipe and recipe digest."""
        scale: dict[str, Any] = self.manifest["lineage"]["values"]["scale"]
        return scale
