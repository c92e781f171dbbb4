"""DataComp's aggregates against the released checkpoints, and against plain loops."""

import json
import math
import statistics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcexp.artifacts.result import Result, write_result
from dcexp.tasks.datacomp import AT_CHANCE, DEFINITION, GROUPS, MEANS, NOISE, NOISE_BAND, SCORED, aggregate

NAMES = {
    "imagenet": "ImageNet",
    "imagenet_dist_shifts": "ImageNet dist. shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
    "clean_mean_33": "clean mean (33)",
    "average_38": "average (38)",
}

# open_clip's published table: main metrics of released checkpoints, rounded to four digits
_KEYS = """
    imagenet1k vtab/caltech101 cifar10 vtab/cifar100 vtab/clevr_count_all vtab/clevr_closest_object_distance country211
    vtab/dtd vtab/eurosat fgvc_aircraft food101 gtsrb imagenet_sketch imagenetv2 imagenet-a imagenet-o imagenet-r
    vtab/kitti_closest_vehicle_distance mnist objectnet vtab/flowers vtab/pets voc2007 vtab/pcam renderedsst2
    vtab/resisc45 cars stl10 sun397 vtab/svhn retrieval/flickr_1k_test_image_text_retrieval
    retrieval/mscoco_2014_5k_test_image_text_retrieval misc/winogavil wilds/iwildcam wilds/camelyon17 wilds/fmow
    fairness/dollar_street fairness/geode
"""
KEYS = _KEYS.split()
RELEASED = {
    "commonpool_s_clip_s13m_b4k": """
        .0505 .2483 .4768 .1937 .1529 .2313 .0119 .0782 .2067 .0083 .0801 .0732 .0200 .0380 .0181 .1380 .0655 .2785
        .0874 .0506 .0539 .0796 .3379 .6367 .5014 .0806 .0276 .5353 .1126 .1166 .0343 .0224 .2994 .0004 .6874 .0000
        .2605 .2827
    """,
    "commonpool_m_clip_s128m_b4k": """
        .2725 .6678 .8405 .5549 .1402 .2238 .0458 .2176 .2589 .0215 .3999 .1586 .1844 .2247 .0420 .3925 .3297 .3235
        .1778 .2093 .2551 .3828 .6074 .5210 .5014 .2641 .4123 .8370 .3875 .1931 .2465 .1476 .3581 .0154 .5369 .0000
        .4451 .6610
    """,
    "datacomp_l_s1b_b8k": """
        .6310 .8969 .9381 .7540 .2314 .2513 .1434 .4691 .5011 .1001 .8311 .4343 .4976 .5521 .2545 .4955 .7177 .4008
        .5400 .5298 .6261 .8352 .8089 .4973 .5294 .5273 .7718 .9576 .6431 .4595 .6428 .4045 .4465 .0729 .5000 .0976
        .5748 .8493
    """,
    "datacomp_xl_s13b_b90k": """
        .7921 .9465 .9824 .8736 .3555 .2443 .3157 .6649 .7124 .4750 .9452 .5853 .6795 .7205 .6959 .3255 .9083 .2785
        .8661 .7425 .8262 .9506 .8247 .5118 .6101 .6941 .9305 .9925 .7427 .6769 .8119 .5451 .4666 .1614 .5089 .2403
        .6624 .9152
    """,
}
PUBLISHED = {  # ImageNet, its distribution shifts, VTAB, retrieval, average over 38
    "commonpool_s_clip_s13m_b4k": (0.0505, 0.0550, 0.1900, 0.1187, 0.1731),
    "commonpool_m_clip_s128m_b4k": (0.2725, 0.2304, 0.3377, 0.2507, 0.3278),
    "datacomp_l_s1b_b8k": (0.6310, 0.5079, 0.5456, 0.4979, 0.5372),
    "datacomp_xl_s13b_b90k": (0.7921, 0.6787, 0.6522, 0.6079, 0.6627),
}
WHOLE = dict.fromkeys(SCORED, 0.5)


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_checkpoints_have_their_published_aggregates(name):
    made = aggregate(dict(zip(KEYS, map(float, RELEASED[name].split()), strict=True)))
    means = (made.imagenet, made.imagenet_dist_shifts, made.vtab, made.retrieval, made.average_38)
    assert means == pytest.approx(PUBLISHED[name], abs=1e-4) and not made.missing


def test_the_sets_have_their_published_sizes():
    assert {title: len(set(keys)) for title, keys in MEANS.items()} == dict(
        zip(NAMES.values(), (1, 6, 13, 3, 33, 38), strict=True)
    )
    assert all(set(keys) <= SCORED and len(keys) == len(set(keys)) for keys in MEANS.values())
    assert set(KEYS) == SCORED and len(KEYS) == 38


def test_five_scored_tasks_are_at_chance_and_only_those_are_left_out_of_the_clean_mean():
    words = ("clevr_count", "clevr_closest", "pcam", "camelyon17", "kitti")
    assert len(AT_CHANCE) == 5 and all(sum(word in key for key in AT_CHANCE) == 1 for word in words)
    assert SCORED - set(MEANS["clean mean (33)"]) == AT_CHANCE


def mean_by_a_loop(scores, keys):
    """As a reader of the paper would write it; None where one is missing."""
    found = []
    for key in keys:
        if scores.get(key) is None or math.isnan(scores[key]):
            return None
        found.append(scores[key])
    return statistics.fmean(found)


