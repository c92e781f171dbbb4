"""The scale of a score over a whole pool: what is needed to norm it, measured once."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.pool import Part
from dcexp.engines.base import Engine

Numbers = npt.NDArray[np.float64]
Read = Callable[[tuple[int, Part]], Numbers]  # the numbers of a part that are there


class Scales(Artifact):
    """``<name>.json`` for each score, and ``<name>.npy`` with all its numbers sorted where ranks are wanted."""

    kind = "scales"

    def measure(self, engine: Engine, parts: Sequence[Part], read: Read, name: str, norm: str) -> None:
        """Measure the score ``name`` as ``norm`` needs it. Raises ValueError where it is infinite and may not be."""
        items, note = list(enumerate(parts)), self.path / f"{name}.json"
        if note.is_file():
            return
        if norm == "rank":
            numbers = np.concatenate([np.empty(0), *engine.map(read, items, what=f"rank {name}")])
            numbers.sort()
            with whole_file(note.with_suffix(".npy")) as file:
                np.save(file, numbers)
            write_json(note, {})
            return
        found = list(engine.map(partial(_moments, read, norm), items, what=f"measure {name}"))
        count = sum(n for n, *_ in found)
        low, high = min(low for _, low, *_ in found), max(high for _, _, high, *_ in found)
        if count and not math.isfinite(high - low):
            raise ValueError(
                f"the score {name!r} is infinite in some rows, which norm={norm} cannot scale; use norm=rank"
            )
        mean = math.fsum(n * mean for n, _, _, mean, _ in found) / max(count, 1)
        square = math.fsum(spread + n * (of_part - mean) ** 2 for n, _, _, of_part, spread in found) / max(count, 1)
        origin, unit = (low, high - low) if norm == "minmax" else (mean, math.sqrt(square))
        write_json(note, {"origin": origin, "unit": unit if high > low else 0.0} if count else {"origin": 0, "unit": 0})

    def normed(self, name: str, norm: str, values: Numbers) -> Numbers:
        """``values`` of the score ``name`` on its scale, NaN where they are, shape of ``values``."""
        if norm == "raw":
            return values
        if norm == "rank":
            ordered: Any = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            first, last = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
            return np.where(np.isnan(values), np.nan, (first + last + 1) / 2 / max(len(ordered), 1))
        scale = json.loads((self.path / f"{name}.json").read_text())
        return (values - scale["origin"]) / scale["unit"] if scale["unit"] else values - values


def _moments(read: Read, norm: str, item: tuple[int, Part]) -> tuple[int, float, float, float, float]:
    """How many numbers a part has, the lowest, the highest, the mean and the sum of squares around it."""
    values = read(item)
    if len(values) == 0:
        return 0, math.inf, -math.inf, 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        return len(values), low, high, 0.0, 0.0
    mean = float(values.mean())
    return len(values), low, high, mean, float(((values - mean) ** 2).sum())
