"""Stage and Step: the shape that every piece of work has, and the key that names its outcome beforehand.

A stage is a frozen dataclass whose fields are its config and its identity. A step is a stage applied to other
steps; its key is known before anything runs, so "is it there already?" is one look-up.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact, Summary
from dcexp.engines.base import Engine
from dcexp.typecheck import check_types

Value = Any  # what goes into a step beside artifacts: a frozen dataclass or a plain JSON value


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of work. Subclass it, add fields, say what it ``makes``, and write ``run``.

    Fields that only say how the work is done are ``field(compare=False)`` and stay out of the key. Raise
    ``version`` when the same fields come to mean another outcome.
    """

    makes: ClassVar[type[Artifact]]
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def kind(self) -> str:
        """The kind of artifact made: the folder of the store it lies in."""
        return self.makes.kind

    @property
    def label(self) -> str:
        """A short name for people: the class and the fields that are not at their default."""
        words = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()]
        words += [f"{k}_{v}" for k, v in decisive(self).items() if isinstance(v, str | int | float)]
        return "-".join(words)

    def check(self, engine: Engine, *_: Any, **values: Any) -> None:
        """Raise what can be seen to be wrong before any work starts (a missing folder, an impossible batch)."""

    def check_machine(self, engine: Engine, *_: Any, **values: Any) -> None:
        """Raise what this machine cannot do, before any work starts. ``plan`` may run elsewhere and does not ask."""

    def check_pool(self, pool: Any) -> None:
        """Raise what a pool lacks for this work: before any starts, where the pool is there already."""

    def cost(self, *_: Any, **values: Any) -> str:
        """The size of the work in the units of its field, for ``plan``; empty when it is small.

        Given are the step's values and what is made already: its inputs by their names, and whatever else it is made
        from by its kind, where there is but one of that.
        """
        return ""

    def run(self, out: Any, engine: Engine, *_: Any, **inputs: Any) -> Summary:
        """Write the artifact into the directory ``out`` and say what happened to the samples.

        ``out`` may hold what an interrupted run of the same step left behind: continue from it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run()")


@dataclass(frozen=True)
class Step:
    """A stage applied to inputs: other steps (it receives their artifacts) or plain values."""

    stage: Stage
    inputs: Mapping[str, Any]

    @cached_property
    def steps(self) -> dict[str, "Step"]:
        """The inputs that are made by other steps."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Step)}

    @cached_property
    def values(self) -> dict[str, Value]:
        """The inputs that are given as they are."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Step)}

    @property
    def kind(self) -> str:
        return self.stage.kind

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose code makes this: of the stage, and of the stages that work within it."""
        return tuple(sorted({module for value in (self.stage, *self.values.values()) for module in _modules(value)}))

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits over the stage's decisive fields and version, the values, the inputs' keys."""
        identity = {
            "stage": definition(self.stage),
            "values": {name: canonical(value) for name, value in self.values.items()},
            "inputs": {name: step.key for name, step in self.steps.items()},
        }
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """``<label>-<key>``: the directory name of the artifact."""
        named = [str(v.name) for v in self.values.values() if hasattr(v, "name") and not isinstance(v, Stage)]
        named += [f"{name}_{value}" for name, value in self.values.items() if isinstance(value, int)]
        label = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join([*named, self.stage.label]))
        return f"{label[:80].strip('-_.')}-{self.key}"

    def upstream(self) -> Iterator["Step"]:
        """This step and all it is made from, inputs first, each once."""
        seen: set[str] = set()
        for step in self.steps.values():
            for other in step.upstream():
                if other.key not in seen:
                    seen.add(other.key)
                    yield other
        yield self

    def lineage(self) -> dict[str, Any]:
        """The whole way from the source to here, as data."""
        return {
            "kind": self.kind,
            "key": self.key,
            "name": self.name,
            "stage": {**definition(self.stage), "fields": all_fields(self.stage)},
            "values": {name: canonical(value) for name, value in self.values.items()},
            "inputs": {name: step.lineage() for name, step in self.steps.items()},
        }


def _modules(value: Any) -> Iterator[str]:
    if isinstance(value, Stage):
        yield type(value).__module__
        for f in fields(value):
            yield from _modules(getattr(value, f.name))


def definition(stage: Stage) -> dict[str, Any]:
    """What a stage is: its name, its version, and its decisive fields."""
    return {
        "name": stage_name(type(stage)),
        "version": type(stage).version,
        "fields": {k: canonical(v) for k, v in decisive(stage).items()},
    }


def stage_name(cls: type) -> str:
    """``kind/Class`` for dcexp's own stages (files may move); the full path for anybody else's."""
    if cls.__module__.startswith("dcexp."):
        return f"{cls.makes.kind}/{cls.__qualname__}" if issubclass(cls, Stage) else cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def decisive(stage: Stage) -> dict[str, Any]:
    """The fields that decide the outcome and are not at their default."""
    return {
        f.name: value
        for f in fields(stage)
        if f.compare and canonical(value := getattr(stage, f.name)) != canonical(_default(f))
    }


def all_fields(stage: Stage) -> dict[str, Any]:
    """Every deciding field with its value, defaults included, as data."""
    return {f.name: canonical(getattr(stage, f.name)) for f in fields(stage) if f.compare}


def canonical(value: Any) -> Any:
    """``value`` as plain JSON data with one spelling per meaning (1.0 and 1 are equal; tuples are lists)."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, Stage):
        return definition(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, float | bool | int | str | None):
        return value
    raise TypeError(f"a field that decides an outcome must be plain data or a dataclass, not {type(value).__name__}")


def _default(f: Field[Any]) -> Any:
    if f.default is not MISSING:
        return f.default
    if f.default_factory is not MISSING:
        return f.default_factory()
    return {"required": f.name}  # equal to no value a field can hold, so a required field is always decisive
