"""The learning rate at a step, and where the checkpoint intervals end."""

import math
from bisect import bisect_right

from dcexp.scale import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of 0-based optimizer step ``step`` of ``steps``: linear warmup, then half a cosine towards zero.

    Source: open_clip's ``cosine_lr``. The last warmup step and the one after it have the full rate.
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    angle = math.pi * (step - recipe.warmup) / (steps - recipe.warmup)
    return 0.5 * (1 + math.cos(angle)) * recipe.lr


def interval_ends(steps: int, intervals: int) -> list[int]:
    """The optimizer step after which each interval ends: ``steps * k / intervals``, rounded half up."""
    return [(2 * steps * k + intervals) // (2 * intervals) for k in range(1, intervals + 1)]


def interval_of(step: int, ends: list[int]) -> tuple[int, int, int]:
    """The interval that 0-based ``step`` lies in: its index, its first step, and the step after its last."""
    index = bisect_right(ends, step)
    return index, ends[index - 1] if index else 0, ends[index]
