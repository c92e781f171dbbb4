"""Metrics by group, against slow loops, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.tasks.groups import column, group_metrics, share, worst

few = settings(max_examples=60, deadline=None)


@st.composite
def grouped(draw, columns):
    """Values and metadata columns, with gaps among the groups."""
    n = draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    numbers = [rng.choice(rng.integers(0, 7, size=draw(st.integers(1, 4))), size=n) for _ in range(columns)]
    return rng.random(n) < draw(st.floats(0, 1)), numbers


def mean32(values):
    """The mean of some values as float32 knows it, by another way: exactly, then rounded."""
    return float(np.float32(sum(map(int, values)) / len(values))) if values else math.nan


def same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(type(value) is float for value in found.values())
    for key, value in wanted.items():
        assert found[key] == value or (math.isnan(found[key]) and math.isnan(value)), key


def lowest(means):
    return min([mean for mean in means if not math.isnan(mean)], default=0.0)


@few
@given(grouped(1))
def test_groups_of_one_column_are_the_loop_over_its_numbers(case):
    values, (numbers,) = case
    wanted = {"hit_avg": mean32(values.tolist())}
    for k in range(max(numbers) + 1):
        mine = [v for v, number in zip(values.tolist(), numbers, strict=True) if number == k]
        wanted |= {f"hit_place:{k}": mean32(mine), f"count_place:{k}": float(len(mine))}
    wanted["hit_wg"] = lowest([wanted[f"hit_place:{k}"] for k in range(max(numbers) + 1)])
    same(group_metrics("hit", values, {"place": numbers}), wanted)


@few
@given(grouped(3))
def test_groups_of_several_columns_are_named_last_column_first(case):
    values, (a, b, c) = case
    wanted, means = {"hit_avg": mean32(values.tolist())}, []
    for i in range(max(a) + 1):
        for j in range(max(b) + 1):
            for k in range(max(c) + 1):
                mine = values[(a == i) & (b == j) & (c == k)].tolist()
                means.append(mean32(mine))
                wanted |= {f"hit_c:{k}_b:{j}_a:{i}": means[-1], f"count_c:{k}_b:{j}_a:{i}": float(len(mine))}
    same(group_metrics("hit", values, {"a": a, "b": b, "c": c}), wanted | {"hit_wg": lowest(means)})


def test_the_first_column_turns_fastest():
    found = group_metrics("hit", np.array([True]), {"gender": np.array([1]), "race": np.array([2])})
    assert [key for key in found if key.startswith("hit_race")] == [
        f"hit_race:{race}_gender:{gender}" for race in range(3) for gender in range(2)
    ]


def test_a_group_nobody_is_in_is_nan_and_never_the_worst():
    found = group_metrics("acc", np.array([True, False, True]), {"slide": np.array([0, 3, 3])})
    assert {key: value for key, value in found.items() if not math.isnan(value)} == {
        "acc_avg": float(np.float32(2) / np.float32(3)),
        "acc_slide:0": 1.0,
        "acc_slide:3": 0.5,
        "count_slide:0": 1.0,
        "count_slide:1": 0.0,
        "count_slide:2": 0.0,
        "count_slide:3": 2.0,
        "acc_wg": 0.5,
    }
    assert math.isnan(found["acc_slide:1"]) and math.isnan(found["acc_slide:2"])


def test_means_have_the_precision_of_float32():
    found = group_metrics("acc", np.array([1, 0, 0]), {"slide": np.array([0, 0, 0])})
    assert found["acc_avg"] == found["acc_slide:0"] == found["acc_wg"] == 0.3333333432674408


def test_no_group_at_all_has_the_worst_mean_of_0():
    none = np.zeros(0, np.int64)
    found = group_metrics("acc", none, {"slide": none})
    assert found.pop("acc_wg") == 0.0
    assert list(found) == ["acc_avg"] and math.isnan(found["acc_avg"])
    assert worst([]) == worst([math.nan]) == 0.0
    assert worst([math.nan, 0.5, 0.25, math.nan]) == 0.25


def test_a_share_is_of_what_is_true():
    assert share(np.array([True, False, False, False])) == 0.25
    assert share(np.array([1])) == 1.0
    assert math.isnan(share(np.zeros(0)))


def test_columns_are_counted_from_the_left_whatever_more_there_is():
    metadata = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    assert column(metadata, 1, "slide").tolist() == [6, 2]
    assert column(metadata, 3, "last").tolist() == [8, 4]


@pytest.mark.parametrize("width", [0, 1])
def test_too_few_columns_are_named(width):
    with pytest.raises(ValueError, match=rf"wanted 'slide' in column 1 .*have {width} numbers per image"):
        column(np.zeros((3, width), np.int64), 1, "slide")


def test_negative_numbers_are_no_groups():
    with pytest.raises(ValueError, match="'region' holds the negative number -2"):
        column(np.array([[0], [-2], [-1]]), 0, "region")
    with pytest.raises(ValueError, match="'race' holds the negative number -1"):
        group_metrics("acc", np.ones(2), {"gender": np.array([0, 1]), "race": np.array([-1, 3])})


@pytest.mark.parametrize("numbers", [{"a": 10**9}, {"a": 100_000}, {"a": 999, "b": 100}, {"a": 2**62, "b": 2**62}])
def test_absurdly_many_groups_are_refused_before_memory_runs_out(numbers):
    names = ", ".join(f"{name} {value}" for name, value in numbers.items())
    with pytest.raises(ValueError, match=rf"the highest numbers \({names}\) would make \d+ groups, more than 100000"):
        group_metrics("acc", np.ones(1), {name: np.array([value]) for name, value in numbers.items()})


def test_a_hundred_thousand_groups_are_allowed():
    assert group_metrics("acc", np.ones(1), {"a": np.array([99_999])})["count_a:99999"] == 1.0
