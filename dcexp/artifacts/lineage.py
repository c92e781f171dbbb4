"""Reading the lineage in a manifest (written by ``dcexp.stage.Step``): the steps an artifact was made by."""

import json
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

MIXTURE = "shards/Mixture"
WHOLE = "subset/NoFilter"
ORDERED = ("subset/Sequence", "subset/Difference", MIXTURE)  # combinations in which it counts which part is which
Node = Mapping[str, Any]  # one step: kind, key, name, stage, values, and its inputs, which are nodes


def nearest(node: Node, kind: str) -> Node | None:
    """The step of that kind that is the fewest steps away, ``node`` itself included; None when there is none."""
    queue = deque([node])
    while queue:
        step = queue.popleft()
        if step["kind"] == kind:
            return step
        queue.extend(step["inputs"].values())
    return None


def ancestor(node: Node, kind: str) -> Node:
    """Like :func:`nearest`; raises ValueError when there is none."""
    found = nearest(node, kind)
    if found is None:
        raise ValueError(f"its lineage names no {kind}")
    return found


def mixture(node: Node) -> Node | None:
    """The step that mixed the sources of ``node``; None where there is one source alone."""
    shards = nearest(node, "shards")
    return shards if shards and shards["stage"]["name"] == MIXTURE else None


def choice(node: Node) -> str:
    """What was chosen for ``node`` in a few words: the filter; of a mixture also ``+ laion x2`` for every part."""
    mixed = mixture(node)
    if mixed is None:
        return label(nearest(node, "subset") or ancestor(node, "shards"))
    weights, words = mixed["stage"]["fields"]["weights"], []
    for name, part in mixed["inputs"].items():
        if name not in weights:  # the main source
            words.append(choice(part) + _times(mixed["stage"]["fields"]["weight"]))
        else:
            subset = nearest(part, "subset")
            whole = subset is None or subset["stage"]["name"] == WHOLE
            words.append(name + ("" if whole else f" ({choice(part)})") + _times(weights[name]))
    return " + ".join(words)


def _times(weight: float) -> str:
    return "" if weight == 1 else f" x{weight:g}"


def but_for_seeds(node: Node) -> str:
    """What made ``node``, seeds left out: equal for two runs that differ by nothing else."""
    return json.dumps(_seedless(node), sort_keys=True)


def label(node: Node) -> str:
    """A step in a few words: its class and deciding settings, seeds left out; for a combination, its parts."""
    parts = [label(part) for part in node["inputs"].values() if part["kind"] == node["kind"]]
    parts += [_words(stage["name"], stage["fields"]) for stage in node["values"].values() if _is_stage(stage)]
    fields = node["stage"]["fields"]
    if not parts or fields.get("name") or node["stage"]["name"] in ORDERED:
        return re.sub(r"-seed_\d+(?=-|$)", "", node["name"].removesuffix(f"-{node['key']}"))
    return _words(node["stage"]["name"], fields) + f" ({', '.join(sorted(parts))})"


def _is_stage(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"name", "version", "fields"}


def _words(stage: str, fields: Mapping[str, Any]) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.split(r"[/.]", stage)[-1]).lower()
    settings = [f"{k}_{v}" for k, v in fields.items() if k != "seed" and v != "" and isinstance(v, str | int | float)]
    return "-".join([name, *settings])


def _seedless(value: Any) -> Any:
    """``value`` without seeds, and without the keys and names of steps, which follow from what is left."""
    if isinstance(value, list):
        return [_seedless(v) for v in value]
    if not isinstance(value, Mapping):
        return value
    dull = {"seed", "key", "name"} if "inputs" in value else {"seed"}
    left = {k: _seedless(v) for k, v in value.items() if k not in dull}
    if "inputs" in value and value["stage"]["name"] not in ORDERED:  # parts are numbered by keys, which hold the seed
        parts = [step for name, step in left["inputs"].items() if name.startswith("part_")]
        others = {name: step for name, step in left["inputs"].items() if not name.startswith("part_")}
        left["inputs"] = {**others, "parts": sorted(parts, key=lambda step: json.dumps(step, sort_keys=True))}
    return left
