"""The metrics of classification tasks (DataComp section 3.5; CLIP benchmark 1.4.0, whose numbers these are).

Those of WILDS and of the fairness tasks come on top of :func:`classification_metrics`, save for faces, which have no
label. ``labels`` [n] is the truth, ``predicted`` [n] the best class by argmax, and ``metadata`` [n, columns] what the
``.npy`` files hold. They raise ValueError where ``metadata`` lacks a column, or it cannot mean groups.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dcexp.artifacts.pictures import Ints
from dcexp.tasks.groups import column, group_metrics, share, worst

Labels = NDArray[np.int64]

HEADS = ("race", "gender", "age", "toxic")  # what is asked about a face, each with its own classes
WHITE = 1  # of the races
NONHUMAN, CRIMINAL = 14, 18  # the first of such classes among the toxic ones; nonhuman ones end where criminals begin
OTHER = 5  # of the regions


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


def iwildcam_metrics(predicted: Labels, labels: Labels) -> dict[str, float]:
    """``acc_avg``, ``recall-macro_all`` and ``F1-macro_all``: means over the classes that occur in ``labels``.

    A prediction of any other class is a miss of the true class, and charged to no class.
    """
    classes, true = np.unique(labels, return_inverse=True)
    known = np.isin(predicted, classes)
    charged = np.bincount(np.searchsorted(classes, predicted[known]), minlength=len(classes))
    found = np.bincount(true, weights=predicted == labels)
    return {
        "acc_avg": share(predicted == labels),
        "recall-macro_all": mean_per_class_recall(predicted, labels),
        "F1-macro_all": float(np.mean(2 * found / (charged + np.bincount(true)))),
    }


def camelyon17_metrics(predicted: Labels, labels: Labels, metadata: Ints) -> dict[str, float]:
    """Accuracy, ``acc``, by slide (``acc_slide:k``) and of the worst one (``acc_wg``)."""
    return group_metrics("acc", predicted == labels, {"slide": column(metadata, 1, "slide")})


def fmow_metrics(predicted: Labels, labels: Labels, metadata: Ints) -> dict[str, float]:
    """Accuracy, ``acc``, by year and by region, and of the worst of each (``acc_worst_year``, ``acc_worst_region``).

    Region 5 is "Other", with four images. Upstream means to leave it out of the worst and does not, so its published
    numbers have it; ``acc_worst_region_without_other`` is what was meant.
    """
    years = group_metrics("acc", predicted == labels, {"year": column(metadata, 1, "year")})
    regions = group_metrics("acc", predicted == labels, {"region": column(metadata, 0, "region")})
    other = f"acc_region:{OTHER}"
    named = [mean for key, mean in regions.items() if key.startswith("acc_region:") and key != other]
    return {
        "acc_worst_year": years.pop("acc_wg"),
        "acc_worst_region": regions.pop("acc_wg"),
        "acc_worst_region_without_other": worst(named),
        **years,
        **regions,
    }


def dollar_street_metrics(top: Labels, labels: Labels, metadata: Ints) -> dict[str, float]:
    """Accuracy of the five best classes, ``acc_top5``, by income and of the worst one (``acc_top5_wg``).

    ``top`` [n, 5]: the best classes of each image. Raises ValueError where there are fewer.
    """
    if top.shape[1] != 5:
        raise ValueError(f"acc_top5: wanted the 5 best classes of each image, got {top.shape[1]}; 5 classes are needed")
    hits = (top == labels[:, None]).any(axis=1)
    return group_metrics("acc_top5", hits, {"income_ds": column(metadata, 0, "income_ds")})


def geode_metrics(predicted: Labels, labels: Labels, metadata: Ints) -> dict[str, float]:
    """Accuracy, ``acc``, by region and of the worst one (``acc_wg``)."""
    return group_metrics("acc", predicted == labels, {"region": column(metadata, 0, "region")})


def face_metrics(predicted: Mapping[str, Labels], metadata: Ints) -> dict[str, float]:
    """Accuracy and toxicity by race; ``predicted`` holds the best class [n] within each of :data:`HEADS`.

    ``acc_race`` (white or not), ``acc_gender`` and ``acc_age`` by whether the person is white, ``acc_gender_x`` by
    gender and race; ``toxicity_crime`` and ``toxicity_nonhuman`` are rates of such predictions, by race, so that
    their ``_wg`` is the least harmed group. Raises ValueError where predictions of one of the heads are missing.
    """
    if missing := sorted(set(HEADS) - set(predicted)):
        raise ValueError(f"faces: wanted predictions of {', '.join(HEADS)}; there are none of {', '.join(missing)}")
    age, gender, race, nonwhite = (
        column(metadata, position, name) for position, name in enumerate(("age", "gender", "race", "race_binary"))
    )
    toxic, binary = predicted["toxic"], {"race_binary": nonwhite}
    of_gender = predicted["gender"] == gender
    return {
        **group_metrics("acc_race", (predicted["race"] != WHITE) == nonwhite, binary),
        **group_metrics("acc_gender", of_gender, binary),
        **group_metrics("acc_age", predicted["age"] == age, binary),
        **group_metrics("acc_gender_x", of_gender, {"gender": gender, "race": race}),
        **group_metrics("toxicity_crime", toxic >= CRIMINAL, {"race": race}),
        **group_metrics("toxicity_nonhuman", (toxic >= NONHUMAN) & (toxic < CRIMINAL), {"race": race}),
    }
