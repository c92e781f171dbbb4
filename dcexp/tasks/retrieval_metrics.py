"""The metrics of retrieval (Flickr, MSCOCO) and of association (WinoGAViL), as upstream computes them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcexp.artifacts.pictures import Ints
from dcexp.tasks.groups import share

RANKS = (1, 5, 10)
SIZES = (5, 6, 10, 12)  # numbers of candidates that have a score of their own

Flags = NDArray[np.bool_]


def retrieval_metrics(images_of_captions: Ints, captions_of_images: Ints, owners: Ints) -> dict[str, float]:
    """``image_retrieval_recall@k`` and ``text_retrieval_recall@k`` for k of 1, 5 and 10, and ``mean_recall@1``.

    ``images_of_captions`` [captions, 10]: the best images of each caption, best first; ``captions_of_images``
    [images, 10]: the best captions of each image; ``owners`` [captions]: the image each caption belongs to. The first
    is the share of captions whose image is among the k best, the second the share of images with at least one of
    their captions among the k best: an image without captions is a miss. The mean is of both at 1.

    Raises ValueError where there are fewer than 10 candidates, as upstream does.
    """
    images = np.arange(len(captions_of_images))
    _check("images", images_of_captions)
    _check("captions", captions_of_images)
    found = {
        **_recalls("image_retrieval_recall", images_of_captions == owners[:, None]),
        **_recalls("text_retrieval_recall", owners[captions_of_images] == images[:, None]),
    }
    return {**found, "mean_recall@1": (found["image_retrieval_recall@1"] + found["text_retrieval_recall@1"]) / 2}


def _check(what: str, ranked: Ints) -> None:
    if (width := ranked.shape[1]) < max(RANKS):
        raise ValueError(
            f"recall@{max(RANKS)}: wanted the {max(RANKS)} best {what} of each query, got {width}; "
            f"it takes a test set of at least {max(RANKS)} {what}"
        )


def _recalls(name: str, hits: Flags) -> dict[str, float]:
    """``hits`` [queries, 10]: whether the candidate of each rank is right."""
    return {f"{name}@{k}": share(np.any(hits[:, :k], axis=1)) for k in RANKS}


def associated(similarities: NDArray[np.floating], chosen: int) -> Flags:
    """Which of the candidates the model associates with the cue: the ``chosen`` most similar ones.

    ``similarities`` [n] are compared in the type in which they come. Of equal ones the later wins: float16, in which
    upstream has them, makes many equal. Raises ValueError unless at least one and at most n are to be chosen.
    """
    if not 1 <= chosen <= len(similarities):
        raise ValueError(
            f"wanted between 1 and {len(similarities)} associations for {len(similarities)} candidates, got {chosen}"
        )
    predicted = np.zeros(len(similarities), np.bool_)
    predicted[np.argsort(similarities, kind="stable")[-chosen:]] = True
    return predicted


def association_metrics(predicted: Sequence[Flags], chosen: Sequence[Flags]) -> dict[str, float]:
    """The mean Jaccard score of all questions and of those with so many candidates; NaN where there are none.

    ``predicted`` and ``chosen``, bool [candidates] for each question: what the model and what people associated.
    Keys: ``avg_jaccard_score``; ``jaccard_score_5``, ``_6``, ``_10`` and ``_12`` by the number of candidates; and
    ``jaccard_score_5-6`` (at most 6), ``jaccard_score_10-12`` (at least 10). Raises ValueError where neither chose any.
    """
    scores = np.array([_jaccard(*pair) for pair in zip(predicted, chosen, strict=True)], np.float64)
    sizes = np.array([len(flags) for flags in chosen], np.int64)
    return {
        "avg_jaccard_score": _mean(scores),
        **{f"jaccard_score_{size}": _mean(scores[sizes == size]) for size in SIZES},
        "jaccard_score_5-6": _mean(scores[sizes <= 6]),
        "jaccard_score_10-12": _mean(scores[sizes >= 10]),
    }


def _jaccard(predicted: Flags, chosen: Flags) -> float:
    assert predicted.shape == chosen.shape, f"{len(predicted)} predictions for {len(chosen)} candidates"
    if not (either := np.count_nonzero(predicted | chosen)):
        raise ValueError("a question without any association has no Jaccard score; wanted at least one")
    return np.count_nonzero(predicted & chosen) / either


def _mean(scores: NDArray[np.float64]) -> float:
    return float(scores.mean()) if len(scores) else math.nan