FRACTION = st.floats(0, 1)
OTHERS = st.dictionaries(st.sampled_from(["fairness/fairface", "fairness/utkface", "digits", "mine"]), FRACTION)
HOLES = st.dictionaries(st.sampled_from(sorted(SCORED)), st.sampled_from([None, math.nan, "absent"]), max_size=6)


@given(st.lists(FRACTION, min_size=38, max_size=38), HOLES, OTHERS)
@example([0.0] * 38, {}, {"mine": 1.0})
@example([1.0] * 38, {"vtab/pcam": None}, {})
def test_every_aggregate_is_the_mean_of_its_tasks_or_none(values, holes, others):
    scores = {**dict(zip(KEYS, values, strict=True)), **holes, **others}
    scores = {key: score for key, score in scores.items() if score != "absent"}
    made = aggregate(scores)
    for name, title in NAMES.items():
        wanted = mean_by_a_loop(scores, MEANS[title])
        got = getattr(made, name)
        assert got is None if wanted is None else got == pytest.approx(wanted, abs=1e-12)
        assert set(made.missing.get(name, ())) == holes.keys() & set(MEANS[title])


@given(st.sampled_from(sorted(SCORED)))
def test_one_missing_task_takes_away_the_means_it_is_in_and_no_other(key):
    made = aggregate({**WHOLE, key: None})
    for name, title in NAMES.items():
        assert (getattr(made, name) is None) == (key in MEANS[title])
    assert set(made.missing) == {name for name, title in NAMES.items() if key in MEANS[title]}
    assert all(keys == (key,) for keys in made.missing.values())


def test_a_task_at_chance_that_is_missing_leaves_the_clean_mean():
    made = aggregate(dict.fromkeys(SCORED - AT_CHANCE, 0.5))
    assert made.clean_mean_33 == 0.5 and made.average_38 is None and made.vtab is None
    assert set(made.missing["average_38"]) == AT_CHANCE


@pytest.mark.parametrize("scores", [{}, {"digits": 0.9}, {"fairness/fairface": None}], ids=["none", "own", "unscored"])
def test_without_a_scored_task_there_is_no_aggregate(scores):
    made = aggregate(scores)
    assert {getattr(made, name) for name in NAMES} == {None}
    assert set(made.missing["average_38"]) == SCORED


def test_the_json_says_what_was_computed_by_which_definition_and_what_is_missing():
    made = aggregate({**WHOLE, "misc/winogavil": None}).as_dict()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["definition"] == DEFINITION and list(made["values"]) == list(NAMES)
    assert made["values"] == {**dict.fromkeys(NAMES, 0.5), "retrieval": None, "clean_mean_33": None, "average_38": None}
    assert made["missing"] == {name: ["misc/winogavil"] for name in ("retrieval", "clean_mean_33", "average_38")}
    assert made["noise"] == NOISE and NOISE_BAND == NOISE["seeds"]["average_38"] == 0.006


def test_one_answer_on_fmow_moves_a_mean_by_what_is_said():
    before, after = aggregate({**WHOLE, "wilds/fmow": 0.25}), aggregate({**WHOLE, "wilds/fmow": 0.5})
    for name, moved in NOISE["one_fmow_answer"].items():
        assert getattr(after, name) - getattr(before, name) == pytest.approx(moved)
    assert NOISE["one_fmow_answer"]["average_38"] == pytest.approx(0.0066, abs=5e-5)


def test_people_read_a_value_or_what_is_missing():
    rows = dict(aggregate({**WHOLE, "misc/winogavil": None, "imagenet1k": None}).rows())
    assert list(rows) == list(NAMES.values())
    assert rows["VTAB"] == "0.5000"
    assert rows["ImageNet"] == "not computed, 1 task missing: imagenet1k"
    assert rows["Retrieval"] == "not computed, 1 of 3 tasks missing: misc/winogavil"
    assert rows["average (38)"] == "not computed, 2 of 38 tasks missing: imagenet1k, misc/winogavil"


def test_of_many_missing_tasks_people_read_the_first():
    rows = dict(aggregate(dict.fromkeys(SCORED - {*GROUPS["VTAB"]}, 0.5)).rows())
    assert rows["VTAB"].startswith("not computed, 13 of 13 tasks missing: vtab/caltech101, vtab/cifar100, ")
    assert rows["VTAB"].count("/") == 8 and rows["VTAB"].endswith(" and 5 more")


def test_a_result_with_bare_nan_reads_as_one_with_null(tmp_path):
    metrics = {"acc1": 0.5, "acc_region:3": math.nan, "count": 0}
    for name, write in {"strict": False, "bare": True}.items():
        (tmp_path / name).mkdir()
        write_result(tmp_path / name, "k", "K", metrics, 0.5)
        path = tmp_path / name / "result.json"
        path.write_text(path.read_text().replace("null", "NaN") if write else path.read_text())
    strict, bare = Result(tmp_path / "strict"), Result(tmp_path / "bare")
    assert "NaN" in (tmp_path / "bare/result.json").read_text()
    assert bare.line == strict.line and bare.line["metrics"]["acc_region:3"] is None
    assert bare.numbers == strict.numbers == {"eval/k/acc1": 0.5, "eval/k/count": 0, "eval/k/main_metric": 0.5}
