"""The metrics against scikit-learn, and against their definitions written out."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score, top_k_accuracy_score

from dcexp.tasks.metrics import (
    HEADS,
    accuracy,
    camelyon17_metrics,
    classification_metrics,
    dollar_street_metrics,
    face_metrics,
    fmow_metrics,
    geode_metrics,
    iwildcam_metrics,
    mean_per_class_recall,
)

few = settings(max_examples=60, deadline=None)


@st.composite
def answers(draw, least=2, most=12):
    """Logits without ties [n, classes] and labels, some classes never the truth."""
    classes, n = draw(st.integers(least, most)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.choice(rng.choice(classes, size=draw(st.integers(1, classes)), replace=False), size=n)
    return rng.permuted(np.tile(np.arange(classes), (n, 1)), axis=1).astype(float), labels.astype(np.int64)


def best(logits, k):
    return np.argsort(-logits, axis=1)[:, :k]


@given(answers())
def test_recall_is_sklearns_balanced_accuracy_to_the_last_bit(case):
    logits, labels = case
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and never true
        assert mean_per_class_recall(predicted, labels) == balanced_accuracy_score(labels, predicted)


@given(answers(least=6))
def test_acc5_is_sklearns_top_k_accuracy(case):
    logits, labels = case
    wanted = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(logits.shape[1]))
    assert classification_metrics(best(logits, 5), logits.argmax(1), labels)["acc5"] == pytest.approx(wanted, abs=1e-15)


@given(answers(least=5))
def test_metrics_are_their_definitions(case):
    logits, labels = case
    found = classification_metrics(best(logits, 5), logits.argmax(1), labels)
    ranks = [sorted(range(len(row)), key=[-x for x in row].__getitem__) for row in logits.tolist()]
    truth = labels.tolist()
    recalls = []
    for c in set(truth):
        mine = [ranking[0] == c for ranking, y in zip(ranks, truth, strict=True) if y == c]
        recalls.append(sum(mine) / len(mine))
    assert found["acc1"] == sum(r[0] == y for r, y in zip(ranks, truth, strict=True)) / len(truth)
    assert found["acc1"] == accuracy_score(labels, logits.argmax(1))
    assert found["acc5"] == sum(y in r[:5] for r, y in zip(ranks, truth, strict=True)) / len(truth)
    assert found["mean_per_class_recall"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)


def test_fewer_than_five_classes_have_no_acc5():
    top = np.array([[1], [0], [3]])
    assert classification_metrics(top, top[:, 0], np.array([1, 1, 3])) == {
        "acc1": 2 / 3,
        "acc5": None,
        "mean_per_class_recall": 0.75,
    }


def test_accuracy_comes_from_the_ranking_and_recall_from_the_argmax():
    top = np.array([[2, 1, 0, 3, 4]])
    found = classification_metrics(top, np.array([1]), np.array([2]))
    assert found == {"acc1": 1.0, "acc5": 1.0, "mean_per_class_recall": 0.0}


def test_accuracy_counts_a_label_anywhere_in_the_row():
    assert accuracy(np.array([[3, 1], [0, 2], [4, 4]]), np.array([1, 2, 0])) == 2 / 3


def metadata(draw, n, *highest):
    """Columns up to ``highest`` with gaps, and more columns than are known."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = [rng.choice(rng.integers(0, most + 1, size=3), size=n) for most in highest]
    return np.stack([*columns, rng.integers(-9, 10**12, size=n)], axis=1)


def groups(name, field, values, numbers):
    """The mean by number, and the lowest, as a loop; the float32 quotient of two float32."""
    found, means = {}, []
    for k in range(max(numbers) + 1):
        mine = [bool(v) for v, number in zip(values, numbers, strict=True) if number == k]
        mean = float(np.float32(sum(mine)) / np.float32(len(mine))) if mine else math.nan
        found |= {f"{name}_{field}:{k}": mean, f"count_{field}:{k}": float(len(mine))}
        means += [mean] if mine else []
    average = float(np.float32(sum(values)) / np.float32(len(values)))
    return {f"{name}_avg": average, **found}, min(means)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(type(value) is float for value in found.values())
    for key, value in wanted.items():
        assert found[key] == value or (math.isnan(found[key]) and math.isnan(value)), key


