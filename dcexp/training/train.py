"""Train: the stage that makes a checkpoint by the recipe of a scale."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from dcexp.artifacts.base import Artifact, Counts, Summary
from dcexp.artifacts.checkpoint import LATEST, METRICS, Checkpoint
from dcexp.artifacts.files import write_json
from dcexp.artifacts.shards import Shards
from dcexp.engines.base import Engine
from dcexp.engines.local import Local
from dcexp.scale import Scale
from dcexp.stage import Stage, Step
from dcexp.training.estimate import gpu_hours
from dcexp.training.precision import Precision, require_hardware

log = logging.getLogger(__name__)

MAX_SEED = 2**32 - 1
ACCUMULATION = "accumulation.json"
Watch = Mapping[str, Callable[[Path], Mapping[str, float]]]  # by name: what is to be known of a file of weights


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Training by the recipe. Nothing here changes the recipe: these are what the benchmark leaves free.

    ``precision`` is open_clip's word. ``checkpoints`` are written at equal intervals of optimizer steps; each is an
    open_clip epoch. ``workers`` load data for each rank; they are part of the identity because they decide the order
    of the data. ``accumulate`` splits a rank's batch to fit memory, at the price of a second forward pass; every
    sample is still contrasted with the whole batch; ``auto`` splits it no more than the devices' memory asks for.
    ``compile`` lets torch.compile fuse the model: faster, and other roundings. ``log_every`` is in optimizer steps.
    """

    makes: ClassVar[type[Artifact]] = Checkpoint

    precision: Precision = "amp"
    checkpoints: int = 5
    workers: int = 4
    accumulate: int | Literal["auto"] = 1
    compile: bool = False
    log_every: int = field(default=100, compare=False)
    watch: Watch = field(default_factory=dict, init=False, compare=False)  # no word of the config: see watched()

    def watched(self, watch: Watch) -> "Train":
        """The same training, whose checkpoints are put to the (picklable) functions of ``watch`` while it goes on."""
        train = replace(self)
        object.__setattr__(train, "watch", watch)
        return train

    def step(self, shards: Step, scale: Scale, seed: int) -> Step:
        """Training on ``shards`` at ``scale``, weights and data order drawn from ``seed``."""
        return Step(self, {"shards": shards, "scale": scale, "seed": seed})

    def check(self, engine: Engine, *, scale: Scale, seed: int) -> None:
        """Raise ValueError for what this scale, engine or machine cannot do."""
        numbers = {name: getattr(self, name) for name in ("workers", "accumulate", "log_every", "checkpoints")}
        for name, value in numbers.items():
            if value != "auto" and value < 1:
                raise ValueError(f"train.{name}={value}: wanted 1 or more")
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
        accumulate = 1 if self.accumulate == "auto" else self.accumulate
        if batch_size % (devices * accumulate) == 0:
            return
        if batch_size % devices:
            wanted = "set engine.devices to a divisor: " + _nearest(divisors(batch_size), devices)
        else:
            wanted = "set train.accumulate to one of " + _nearest(divisors(batch_size // devices), accumulate)
        raise ValueError(
            f"the batch of {batch_size} samples cannot be split evenly over engine.devices={devices} x "
            f"train.accumulate={self.accumulate}; {wanted}"
        )

    def cost(
        self, *, scale: Scale, seed: int, shards: Shards | None = None, subset: Artifact | None = None, **_: Any
    ) -> str:
        """Optimizer steps, the samples they see, how often that is each of the shards, and what a checkpoint takes."""
        batch_size = scale.recipe.batch_size
        seen, hours = scale.steps * batch_size, gpu_hours(scale, self.accumulate)
        words = [f"{scale.steps:,} steps x {batch_size:,} = {seen:,} samples"]
        samples = shards.samples if shards else subset.summary.get("taken") if subset else 0
        if samples:
            words.append(f"{seen / samples:.3g} passes over {samples:,}")
        words.append(f"{self.checkpoints} checkpoints, one per {seen / self.checkpoints:,.0f} samples")
        if hours:
            words.append(f"about {hours:,.2g} hours of one A100" if hours < 100 else f"about {hours:,.0f} A100-hours")
        return "; ".join(words)

    def run(self, out: Path, engine: Engine, *, shards: Shards, scale: Scale, seed: int) -> Summary:
        """Train on every device of ``engine``; goes on at the last step that was saved in ``out``."""
        from dcexp.training.fit import Job, fit
        from dcexp.training.reading import shard_list

        scale.check()
        if not shards.samples:
            raise ValueError(f"nothing to train on: {shards.path} holds no samples")
        shards.check()
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        options["accumulate"] = self._accumulation(out, engine, scale)
        engine.gang(fit, Job(out=out.resolve(), shards=shard_list(shards), scale=scale, seed=seed, **options))
        return _summary(out, shards, scale, options["accumulate"])

    def _accumulation(self, out: Path, engine: Engine, scale: Scale) -> int:
        """What ``auto`` comes to. It is measured once, so that a training goes on as it began."""
        if self.accumulate != "auto":
            return self.accumulate
        from dcexp.training.memory import smallest_accumulation

        found = out / ACCUMULATION
        if not found.exists():
            size = scale.recipe.batch_size // engine.devices
            number = smallest_accumulation(engine, scale, self.precision, divisors(size), out.resolve())
            log.info("train.accumulate=auto: %d micro-batches of %d samples per device", number, size // number)
            write_json(found, {"accumulate": number})
        return int(json.loads(found.read_text())["accumulate"])


def _summary(out: Path, shards: Shards, scale: Scale, accumulate: int) -> Summary:
    from dcexp.training.curve import last_line

    last: dict[str, Any] = last_line(out / METRICS)
    assert last.get("step") == scale.steps - 1, "the ranks ended before the last step"
    assert (out / LATEST).exists(), "the ranks ended without a checkpoint"
    seen = last["samples_seen"]
    facts = {
        "steps": scale.steps,
        "accumulate": accumulate,
        "samples_seen": seen,
        "passes": round(seen / shards.samples, 3),
        "loss": last["train/loss"],
        "logit_scale": last["train/scale"],
        "samples_per_second": round(seen / last["seconds"], 1),
        "recipe": scale.digest,
    }
    return Summary(counts=Counts(total=seen + last["corrupt"], kept=seen, corrupt=last["corrupt"]), facts=facts)


def divisors(number: int) -> list[int]:
    """The divisors of ``number``, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def _nearest(numbers: list[int], to: int) -> str:
    """Up to four of ``numbers``, as words."""
    return ", ".join(map(str, sorted(sorted(numbers, key=lambda n: abs(n - to))[:4])))
