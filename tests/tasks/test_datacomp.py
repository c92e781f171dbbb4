"""conf/tasks against what DataComp publishes."""

import re
from pathlib import Path

import pytest
import yaml

from dcexp.tasks.datacomp import GROUPS, SCORED

CONF = Path(__file__).parents[2] / "conf/tasks"
RECALL = {"vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"}
UNSCORED = {"fairness/fairface", "fairness/utkface"}
MAIN = {
    **dict.fromkeys(RECALL, "mean_per_class_recall"),
    **dict.fromkeys(UNSCORED, ""),
    "wilds/iwildcam": "F1-macro_all",
    "wilds/fmow": "acc_worst_region",
    "fairness/dollar_street": "acc_top5_wg",
    "fairness/geode": "acc_wg",
    "retrieval/flickr_1k_test_image_text_retrieval": "mean_recall@1",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "mean_recall@1",
    "misc/winogavil": "jaccard_score_10-12",
}
READS = {
    **{f"wilds/{name}": ["cls", "npy"] for name in ("iwildcam", "camelyon17", "fmow")},
    **{f"fairness/{name}": ["cls", "npy"] for name in ("dollar_street", "geode")},
    **{key: ["npy"] for key in UNSCORED},
}


def tasks(name):
    loaded = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return {task["key"]: task for task in loaded.values()}


def test_38_tasks_are_scored_and_the_groups_have_their_sizes():
    assert len(SCORED) == 38
    assert {title: len(set(keys)) for title, keys in GROUPS.items()} == {
        "ImageNet": 1,
        "ImageNet dist. shifts": 6,
        "VTAB": 13,
        "Retrieval": 3,
    }


def test_there_are_40_entries_of_732_026_test_samples():
    found = tasks("datacomp")
    assert len(found) == 40 and found.keys() == SCORED | UNSCORED
    assert len({task["name"] for task in found.values()}) == 40
    assert sum(task["size"] for task in found.values()) == 732_026


def test_main_metrics_groups_and_folders_follow_upstream():
    for key, task in tasks("datacomp").items():
        assert task["metric"] == MAIN.get(key, "acc1"), key
        assert task["group"] == next((title for title, keys in GROUPS.items() if key in keys), "")
        data = task["data"]
        assert data["root"] == "${evalsets}" and re.fullmatch(r"([0-9a-f]{7})?", data["revision"])
        if key.startswith("retrieval/") or key == "misc/winogavil":
            assert data["folder"] == key.partition("/")[2] and data["hub"] == "nlphuji/${.folder}"
        else:
            assert data["folder"] == f"wds_{key.removeprefix('fairness/').replace('/', '-')}_test"
            assert data["hub"] == "djghosh/${.folder}" and data["reads"] == READS.get(key, ["cls"])


@pytest.mark.parametrize("key, task", tasks("datacomp").items(), ids=lambda v: v if isinstance(v, str) else "")
def test_guessing_is_no_worse_than_one_in_as_many_as_there_are_classes(key, task):
    if task["random"] and "classes" in task and key not in ("wilds/iwildcam", "wilds/fmow"):
        assert 0.99 / task["classes"] <= task["random"] <= 4 / task["classes"]
    else:
        assert 0 <= task["random"] < 0.5


def test_imagenet_is_the_same_task_alone_and_among_the_others():
    assert tasks("imagenet")["imagenet1k"] == tasks("datacomp")["imagenet1k"]
