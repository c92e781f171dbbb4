"""The metrics against scikit-learn, and against their definitions written out."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from dcexp.tasks.metrics import accuracy, classification_metrics, mean_per_class_recall


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
