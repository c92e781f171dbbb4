"""The scale of a score over a whole pool: what is needed to norm it, measured once."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
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
    """``0000.json``, … for each score, and ``0000.npy``, … with all its numbers sorted where ranks are wanted.

    Scores go by number here: the name of a column may be anything.
    """

    kind = "scales"

    def measure(self, engine: Engine, parts: Sequence[Part], read: Read, number: int, name: str, norm: str) -> None:
        """Measure a score as ``norm`` needs it. Raises ValueError for numbers that it cannot scale."""
        items, note = list(enumerate(parts)), self._note(number)
        if note.is_file():
            return
        if norm == "rank":
            numbers = np.concatenate([np.empty(0), *engine.map(read, items, what=f"rank {name}")])
            numbers.sort()
            with whole_file(note.with_suffix(".npy")) as file:
                np.save(file, numbers)
            write_json(note, {})
            return
        found = list(engine.map(partial(_moments, read), items, what=f"measure {name}"))
        low, high = min(low for _, low, *_ in found), max(high for _, _, high, *_ in found)
        origin, unit = _scale(found, low, high, norm)
        scalable = low == high or (math.isfinite(origin) and 0 < unit < math.inf)
        if low <= high and not (math.isfinite(high - low) and scalable):
            raise ValueError(
                f"the score {name!r} goes from {low:g} to {high:g}, which norm={norm} cannot scale; use norm=rank"
            )
        write_json(note, {"origin": origin, "unit": unit} if low < high else {"origin": 0.0, "unit": 0.0})

    def normed(self, number: int, norm: str, values: Numbers) -> Numbers:
        """``values`` of a score on its scale, NaN where they are, shape of ``values``."""
        if norm == "raw":
            return values
        if norm == "rank":
            ordered: Any = np.load(self._note(number).with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            first, last = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
            return np.where(np.isnan(values), np.nan, (first + last + 1) / 2 / max(len(ordered), 1))
        scale = json.loads(self._note(number).read_text())
        return (values - scale["origin"]) / scale["unit"] if scale["unit"] else np.where(np.isnan(values), np.nan, 0.0)

    def _note(self, number: int) -> Path:
        return self.path / f"{number:04d}.json"


Moments = tuple[int, float, float, float, float]


def _moments(read: Read, item: tuple[int, Part]) -> Moments:
    """How many numbers a part has, the lowest, the highest, the mean and the sum of squares around it."""
    values = read(item)
    if len(values) == 0:
        return 0, math.inf, -math.inf, 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # what comes of it is looked at by measure
        mean = float(values.mean())
        return len(values), float(values.min()), float(values.max()), mean, float(((values - mean) ** 2).sum())


def _scale(found: Sequence[Moments], low: float, high: float, norm: str) -> tuple[float, float]:
    """What is 0 on the scale, and what is 1 away from it; not finite, or no distance, where there is none."""
    if norm == "minmax":
        return low, high - low
    count = max(sum(n for n, *_ in found), 1)
    mean = sum(n * of_part for n, _, _, of_part, _ in found) / count
    square = sum(spread + n * (of_part - mean) * (of_part - mean) for n, _, _, of_part, spread in found) / count
    return mean, math.sqrt(square) if square >= 0 else math.nan
