"""The embedded pool: handwritten digits, made dirty like the web. Nothing to download."""

from dataclasses import dataclass
from pathlib import Path

from dcexp.artifacts.base import Summary
from dcexp.engines.base import Engine
from dcexp.sources.base import Source
from dcexp.sources.index import named, write_index


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """``size`` samples in the layout of CommonPool, rendered from scikit-learn's digits; ``seed`` varies the dirt."""

    size: int = 12800
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.seed < 0:
            raise ValueError(f"source.size={self.size} source.seed={self.seed}: wanted size >= 1 and seed >= 0")

    def run(self, out: Path, engine: Engine) -> Summary:
        """Render the pool into ``out`` and index it there."""
        from dcexp.embedded.pool import write_pool

        write_pool(out, size=self.size, seed=self.seed)
        shards = sorted(path.name for path in named(out / "shards", ".tar"))
        return write_index(out, engine, folder=out / "metadata", root=".", shards=shards)