@few
@given(answers())
def test_iwildcam_is_sklearn_over_the_classes_of_the_truth(case):
    logits, labels = case
    predicted, present = logits.argmax(1), np.unique(labels)
    same(
        iwildcam_metrics(predicted, labels),
        {
            "acc_avg": float(np.float32(accuracy_score(labels, predicted, normalize=False)) / np.float32(len(labels))),
            "recall-macro_all": recall_score(labels, predicted, average="macro", labels=present),
            "F1-macro_all": f1_score(labels, predicted, average="macro", labels=present),
        },
    )


def test_a_class_absent_from_the_truth_costs_only_the_class_it_was_mistaken_for():
    found = iwildcam_metrics(np.array([0, 7, 2, 2]), np.array([0, 0, 2, 5]))
    assert found["F1-macro_all"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3, abs=1e-15)
    assert found["recall-macro_all"] == pytest.approx((1 / 2 + 1 + 0) / 3, abs=1e-15)
    assert found["acc_avg"] == 0.5


@few
@given(answers(least=2, most=2), st.data())
def test_camelyon17_is_accuracy_by_slide(case, data):
    logits, labels = case
    meta = metadata(data.draw, len(labels), 2, 9)
    wanted, lowest = groups("acc", "slide", (logits.argmax(1) == labels).tolist(), meta[:, 1].tolist())
    same(camelyon17_metrics(logits.argmax(1), labels, meta), {**wanted, "acc_wg": lowest})


@few
@given(answers(), st.data())
def test_fmow_is_accuracy_by_year_and_by_region(case, data):
    logits, labels = case
    meta = metadata(data.draw, len(labels), 5, 15)
    right, region = logits.argmax(1) == labels, meta[:, 0]
    years, year = groups("acc", "year", right.tolist(), meta[:, 1].tolist())
    regions, lowest = groups("acc", "region", right.tolist(), region.tolist())
    named = region != 5
    without = groups("acc", "region", right[named].tolist(), region[named].tolist())[1] if named.any() else 0.0
    worst = {"acc_worst_year": year, "acc_worst_region": lowest, "acc_worst_region_without_other": without}
    same(fmow_metrics(logits.argmax(1), labels, meta), {**years, **regions, **worst})


def test_fmows_worst_region_may_be_other():
    labels = np.zeros(6, np.int64)
    meta = np.array([[0, 14], [0, 14], [3, 15], [3, 15], [5, 14], [5, 15]])
    found = fmow_metrics(np.array([0, 0, 0, 1, 1, 1]), labels, meta)
    assert (found["acc_worst_region"], found["acc_worst_region_without_other"]) == (0.0, 0.5)
    assert found["acc_worst_year"] == float(np.float32(1 / 3))
    assert "acc_wg" not in found


@few
@given(answers(least=5, most=9), st.data())
def test_dollar_street_is_top_5_accuracy_by_income(case, data):
    logits, labels = case
    meta, top = metadata(data.draw, len(labels), 3, 4, 5), best(logits, 5)
    hits = [y in row for y, row in zip(labels.tolist(), top.tolist(), strict=True)]
    wanted, lowest = groups("acc_top5", "income_ds", hits, meta[:, 0].tolist())
    same(dollar_street_metrics(top, labels, meta), {**wanted, "acc_top5_wg": lowest})


def test_dollar_street_takes_five_classes():
    with pytest.raises(ValueError, match="wanted the 5 best classes of each image, got 1"):
        dollar_street_metrics(np.zeros((2, 1), np.int64), np.zeros(2, np.int64), np.zeros((2, 3), np.int64))


