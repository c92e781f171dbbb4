"""Mixture: the shards of several sources together, drawn by weight. Nothing is copied."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.files import write_json
from dcexp.artifacts.place import below
from dcexp.artifacts.shards import FILES, META, SIZES, Shards
from dcexp.engines.base import Engine
from dcexp.stage import Stage, Step

MAIN = "main"  # what the source of the run itself is called
TAKEN = (MAIN, "self", "out", "engine", "inputs", "seed")  # words that stages and lineages have for something else


@dataclass(frozen=True, kw_only=True)
class Mixture(Stage):
    """The shards of the main source and of the parts in ``weights``, listed where they lie.

    A shard is drawn with a probability proportional to its weight: ``weight`` for those of the main source,
    ``weights[part]`` for those of a part. So a source is drawn in proportion to its weight times its number of shards,
    as in upstream's ``train.py --data_weights``.
    """

    makes = Shards

    weights: dict[str, float]
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in self.weights.items():
            if name in TAKEN or not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
                raise ValueError(
                    f"mixture.{name}: a part of a mixture cannot be called {name!r}; wanted letters, digits, '_' and "
                    f"'-', and none of {', '.join(TAKEN)}"
                )
            if weight <= 0:
                raise ValueError(f"mixture.{name}.weight={weight:g}: wanted a number above 0")
        if self.weight <= 0:
            raise ValueError(f"weight={self.weight:g}: wanted a number above 0")

    @property
    def label(self) -> str:
        """See :attr:`Stage.label`: the parts and their weights too."""
        return "-".join([super().label, *(f"{name}_{weight:g}" for name, weight in sorted(self.weights.items()))])

    def step(self, main: Step, parts: Mapping[str, Step]) -> Step:
        """This stage applied to the shards of the main source and of every part. Their order is that of the names."""
        steps = {MAIN: main, **dict(sorted(parts.items()))}
        names: dict[str, str] = {}
        for name, step in steps.items():
            if (other := names.setdefault(step.key, name)) != name:
                raise ValueError(
                    f"{other} and {name} of the mixture are the same samples of the same source; leave out one of the "
                    "two and give the other more weight"
                )
        return Step(self, steps)

    def run(self, out: Path, engine: Engine, **parts: Shards) -> Summary:
        """List the shards of all parts in ``out``. Raises ValueError when a part is empty or has lost something."""
        sizes: dict[str, int] = {}
        files: dict[str, Any] = {}
        weights: list[float] = []
        for part, shards in parts.items():
            if not shards.samples:
                raise ValueError(f"{part} of the mixture has no samples: {shards.path}; leave it out, or choose others")
            shards.check()
            names = _names(shards, out)
            if twice := next((name for name in names if name in sizes), None):
                raise ValueError(f"{part} of the mixture holds {twice}, which another part holds too; leave out one")
            sizes |= dict(zip(names, shards.sizes.values(), strict=True))
            files |= {name: shards.files[own] for name, own in zip(names, shards.sizes, strict=True)}
            weights += [self._weight(part)] * len(names)
        write_json(out / SIZES, sizes)
        write_json(out / FILES, files)
        account = self._account(parts)
        write_json(out / META, {"weights": weights, "mixture": account, **_counts(list(parts.values()))})
        samples = sum(sizes.values())
        facts = {
            "written": samples,
            "shards": len(sizes),
            "bytes": sum(int(file["bytes"]) for file in files.values()),
            "parts": account,
        }
        return Summary(counts=Counts(total=samples, kept=samples), facts=facts)

    def cost(self, *_: Any, **made: Any) -> str:
        """How often each part is drawn, once the shards of all are there."""
        parts = {name: made[name] for name in (MAIN, *self.weights) if name in made}
        if len(parts) <= len(self.weights):
            return ""
        shares = [f"{told['share']:.1%} from {part}" for part, told in self._account(parts).items()]
        return f"shards drawn: {', '.join(shares)}"

    def _weight(self, part: str) -> float:
        return self.weight if part == MAIN else self.weights[part]

    def _account(self, parts: Mapping[str, Shards]) -> dict[str, dict[str, float]]:
        """Of every part: weight, shards, samples, and its share of the draws."""
        total = sum(self._weight(part) * len(shards.sizes) for part, shards in parts.items())
        return {
            part: {
                "weight": (weight := self._weight(part)),
                "shards": len(shards.sizes),
                "samples": shards.samples,
                "share": round(weight * len(shards.sizes) / total, 6),
            }
            for part, shards in parts.items()
        }


def _names(shards: Shards, out: Path) -> list[str]:
    """What to call the shards of a part in ``out``: the way to them within a store, which may move as a whole.

    Those that lie outside of the store keep their place, a path or URL.
    """
    folder = shards.folder or os.path.relpath(shards.path, out)
    return [below(folder, name) for name in shards.sizes]


def _counts(parts: list[Shards]) -> dict[str, int]:
    """Upstream's counts in ``meta.json``, for all parts together."""
    names = ("processed_count", "output_count", "output_shard_count", "blur_count")
    return {name: sum(shards.meta.get(name, 0) for shards in parts) for name in names}
