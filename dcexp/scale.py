"""Scales and the lock: any two runs of one scale differ only in their data.

The values of a scale are what the benchmark publishes (paper section 3.4 and Appendix E; upstream
``scale_configs.py``), except ``tiny``, which is dcexp's own, for trying things out, and no competition scale.
They are shown and composed from ``conf/scale/<name>.yaml``; the table below is what they are held against.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_ABSENT = "(no such field)"
_VIT = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "weight_decay": 0.2}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The frozen part of training.

    ``model`` is an open_clip architecture, ``batch_size`` the global batch in samples, ``lr`` the peak learning
    rate, ``warmup`` its linear ramp in optimizer steps; the other four are AdamW's.
    """

    model: str
    batch_size: int
    lr: float
    warmup: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


def _published(
    pool_size: int, samples_seen: int, model: str, batch_size: int, lr: float, warmup: int, **adamw: float
) -> dict[str, Any]:
    recipe = Recipe(model=model, batch_size=batch_size, lr=lr, warmup=warmup, **{**_VIT, **adamw})
    competition = pool_size >= 12_800_000
    return {
        "competition": competition,
        "pool_size": pool_size,
        "samples_seen": samples_seen,
        "recipe": asdict(recipe),
    }


M, B = 1_000_000, 1_000_000_000
PUBLISHED: dict[str, dict[str, Any]] = {
    "tiny": _published(12_800, 51_200, "ViT-tiny-8", 128, 2e-3, 50),
    "debug": _published(128_000, 128_000, "ViT-B-32", 1024, 1e-4, 500),
    "small": _published(int(12.8 * M), int(12.8 * M), "ViT-B-32", 4096, 5e-4, 500),
    "medium": _published(128 * M, 128 * M, "ViT-B-32", 4096, 5e-4, 500),
    "large": _published(int(1.28 * B), int(1.28 * B), "ViT-B-16", 8192, 5e-4, 500),
    "xlarge": _published(int(12.8 * B), int(12.8 * B), "ViT-L-14", 90112, 1e-3, 10000, beta2=0.95),
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One scale of the benchmark. A Scale whose values are not the published ones cannot be constructed.

    ``pool_size`` is the nominal size of the pool, ``samples_seen`` the samples drawn in training, repeats counted.
    """

    name: str
    competition: bool
    pool_size: int
    samples_seen: int
    recipe: Recipe

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming field, given and published value, if any value is not the published one."""
        if type(self.recipe) is not Recipe:
            raise ValueError(f"scale.recipe: wanted a Recipe, got {type(self.recipe).__name__}")
        _compare({f.name: getattr(self, f.name) for f in fields(self)} | {"recipe": asdict(self.recipe)})

    @property
    def steps(self) -> int:
        """Optimizer steps of a whole training: ceil(samples_seen / batch_size), whatever the machine."""
        return -(-self.samples_seen // self.recipe.batch_size)

    @property
    def digest(self) -> str:
        """sha256 over all values: the mark of the recipe in checkpoints, results, W&B and submissions."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def locked(**values: Any) -> Scale:
    """Build a Scale from config values. Refuses missing, unknown and changed ones with the published value."""
    if type(values.get("recipe")) is Recipe:
        values["recipe"] = asdict(values["recipe"])
    published = _compare(values)
    return Scale(**{**published, "recipe": Recipe(**published["recipe"])})


def _compare(values: Mapping[str, Any]) -> dict[str, Any]:
    name = values.get("name")
    if name not in PUBLISHED:
        raise ValueError(f"scale.name: given {name!r}, published are {', '.join(PUBLISHED)}. {RULE}")
    published = {"name": name, **PUBLISHED[str(name)]}
    given, wanted = _flat(values), _flat(published)
    wrong = [
        f"  {field}: given {given.get(field, '(removed)')!r}, published {wanted.get(field, _ABSENT)!r}"
        for field in (*wanted, *(f for f in given if f not in wanted))
        if field not in given or field not in wanted or not _same(given[field], wanted[field])
    ]
    if wrong:
        raise ValueError("\n".join([f"scale {name!r} is locked:", *wrong, RULE]))
    return published


RULE = (
    "Rule 4 of the filtering track: the training procedure may not be modified. "
    "Free to choose: source, filter, tasks, engine, seed, train.precision, train.checkpoints, train.workers, "
    "train.accumulate, train.compile."
)


def _flat(values: Mapping[str, Any], prefix: str = "scale") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}.{name}") if nested else {f"{prefix}.{name}": value}
    return flat


def _same(given: Any, wanted: Any) -> bool:
    """Equal and of the same plain type (an int may stand for a float): no subclass with an ``==`` of its own."""
    return (type(given) is type(wanted) or (type(given) is int and type(wanted) is float)) and given == wanted
