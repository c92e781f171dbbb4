"""The metrics of classification tasks (DataComp section 3.5; CLIP benchmark 1.4.0, whose numbers these are)."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


def classification_metrics(top: Labels, predicted: Labels, labels: Labels) -> dict[str, float | None]:
    """``acc1``, ``acc5`` (None with fewer than five classes) and ``mean_per_class_recall``.

    ``top`` [n, k]: the k best classes of each image, best first, k = 5 or, with fewer than five classes, 1.
    ``predicted`` [n]: the best class by argmax; it differs from ``top[:, 0]`` on exact ties only, and upstream takes
    recall from the one and accuracy from the other. ``labels`` [n]: the truth.
    """
    return {
        "acc1": accuracy(top[:, :1], labels),
        "acc5": accuracy(top, labels) if top.shape[1] == 5 else None,
        "mean_per_class_recall": mean_per_class_recall(predicted, labels),
    }


def accuracy(top: Labels, labels: Labels) -> float:
    """The share of images whose label is among ``top`` [n, k]."""
    return int((top == labels[:, None]).any(axis=1).sum()) / len(labels)


def mean_per_class_recall(predicted: Labels, labels: Labels) -> float:
    """Balanced accuracy: the mean, over the classes that occur in ``labels``, of the share found of each."""
    classes, index = np.unique(labels, return_inverse=True)
    found = np.bincount(index, weights=predicted == labels, minlength=len(classes))
    return float(np.mean(found / np.bincount(index)))
