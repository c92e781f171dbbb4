"""The tasks of conf/tasks/datacomp.yaml on generated sets: the same entries, with the sizes these have."""

from functools import cache
from pathlib import Path

import yaml

from dcexp.cli import CONF
from dcexp.tasks.base import Task
from tests.tasks.families import FAMILIES

ENTRIES = CONF / "tasks/datacomp.yaml"


@cache
def names_by_folder() -> dict[str, str]:
    """The entry of datacomp.yaml for each folder of a set."""
    return {entry["data"]["folder"]: name for name, entry in yaml.safe_load(ENTRIES.read_text()).items()}


def sizes(items: dict[str, int]) -> dict[str, dict[str, int]]:
    """By entry, the fields that generated sets of so many items change."""
    found = {}
    for folder, count in items.items():
        classes = FAMILIES[folder].classes if folder in FAMILIES and FAMILIES[folder].templates else 0
        found[names_by_folder()[folder]] = {"size": count, **({"classes": classes} if classes else {})}
    return found


def tasks(root: Path, items: dict[str, int], **options: str) -> dict[str, Task]:
    """The tasks on the sets below ``root``, by the name of their entry; ``options``: what the yaml refers to."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    around = {"evalsets": str(root), "evaluation": "parity", "crops": "", **options}
    cfg = OmegaConf.merge(around, {"tasks": OmegaConf.load(ENTRIES)}, {"tasks": sizes(items)})
    return {name: instantiate(cfg.tasks[name], _convert_="all") for name in sizes(items)}