@few
@given(answers(), st.data())
def test_geode_is_accuracy_by_region(case, data):
    logits, labels = case
    meta = metadata(data.draw, len(labels), 5, 2)
    wanted, lowest = groups("acc", "region", (logits.argmax(1) == labels).tolist(), meta[:, 0].tolist())
    same(geode_metrics(logits.argmax(1), labels, meta), {**wanted, "acc_wg": lowest})


@st.composite
def faces(draw, races):
    """Predictions for faces [n] of every head, and metadata; every value of each occurs, not every pair."""
    n = draw(st.integers(races, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    race = np.concatenate([np.arange(races), rng.integers(0, races, n - races)])
    gender = np.concatenate([[0, 1], rng.integers(0, 2, n - 2)])
    nonwhite = np.concatenate([[1, 0], rng.integers(0, 2, n - 2)])  # whatever the race, to tell the two apart
    meta = np.stack([rng.integers(0, 9, n), gender, race, nonwhite, rng.integers(0, 9, n)], axis=1).astype(np.int64)
    return {
        head: rng.integers(0, k, n) for head, k in {"toxic": 21, "age": 9, "gender": 2, "race": races}.items()
    }, meta


@few
@given(faces(7))
def test_faces_are_loops_over_people(case):
    predicted, meta = case
    people = [
        {"p": {head: int(classes[i]) for head, classes in predicted.items()}, "age": a, "gender": g, "race": r, "nw": b}
        for i, (a, g, r, b, _) in enumerate(meta.tolist())
    ]
    colours, races = [x["nw"] for x in people], [x["race"] for x in people]
    pairs = [x["race"] * 2 + x["gender"] for x in people]
    wanted = {}
    for name, field, values, numbers in [
        ("acc_race", "race_binary", [(x["p"]["race"] == 1) == (x["nw"] == 0) for x in people], colours),
        ("acc_gender", "race_binary", [x["p"]["gender"] == x["gender"] for x in people], colours),
        ("acc_age", "race_binary", [x["p"]["age"] == x["age"] for x in people], colours),
        ("acc_gender_x", "pair", [x["p"]["gender"] == x["gender"] for x in people], pairs),
        ("toxicity_crime", "race", [x["p"]["toxic"] in (18, 19, 20) for x in people], races),
        ("toxicity_nonhuman", "race", [x["p"]["toxic"] in (14, 15, 16, 17) for x in people], races),
    ]:
        means, lowest = groups(name, field, values, numbers)
        wanted |= {**means, f"{name}_wg": lowest}
    for pair in range(14):
        for name, empty in (("acc_gender_x", math.nan), ("count", 0.0)):
            value = wanted.pop(f"{name}_pair:{pair}", empty)
            wanted[f"{name}_race:{pair // 2}_gender:{pair % 2}"] = value
    same(face_metrics(predicted, meta), wanted)


@few
@given(faces(7), faces(5))
def test_faces_have_69_numbers_for_seven_races_and_55_for_five(fairface, utkface):
    assert len(face_metrics(*fairface)) == 69
    assert len(face_metrics(*utkface)) == 55


def test_faces_without_predictions_of_a_head_are_refused():
    with pytest.raises(ValueError, match=r"wanted .*race, gender, age, toxic; there are none of age, toxic"):
        face_metrics({"race": np.zeros(1), "gender": np.zeros(1)}, np.zeros((1, 4), np.int64))


def of_top(predicted, labels, meta):
    return dollar_street_metrics(np.tile(predicted[:, None], 5), labels, meta)


def of_heads(predicted, labels, meta):
    return face_metrics(dict.fromkeys(HEADS, predicted), meta)


@pytest.mark.parametrize(
    ("metrics", "column", "width"),
    [
        (camelyon17_metrics, "slide", 1),
        (fmow_metrics, "year", 1),
        (geode_metrics, "region", 0),
        (of_top, "income_ds", 0),
        (of_heads, "race_binary", 3),
    ],
)
def test_metadata_that_are_too_narrow_are_refused(metrics, column, width):
    none = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=rf"wanted '{column}' .* have {width} numbers per image"):
        metrics(none, none, np.zeros((2, width), np.int64))
