"""Retrieval and association against one-hot matrices, scikit-learn and slow loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from dcexp.tasks.retrieval_metrics import associated, association_metrics, retrieval_metrics

few = settings(max_examples=60, deadline=None)


@st.composite
def scores(draw):
    """Similarities [captions, images] without ties, and owners: images with many captions, few, none."""
    images, captions = draw(st.integers(10, 25)), draw(st.integers(10, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    some = rng.choice(images, size=draw(st.integers(1, images)), replace=False)
    return rng.permutation(images * captions).reshape(captions, images), np.sort(rng.choice(some, size=captions))


def best(table, k=10):
    return np.argsort(-table, axis=1, kind="stable")[:, :k]


def one_hot_recall(table, positive, k):
    """The way of CLIP benchmark: positives among the k best, over all positives, by one-hot matrices."""
    one_hot = np.zeros((*table.shape, k), np.int64)
    for query, row in enumerate(table.tolist()):
        for rank, candidate in enumerate(sorted(range(len(row)), key=lambda i: -row[i])[:k]):
            one_hot[query, candidate, rank] = 1
    with np.errstate(invalid="ignore"):
        recall = (one_hot.sum(axis=2) * positive).sum(axis=1) / positive.sum(axis=1)
    return float((recall > 0).astype(np.float32).mean(dtype=np.float32))


@few
@given(scores())
def test_retrieval_is_recall_by_one_hot_matrices(case):
    table, owners = case
    positive = owners[:, None] == np.arange(table.shape[1])
    wanted = {}
    for k in (1, 5, 10):
        wanted[f"image_retrieval_recall@{k}"] = one_hot_recall(table, positive, k)
        wanted[f"text_retrieval_recall@{k}"] = one_hot_recall(table.T, positive.T, k)
    wanted["mean_recall@1"] = 0.5 * (wanted["text_retrieval_recall@1"] + wanted["image_retrieval_recall@1"])
    found = retrieval_metrics(best(table), best(table.T), owners)
    assert found == wanted
    assert all(type(value) is float for value in found.values())


def ten(first, candidates):
    """Ranks that begin as told; what follows is the lowest of the other candidates."""
    return np.array([row + [c for c in range(candidates) if c not in row][: 10 - len(row)] for row in first])


def test_the_two_recalls_are_of_captions_and_of_images():
    owners = np.array([11, 11, 11, *range(9)])  # images 9 and 10 have no caption: they are missed
    images_of_captions = ten([[11], [0, 11], [0, 1, 2, 3, 4, 11], *([10] for _ in range(9))], 12)
    captions_of_images = ten([*([1, 3 + i] for i in range(9)), [0], [0], [2]], 12)
    found = retrieval_metrics(images_of_captions, captions_of_images, owners)
    number = np.float32
    assert found["image_retrieval_recall@1"] == number(1) / number(12)
    assert found["image_retrieval_recall@5"] == number(2 + 4) / number(12)
    assert found["image_retrieval_recall@10"] == number(3 + 9) / number(12)
    assert found["text_retrieval_recall@1"] == number(1) / number(12)
    assert found["text_retrieval_recall@5"] == found["text_retrieval_recall@10"] == number(10) / number(12)


def test_of_equal_similarities_the_ranking_that_was_given_counts():
    owners = np.arange(10)
    ranks = np.tile(np.arange(10), (10, 1))  # all the same
    found = retrieval_metrics(ranks, ranks, owners)
    assert [found[f"image_retrieval_recall@{k}"] for k in (1, 5, 10)] == [float(np.float32(0.1)), 0.5, 1.0]
    assert found["mean_recall@1"] == float(np.float32(0.1))


@pytest.mark.parametrize(("images", "captions", "what"), [(9, 30, "images"), (30, 1, "captions")])
def test_fewer_than_ten_candidates_are_refused(images, captions, what):
    ranked = np.zeros((captions, min(images, 10)), np.int64), np.zeros((images, min(captions, 10)), np.int64)
    with pytest.raises(ValueError, match=f"wanted the 10 best {what} of each query, got {min(images, captions)}"):
        retrieval_metrics(*ranked, np.zeros(captions, np.int64))


@few
@given(st.data(), st.sampled_from([np.float16, np.float32]), st.integers(1, 12))
def test_the_most_similar_are_associated_and_of_equal_ones_the_later(data, dtype, n):
    values = data.draw(st.lists(st.sampled_from([-0.25, 0.0, 0.1, 0.1004, 0.3]), min_size=n, max_size=n))
    similarities = np.array(values, dtype)
    k = data.draw(st.integers(1, n))
    order = sorted(range(n), key=lambda i: (float(similarities[i]), i))
    found = associated(similarities, k)
    assert found.dtype == np.bool_
    assert np.flatnonzero(found).tolist() == sorted(order[-k:])


def test_similarities_are_compared_in_their_own_precision():
    close = [0.30001, 0.3, 0.1]
    assert associated(np.array(close, np.float16), 1).tolist() == [False, True, False]
    assert associated(np.array(close, np.float32), 1).tolist() == [True, False, False]


def test_many_equal_similarities_keep_their_order():
    assert np.flatnonzero(associated(np.zeros(1000, np.float32), 3)).tolist() == [997, 998, 999]


@pytest.mark.parametrize("chosen", [0, -1, 4])
def test_no_association_or_more_than_there_are_candidates_is_refused(chosen):
    with pytest.raises(ValueError, match=f"wanted between 1 and 3 associations for 3 candidates, got {chosen}"):
        associated(np.zeros(3, np.float32), chosen)


@st.composite
def questions(draw, sizes=(5, 6, 7, 10, 11, 12)):
    """What the model chose and what people chose, equally many each, of some numbers of candidates."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    predicted, chosen = [], []
    for n in draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=25)):
        people = rng.permutation(np.arange(n) < rng.integers(1, n + 1))
        chosen.append(people)
        predicted.append(rng.permutation(people))
    return predicted, chosen


