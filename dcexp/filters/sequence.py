"""One filter after the other: the second sees only what the first has kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Summary
from dcexp.artifacts.pool import Pool
from dcexp.engines.base import Engine
from dcexp.filters.algebra import named
from dcexp.filters.base import Filter, FractionOf
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class Sequence(Filter):
    """Keeps what ``then`` keeps of what ``first`` has kept.

    Papers rarely say of what the second fraction is one. ``fraction_of="pool"``: of the pool (top 30 % by one
    score, and of these the best by another, as many as 20 % of the pool); ``"input"``: of what ``first`` has kept.
    How often ``first`` takes a sample does not count: ``then`` sees each once.
    """

    first: Filter = field(compare=False)
    then: Filter = field(compare=False)
    fraction_of: FractionOf = "pool"

    def step(self, pool: Step, within: Step | None = None, fraction_of: FractionOf = "pool") -> Step:
        """What ``then`` needs, under ``then.``; a sequence within another one passes on what that has kept."""
        inner = self.then.step(pool, self.first.step(pool, within, fraction_of), self.fraction_of)
        return Step(self, {"then": self.then, **{f"then.{name}": value for name, value in inner.inputs.items()}})

    @property
    def label(self) -> str:
        return "-".join([self.first.label, "then", self.then.label, *(["of_input"] * (self.fraction_of == "input"))])

    def check(self, engine: Engine, **values: Any) -> None:
        """Let the second filter look for what it needs; the first is a step of its own."""
        self.then.check(engine, **dict(named("then.", values)))

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """The same for what this machine has to have."""
        self.then.check_machine(engine, **dict(named("then.", values)))

    def check_pool(self, pool: Pool) -> None:
        """Let the second filter see whether the pool has what it needs."""
        self.then.check_pool(pool)

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        """Run the second filter on what the first has kept."""
        return self.then.run(out, engine, **dict(named("then.", inputs)))
