"""Train: the stage that makes a checkpoint by the recipe of a scale."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.checkpoint import LATEST, METRICS, Checkpoint
from dcexp.artifacts.shards import Shards
from dcexp.engines.base import Engine
from dcexp.engines.local import Local
from dcexp.scale import Scale
from dcexp.stage import Stage, Step
from dcexp.training.precision import Precision, require_hardware

MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Training by the recipe. Nothing here changes the recipe: these are what the benchmark leaves free.

    ``precision`` is open_clip's word. ``checkpoints`` are written at equal intervals of optimizer steps; each is an
    open_clip epoch. ``workers`` load data for each rank; they are part of the identity because they decide the order
    of the data. ``accumulate`` splits a rank's batch to fit memory, at the price of a second forward pass; every
    sample is still contrasted with the whole batch. ``log_every`` is in optimizer steps.
    """

    makes: ClassVar[type[Artifact]] = Checkpoint

    precision: Precision = "amp"
    checkpoints: int = 5
    workers: int = 4
    accumulate: int = 1
    log_every: int = field(default=100, compare=False)

    def step(self, shards: Step, scale: Scale, seed: int) -> Step:
        """Training on ``shards`` at ``scale``, weights and data order drawn from ``seed``."""
        return Step(self, {"shards": shards, "scale": scale, "seed": seed})

    def check(self, engine: Engine, *, scale: Scale, seed: int) -> None:
        """Raise ValueError for what this scale, engine or machine cannot do."""
        for name in ("workers", "accumulate", "log_every", "checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)}: wanted 1 or more")
        if self.checkpoints > scale.steps:
            raise ValueError(f"train.checkpoints={self.checkpoints}, but scale {scale.name} has {scale.steps} steps")
        if not 0 <= seed <= MAX_SEED - engine.devices:
            raise ValueError(f"seed={seed}: wanted 0 to {MAX_SEED - engine.devices}")
        self._check_batch(scale.recipe.batch_size, engine.devices)

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Raise ValueError for a precision or number of devices that is not to be had here."""
        if isinstance(engine, Local):
            require_hardware(self.precision, engine.devices)

    def _check_batch(self, batch_size: int, devices: int) -> None:
        if batch_size % (devices * self.accumulate) == 0:
            return
        if batch_size % devices:
            wanted = "set engine.devices to a divisor: " + _divisors(batch_size, near=devices)
        else:
            wanted = "set train.accumulate to one of " + _divisors(batch_size // devices, near=self.accumulate)
        raise ValueError(
            f"the batch of {batch_size} samples cannot be split evenly over engine.devices={devices} x "
            f"train.accumulate={self.accumulate}; {wanted}"
        )

    def cost(self, *, scale: Scale, seed: int) -> str:
        """Optimizer steps, and the samples they see."""
        batch_size = scale.recipe.batch_size
        return f"{scale.steps:,} steps x {batch_size:,} = {scale.steps * batch_size:,} samples"

    def run(self, out: Path, engine: Engine, *, shards: Shards, scale: Scale, seed: int) -> Summary:
        """Train on every device of ``engine``; goes on at the last finished interval found in ``out``."""
        from dcexp.training.fit import Job, fit

        scale.check()
        if not shards.samples:
            raise ValueError(f"nothing to train on: {shards.path} holds no samples")
        shards.check()
        sizes = dict(zip(shards.places, shards.sizes.values(), strict=True))
        engine.gang(fit, Job(out=out.resolve(), shards=sizes, scale=scale, seed=seed, **asdict(self)))
        return _summary(out, shards, scale)


def _summary(out: Path, shards: Shards, scale: Scale) -> Summary:
    from dcexp.training.curve import last_line

    last: dict[str, Any] = last_line(out / METRICS)
    assert last.get("step") == scale.steps - 1, "the ranks ended before the last step"
    assert (out / LATEST).exists(), "the ranks ended without a checkpoint"
    seen = last["samples_seen"]
    facts = {
        "steps": scale.steps,
        "samples_seen": seen,
        "passes": round(seen / shards.samples, 3),
        "loss": last["train/loss"],
        "logit_scale": last["train/scale"],
        "samples_per_second": round(seen / last["seconds"], 1),
        "recipe": scale.digest,
    }
    return Summary(counts=Counts(total=seen + last["corrupt"], kept=seen, corrupt=last["corrupt"]), facts=facts)


def _divisors(number: int, near: int) -> str:
    """Up to four divisors of ``number`` next to ``near``, as words."""
    divisors = sorted((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - near))
    return ", ".join(map(str, sorted(divisors[:4])))
