"""Metrics by group, under the names and with the float32 rounding of WILDS, upstream's evaluator of groups.

A group is a value of a metadata column, or of several: FMoW's regions, Dollar Street's incomes. Every value up to the
highest of the test set is one, also those without an image.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from dcexp.artifacts.pictures import Ints

MOST = 100_000  # groups; every one is a key of the result, and the arrays below are as long


def column(metadata: Ints, position: int, name: str) -> Ints:
    """Column ``position`` (from 0) of ``metadata`` [n, columns], called ``name``; there may be more than are known.

    Raises ValueError where there are fewer columns, or it holds a negative number.
    """
    if metadata.shape[1] <= position:
        raise ValueError(
            f"metadata: wanted {name!r} in column {position} (the first is 0), but the .npy files of this test set "
            f"have {metadata.shape[1]} numbers per image; it is another test set, or made in another way"
        )
    values = metadata[:, position]
    _size(name, values)
    return values


def group_metrics(name: str, values: NDArray[np.generic], columns: Mapping[str, Ints]) -> dict[str, float]:
    """The mean of ``values`` [n], true or false each, over all images and over the images of each group.

    ``columns``: the metadata columns [n] by name whose values make a group, in metadata order. Returns ``<name>_avg``;
    ``<name>_<column>:<k>`` and ``count_<column>:<k>`` of every group, the mean of an empty one being NaN, two columns
    reading ``<second>:<k>_<first>:<j>``; and ``<name>_wg``, the lowest mean. Raises ValueError where a column holds
    negative numbers, or there were more than 100,000 groups.
    """
    sizes = {field: _size(field, numbers) for field, numbers in columns.items()}
    total = math.prod(sizes.values())
    if total > MOST:
        highest = ", ".join(f"{field} {size - 1}" for field, size in sizes.items())
        raise ValueError(
            f"metadata: the highest numbers ({highest}) would make {total} groups, more than {MOST}; wanted small "
            "numbers counted from 0. The .npy files of this test set hold something else there"
        )
    ids, factor = np.zeros(len(values), np.int64), 1
    for field, numbers in columns.items():  # the first column turns fastest
        ids += factor * numbers
        factor *= sizes[field]
    counts = np.bincount(ids, minlength=total).tolist()
    sums = np.bincount(ids, weights=values, minlength=total).tolist()
    means = [_ratio(part, whole) for part, whole in zip(sums, counts, strict=True)]
    groups = [_render(group, sizes) for group in range(total)]
    return {
        f"{name}_avg": share(values),
        **{f"{name}_{group}": mean for group, mean in zip(groups, means, strict=True)},
        **{f"count_{group}": float(count) for group, count in zip(groups, counts, strict=True)},
        f"{name}_wg": worst(means),
    }


def worst(means: Iterable[float]) -> float:
    """The lowest of the means that are not NaN, 0.0 if there is none."""
    return min((mean for mean in means if not math.isnan(mean)), default=0.0)


def share(values: NDArray[np.generic]) -> float:
    """The share of ``values`` that are true, rounded to float32; NaN of none."""
    return _ratio(int(np.count_nonzero(values)), values.size)


def _ratio(part: float, whole: int) -> float:
    return float(np.float32(part) / np.float32(whole)) if whole else math.nan


def _size(name: str, values: Ints) -> int:
    """How many numbers there are from 0 to the highest that occurs."""
    if (lowest := int(values.min(initial=0))) < 0:
        raise ValueError(
            f"metadata: {name!r} holds the negative number {lowest}; wanted groups counted from 0. "
            "The .npy files of this test set hold something else in this column"
        )
    return int(values.max(initial=-1)) + 1


def _render(group: int, sizes: Mapping[str, int]) -> str:
    parts = []
    for field, size in sizes.items():
        group, value = divmod(group, size)
        parts.append(f"{field}:{value}")
    return "_".join(reversed(parts))
