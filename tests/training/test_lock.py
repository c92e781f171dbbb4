"""No setting but those the benchmark leaves free reaches optimizer, model, loss, schedule or augmentation."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from dcexp.cli import CONF
from dcexp.engines.local import Local
from dcexp.training.fit import Job, _module
from dcexp.training.precision import Precision
from dcexp.training.ranks import Ranks
from dcexp.training.reading import ShardList
from dcexp.training.schedule import learning_rate
from dcexp.training.train import Train

# What upstream leaves free beside seed and devices: precision, number of checkpoints, workers, accumulation to
# fit memory, logging; and compile, which is how and not what.
FREE = {"precision", "checkpoints", "workers", "accumulate", "compile", "log_every"}
NO_SHARDS = ShardList(places=(), sizes=())


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.folder = "out"
    return cfg


def leaves(cfg: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings that hold a plain value."""
    if not OmegaConf.is_dict(cfg):
        return [prefix]
    return [leaf for key in cfg for leaf in leaves(cfg._get_node(key), f"{prefix}.{key}".lstrip("."))]


def other(value: Any, name: str) -> Any:
    """Another value that may stand there."""
    if name == "train.precision":
        return next(word for word in get_args(Precision) if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 1
    if isinstance(value, float):
        return value / 2
    return f"{value}x" if isinstance(value, str) else [*(value or []), "shards"]


def recipe_of(run: Any) -> dict[str, Any]:
    """All that decides the training beside its data, as the trainer builds it."""
    words = {f.name: getattr(run.train, f.name) for f in fields(run.train)} | {"precision": "fp32", "compile": False}
    job = Job(out=Path("out"), shards=NO_SHARDS, scale=run.scale, seed=0, **words)
    module, crop = _module(job, Ranks(0, 1), None)
    optimizer = module.configure_optimizers()
    names = {id(p): name for name, p in module.clip.named_parameters()}
    groups = [{**g, "params": [names[id(p)] for p in g["params"]]} for g in optimizer.param_groups]
    weights = {name: float(value.double().sum()) for name, value in module.clip.state_dict().items()}
    steps = run.scale.steps
    return {
        "optimizer": (type(optimizer), optimizer.defaults, groups),
        "model": (str(module.clip), weights),
        "loss": (type(module.contrast), {k: v for k, v in vars(module.contrast).items() if not k.startswith("_")}),
        "schedule": (steps, [learning_rate(run.scale.recipe, step, steps) for step in range(0, steps, 7)]),
        "augmentation": (str(crop), module.normalize.mean.tolist(), module.normalize.std.tolist()),
        "batch": job.batch_size(1) * job.accumulate,
    }


def test_the_words_of_train_are_those_that_are_free():
    assert {f.name for f in fields(Train) if f.init} == FREE
    assert {f.name for f in fields(Train)} - FREE == {"watch"}, "which Train does not take: no config can reach it"
    assert {f.name for f in fields(Job)} == FREE | {"out", "shards", "scale", "seed", "watch"}


@pytest.fixture(scope="module")
def published():
    return recipe_of(instantiate(composed()))


def settings() -> list[str]:
    return leaves(composed())


@pytest.mark.parametrize("name", settings())
def test_changing_any_setting_leaves_the_recipe_as_it_is_or_is_refused(name, published):
    cfg = composed()
    value = OmegaConf.select(cfg, name)
    OmegaConf.update(cfg, name, other(value, name))
    try:
        run = instantiate(cfg)
        run.train.check(Local(), scale=run.scale, seed=run.seed)
    except Exception:
        assert name.removeprefix("train.") not in FREE
        return
    assert not name.startswith("scale."), f"{name} could be changed"
    assert recipe_of(run) == published


def test_every_part_of_the_recipe_would_be_seen(published):
    """The comparison itself: another scale differs in all that scales differ in."""
    debug = recipe_of(instantiate(composed("scale=debug")))
    assert [part for part in published if debug[part] != published[part]] == [
        "optimizer", "model", "schedule", "augmentation", "batch",
    ]  # fmt: skip