@few
@given(questions())
def test_association_is_sklearns_jaccard_by_number_of_candidates(case):
    predicted, chosen = case
    every = [(len(y), jaccard_score(y, p)) for p, y in zip(predicted, chosen, strict=True)]
    buckets = {f"jaccard_score_{size}": {size} for size in (5, 6, 10, 12)}
    buckets |= {"avg_jaccard_score": set(range(99)), "jaccard_score_5-6": {5, 6}, "jaccard_score_10-12": {10, 11, 12}}
    found = association_metrics(predicted, chosen)
    assert found.keys() == buckets.keys()
    for key, sizes in buckets.items():
        mine = [score for size, score in every if size in sizes]
        assert found[key] == (
            pytest.approx(sum(mine) / len(mine), abs=1e-15) if mine else pytest.approx(math.nan, nan_ok=True)
        )


@few
@given(questions(sizes=(5,)))
def test_with_as_many_predicted_as_chosen_it_is_the_short_formula(case):
    predicted, chosen = case
    both, k = [int((p & y).sum()) for p, y in zip(*case, strict=True)], [int(y.sum()) for y in chosen]
    wanted = sum(tp / (2 * n - tp) for tp, n in zip(both, k, strict=True)) / len(k)
    assert association_metrics(predicted, chosen)["avg_jaccard_score"] == pytest.approx(wanted, abs=1e-15)


def test_open_buckets_hold_whatever_is_smaller_or_larger():
    chosen = [np.array([True] + [False] * (n - 1)) for n in (3, 8, 13)]
    predicted = [chosen[0], ~chosen[1], np.ones(13, np.bool_)]
    found = association_metrics(predicted, chosen)
    assert (found["jaccard_score_5-6"], found["jaccard_score_10-12"]) == (1.0, 1 / 13)
    assert found["avg_jaccard_score"] == pytest.approx((1 + 0 + 1 / 13) / 3, abs=1e-15)
    assert all(math.isnan(found[f"jaccard_score_{n}"]) for n in (5, 6, 10, 12))


def test_a_question_without_associations_is_refused():
    with pytest.raises(ValueError, match="without any association"):
        association_metrics([np.zeros(5, np.bool_)], [np.zeros(5, np.bool_)])
