"""conf/tasks against what DataComp publishes."""

from pathlib import Path

import pytest
import yaml

from dcexp.tasks.datacomp import GROUPS, SCORED

CONF = Path(__file__).parents[2] / "conf/tasks"
RECALL = {"vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"}


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


def test_the_30_classification_tasks_are_there():
    found = tasks("datacomp")
    assert len(found) == 30
    assert SCORED - found.keys() == {
        *GROUPS["Retrieval"],
        *(f"wilds/{name}" for name in ("iwildcam", "camelyon17", "fmow")),
        *(f"fairness/{name}" for name in ("dollar_street", "geode")),
    }
    assert found.keys() < SCORED


def test_sizes_add_up_to_the_published_sum():
    others = [1000, 5000, 3563, 42791, 85054, 22108, 3503, 12488, 10954, 23703]
    assert sum(task["size"] for task in tasks("datacomp").values()) == 732_026 - sum(others)


def test_main_metrics_names_and_folders_follow_upstream():
    found = tasks("datacomp")
    assert {key for key, task in found.items() if task["metric"] == "mean_per_class_recall"} == RECALL
    assert len({task["name"] for task in found.values()}) == 30
    for key, task in found.items():
        assert task["data"]["folder"] == f"wds_{key.replace('/', '-')}_test"
        assert task["data"]["root"] == "${evalsets}"


@pytest.mark.parametrize("key, task", tasks("datacomp").items(), ids=lambda v: v if isinstance(v, str) else "")
def test_guessing_is_no_worse_than_one_in_as_many_as_there_are_classes(key, task):
    assert 0.99 / task["classes"] <= task["random"] <= 4 / task["classes"]


def test_imagenet_is_the_same_task_alone_and_among_the_others():
    assert tasks("imagenet")["imagenet1k"] == tasks("datacomp")["imagenet1k"]
