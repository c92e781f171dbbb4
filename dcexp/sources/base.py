"""What every source is: a stage without inputs that makes the index of a pool."""

from dataclasses import dataclass

from dcexp.artifacts.pool import Pool
from dcexp.stage import Stage, Step


@dataclass(frozen=True, kw_only=True)
class Source(Stage):
    """Where samples come from. Subclasses write the index of a pool; they never copy one."""

    makes = Pool
    version = 2

    def step(self) -> Step:
        """This source as the first step of a run. Add a value for whatever can change while the fields stay."""
        return Step(self, {})
