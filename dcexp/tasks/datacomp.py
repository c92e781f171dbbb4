"""DataComp's own aggregates: which tasks make a number that papers report (upstream ``aggregate_scores.py``).

A mean is there only when all of its tasks are: what some of the 38 tasks make is another number.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

DEFINITION = "datacomp-38 v1"
"""Names the sets of tasks below; a set that changes makes another version."""

_VTAB = "caltech101 cifar100 clevr_count_all clevr_closest_object_distance dtd eurosat"
_VTAB += " kitti_closest_vehicle_distance flowers pets pcam resisc45 svhn"

GROUPS: dict[str, tuple[str, ...]] = {
    "ImageNet": ("imagenet1k",),
    "ImageNet dist. shifts": (
        "imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet",
    ),
    "VTAB": (*(f"vtab/{name}" for name in _VTAB.split()), "sun397"),
    "Retrieval": (
        "retrieval/flickr_1k_test_image_text_retrieval",
        "retrieval/mscoco_2014_5k_test_image_text_retrieval",
        "misc/winogavil",
    ),
}  # fmt: skip
"""Task keys by the group whose unweighted mean is reported."""

_REST = "cifar10 country211 fgvc_aircraft food101 gtsrb mnist voc2007 renderedsst2 cars stl10 wilds/iwildcam"
_REST += " wilds/camelyon17 wilds/fmow fairness/dollar_street fairness/geode"

SCORED: frozenset[str] = frozenset([*_REST.split(), *(key for keys in GROUPS.values() for key in keys)])
"""Keys of the 38 tasks whose unweighted mean is the average."""

AT_CHANCE: frozenset[str] = frozenset(
    [
        "vtab/pcam",
        "wilds/camelyon17",
        *(f"vtab/{name}" for name in _VTAB.split() if name.startswith(("clevr", "kitti"))),
    ]
)
"""Keys of the five scored tasks on which models of DataComp's scales do little better than guess."""

AVERAGE, CLEAN = f"average ({len(SCORED)})", f"clean mean ({len(SCORED - AT_CHANCE)})"

MEANS: dict[str, tuple[str, ...]] = {
    **GROUPS,
    CLEAN: tuple(sorted(SCORED - AT_CHANCE)),
    AVERAGE: tuple(sorted(SCORED)),
}
"""Task keys by the title of the aggregate that is their unweighted mean."""

NOISE: dict[str, dict[str, float]] = {
    "seeds": {"imagenet": 0.002, "average_38": 0.006},
    "one_fmow_answer": {"clean_mean_33": 0.25 / 33, "average_38": 0.25 / 38},
}
"""How far an aggregate moves by itself, as fractions, by the fields of :class:`Aggregates`.

Another seed: about 0.2 points of ImageNet accuracy, up to 0.006 of the average (upstream's README, "Note on variance
across runs"). One answer on FMoW, whose worst region has 4 test images: a quarter of that task (upstream issue 61).
"""

NOISE_BAND = NOISE["seeds"]["average_38"]
"""Models whose averages differ by no more than this are not to be ranked by them."""

FEW = 6  # tasks that a table shows one by one; of more it shows means
NAMED = 8  # missing tasks that a line for people names


@dataclass(frozen=True, kw_only=True)
class Aggregates:
    """What papers report of one model, as fractions; None for a mean that lacks a task.

    ``missing`` are the keys a mean lacks, by the name of its field; means that lack none are not in it.
    """

    imagenet: float | None
    imagenet_dist_shifts: float | None
    vtab: float | None
    retrieval: float | None
    clean_mean_33: float | None
    average_38: float | None
    missing: Mapping[str, tuple[str, ...]]

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file: the definition, the values, what they lack, and how far they move by themselves."""
        return {
            "definition": DEFINITION,
            "values": {name: getattr(self, name) for name in _FIELDS.values()},
            "missing": {name: list(keys) for name, keys in self.missing.items()},
            "noise": NOISE,
        }

    def rows(self) -> list[tuple[str, str]]:
        """For people: the title of every aggregate, and its value or why there is none."""
        return [(title, self._words(name, len(MEANS[title]))) for title, name in _FIELDS.items()]

    def _words(self, name: str, tasks: int) -> str:
        if name not in self.missing:
            return f"{getattr(self, name):.4f}"
        keys, of = self.missing[name], f" of {tasks} tasks" if tasks > 1 else " task"
        more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        return f"not computed, {len(keys)}{of} missing: {', '.join(keys[:NAMED])}{more}"


_NAMES = ("imagenet", "imagenet_dist_shifts", "vtab", "retrieval", "clean_mean_33", "average_38")
_FIELDS = dict(zip(MEANS, _NAMES, strict=True))


def aggregate(scores: Mapping[str, float | None]) -> Aggregates:
    """The aggregates of one model from its main metrics (fractions) by task key.

    None and NaN count as missing; keys of tasks that are not scored take no part.
    """
    there = {key: score for key, score in scores.items() if score is not None and math.isfinite(score)}
    lacking = {_FIELDS[title]: tuple(key for key in keys if key not in there) for title, keys in MEANS.items()}
    missing = {name: keys for name, keys in lacking.items() if keys}
    means = {
        name: None if name in missing else fmean(there[key] for key in MEANS[title]) for title, name in _FIELDS.items()
    }
    return Aggregates(**means, missing=missing)


def shown(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What a table of these tasks (display names by key) shows: task keys by the title of their unweighted mean.

    Tasks themselves while they are few, the aggregates there are, and, last, an average; over another set than
    DataComp's 38 tasks it says so.
    """
    shared = Counter(names.values())
    each: dict[str, tuple[str, ...]] = {
        name if shared[name] == 1 else f"{name} ({key})": (key,) for key, name in names.items()
    }
    if len(names) == 1:
        return each
    if names.keys() >= SCORED:
        own = {title: keys for title, keys in each.items() if not SCORED.issuperset(keys)}
        return {**(own if len(own) <= FEW else {}), **MEANS}
    groups = {title: keys for title, keys in GROUPS.items() if names.keys() >= set(keys)}
    average = f"average ({len(names)} of {len(SCORED)})" if names.keys() <= SCORED else f"average of these {len(names)}"
    return {**(each if len(names) <= FEW else groups), average: tuple(names)}
