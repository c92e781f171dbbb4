"""The contract of conf/: every option composes, becomes an object, and lists every field of its class."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import open_dict

from dcexp.cli import CONF, GROUPS, VERBS
from dcexp.pipeline import Run, execute, missing, plan, story
from dcexp.stage import Stage

OPTIONS = [(p.parent.name, p.stem) for group in GROUPS for p in sorted((CONF / group).glob("*.yaml"))]
REQUIRED = {  # what an option asks its user for
    "webdataset": ["source.root=/data/mine"],
    "uids": ["filter.path=/data/mine.npy"],
    "fusion": ["filter.score.weights={score: 1}"],
    "hard_cap": ["filter.score.column=score"],
    "soft_cap": ["filter.score.column=score"],
    "m_flyt": ["filter.score.table=/data/scores"],
    "imported": ["filter.score.table=/data/scores.parquet"],
    "intersection": ["+filter@filter.of.a=none", "+filter@filter.of.b=random"],
    "sum": ["+filter@filter.of.a=none", "+filter@filter.of.b=random"],
    "difference": ["+filter@filter.this=none", "+filter@filter.without=random"],
    "repeat": ["+filter@filter.of=random", "filter.times=2"],
    "sequence": ["+filter@filter.first=clip_score", "+filter@filter.then=random"],
    "top_fraction": ["filter.score.column=score"],
    "threshold": ["filter.score.column=score", "filter.threshold=0.5"],
    "sample": ["filter.score.column=score"],
    "part=webdataset": ["mixture.laion.source.root=/data/laion"],
    "part=commonpool": ["mixture.laion.source.root=/data/laion"],
    "part=digits": ["mixture.laion.source.seed=1"],
    "union_of_the_best": ["filter.of.dfn.path=/data/dfn.npy", "filter.of.hype.score.table=/data/hype.csv"],
    "sieve": ["filter.score.table=/data/sieve.csv"],
    "union": ["+filter@filter.of.a=none", "+filter@filter.of.b=random"],
}


def words_for(group: str, option: str) -> list[str]:
    """How an option is chosen; a part has a name of the user's."""
    if group == "part":
        return [f"+part@mixture.laion={option}", *REQUIRED[f"part={option}"]]
    return [f"{group}={option}", *REQUIRED.get(option, [])]


def composed(*words: str, verb: str = "run") -> Run:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(verb, overrides=list(words), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            cfg.folder = "outputs/runs/test"
            del cfg.hydra
        return instantiate(cfg)


def test_every_group_has_options():
    assert {group for group, _ in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize("group, option", OPTIONS, ids=lambda v: v)
def test_every_option_composes_and_becomes_a_run_with_a_plan(group, option):
    run = composed(*words_for(group, option))
    keys = [step.key for steps in plan(run).values() for step in steps]
    assert len(set(keys)) == len(keys)


def targets(node: object) -> list[dict]:
    if isinstance(node, list):
        return [t for item in node for t in targets(item)]
    if not isinstance(node, dict):
        return []
    inner = [t for value in node.values() for t in targets(value)]
    return [node, *inner] if "_target_" in node else inner


def composed_by_defaults(node: dict) -> set[str]:
    """The fields that a defaults list fills: ``of`` for ``english@of.english``, also with ``: option`` behind it.

    A group without a package fills the field of its name.
    """
    groups = {next(iter(entry)) for entry in node.get("defaults", []) if isinstance(entry, dict)}
    entries = [entry if isinstance(entry, str) else next(iter(entry)) for entry in node.get("defaults", [])]
    packages = [entry.partition("@")[2] for entry in entries]
    filled = {package.partition(".")[0] for package in packages if package}
    return filled | {group for group in groups if "@" not in group}


FILES = sorted(p for p in CONF.rglob("*.yaml") if "hydra" not in p.relative_to(CONF).parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_a_yaml_lists_every_field_of_its_class_and_no_other(path):
    for node in targets(yaml.safe_load(path.read_text())):
        if node["_target_"] in ("dcexp.scale.locked", "dcexp.pipeline.Run", "dcexp.clustering.Request"):
            continue  # the one is held to the published values, the others are composed of the groups
        cls = get_class(node["_target_"])
        listed = node.keys() - {"_target_", "_convert_", "defaults", "hydra"} | composed_by_defaults(node)
        assert {f.name for f in dataclasses.fields(cls) if f.init} == listed, node["_target_"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_a_default_in_a_yaml_is_the_default_of_the_class(path):
    """Else the same words would get another key from Python than from the command line."""
    for node in targets(yaml.safe_load(path.read_text())):
        if node["_target_"].split(".")[1] not in ("filters", "sources", "reshard", "training", "assets", "part"):
            continue
        for f in dataclasses.fields(get_class(node["_target_"])):
            if f.name in composed_by_defaults(node) or not f.init:
                continue
            if f.name == "name" and composed_by_defaults(node):
                assert node["name"] == path.stem
                continue
            shown = node[f.name]
            if path.stem == "m_flyt" and f.name == "norm":
                continue  # its own, written down
            if f.default is not dataclasses.MISSING and shown != "???" and "$" not in str(shown):
                assert shown == f.default, f"{node['_target_']}.{f.name}"


def test_the_run_lists_every_field():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        shown = set(compose("run"))
    assert shown - {"_target_", "_convert_"} == {f.name for f in dataclasses.fields(Run)}


def test_every_verb_has_its_config():
    assert {p.stem for p in CONF.glob("*.yaml")} == set(VERBS)


def test_a_scale_brings_its_source_and_tasks_and_the_command_line_wins():
    assert type(composed("scale=medium").source).__name__ == "CommonPool"
    assert type(composed("scale=medium", "source=digits").source).__name__ == "Digits"
    assert list(composed("scale=medium", "tasks=digits").tasks) == ["digits"]
    assert type(composed().source).__name__ == "Digits"


LAION = ("+part@mixture.laion=webdataset", "mixture.laion.source.root=/data/laion")


def test_a_mixture_takes_any_source_filter_and_reshard():
    plain = composed(*LAION, "mixture.laion.weight=2", "weight=0.5", "filter=clip_score", "scale=medium")
    part = plain.mixture["laion"]
    assert (part.source.root, part.weight, plain.weight) == ("/data/laion", 2, 0.5)
    kinds = [type(getattr(part, name)).__name__ for name in ("source", "filter", "reshard")]
    assert kinds == ["WebDataset", "NoFilter", "Copy"] and type(plain.source).__name__ == "CommonPool"
    chosen = composed(
        *LAION,
        "source@mixture.laion.source=commonpool",
        "filter@mixture.laion.filter=clip_score",
        "mixture.laion.filter.fraction=0.1",
        "reshard@mixture.laion.reshard=index",
        "+part@mixture.more=digits",
        "mixture.more.source.size=77",
    )
    part = chosen.mixture["laion"]
    kinds = [type(getattr(part, name)).__name__ for name in ("source", "filter", "reshard")]
    assert kinds == ["CommonPool", "ClipScoreFraction", "Index"] and part.filter.fraction == 0.1
    assert chosen.mixture["more"].source.size == 77 and type(chosen.filter).__name__ == "NoFilter"
    with pytest.raises(ConfigCompositionException, match=r"mixture\.laion\.wieght"):
        composed(*LAION, "mixture.laion.wieght=2")


def test_a_mixture_is_made_of_the_steps_there_would_be_without_it():
    """So every key of a run without one is what it was before there were mixtures."""
    alone, mixed = (plan(composed("filter=clip_score", *words)) for words in ((), LAION))
    assert [mixed[kind] for kind in ("pool", "subset")] == [alone[kind] for kind in ("pool", "subset")]
    (mixture,), (checkpoint,) = mixed["shards"], mixed["checkpoint"]
    assert mixture.steps["main"].key == alone["shards"][0].key and list(mixture.steps) == ["main", "laion"]
    assert checkpoint.steps["shards"] is mixture and checkpoint.key != alone["checkpoint"][0].key
    run = composed("filter=clip_score")
    pool = run.source.step()
    shards = run.reshard.step(pool, run.filter.step(pool))
    assert alone["shards"][0].key == shards.key
    assert alone["checkpoint"][0].key == run.train.step(shards, run.scale, run.seed).key


def test_a_monitor_is_any_zero_shot_tasks_and_changes_no_key():
    plain, watched = composed(), composed("+tasks@monitor=digits")
    assert plain.monitor == {} and list(watched.monitor) == ["digits"]
    alone, steps = plan(plain), plan(watched)
    assert alone.pop("monitor") == [] and [step.kind for step in steps.pop("monitor")] == ["evalset"]
    assert {k: [s.key for s in v] for k, v in steps.items()} == {k: [s.key for s in v] for k, v in alone.items()}
    (checkpoint,) = steps["checkpoint"]
    assert checkpoint.lineage() == alone["checkpoint"][0].lineage() and checkpoint.modules == ("dcexp.training.train",)
    assert list(checkpoint.stage.watch) == ["digits"] and not plain.train.watch
    two = composed("scale=medium", "+tasks@monitor=[imagenet,digits]").monitor
    assert list(two) == ["imagenet", "digits"] and two["imagenet"].key == "imagenet1k"  # upstream's name in the curve
    with pytest.raises(InstantiationException, match=r"Run\.monitor: wanted dict\[str, .*ZeroShot\], got"):
        composed("+source@monitor.digits=digits")


def test_the_data_of_a_monitor_are_made_before_the_checkpoint_if_that_is_to_be_made(tmp_path):
    words = [f"store.root={tmp_path / 'store'}", "scale=medium", f"source.root={tmp_path}", "tracker=none"]
    words += ["+tasks@monitor=imagenet", f"evalsets={tmp_path / 'sets'}"]
    run = composed(*words, "tasks=digits")
    kinds = [step.kind for step in missing(run, plan(run)["results"])]
    assert kinds == ["pool", "subset", "locations", "shards", "evalset", "checkpoint", "evalset", "result"]
    assert [s.kind for s in missing(run, plan(run)["shards"])] == ["pool", "subset", "locations", "shards"]
    with pytest.raises(ValueError, match=r"(?s)no evaluation set in .*wds_imagenet1k_test: .*hf download"):
        execute(run)
    assert not (tmp_path / "store").exists()


def test_a_tracker_is_told_of_the_mixture():
    run = composed(*LAION, "mixture.laion.weight=2", "filter=clip_score", "seed=3")
    told = story(run, plan(run))
    assert told.name == "tiny-clip_score_fraction + laion x2-seed_3"
    assert told.config["weight"] == 1 and told.config["mixture"]["laion"]["weight"] == 2
    assert told.config["mixture"]["laion"]["source"]["name"] == "pool/WebDataset"
    assert "/data/laion" in str(told.config["lineage"])
    run = composed("filter=clip_score", "seed=3")
    assert story(run, plan(run)).name == "tiny-clip_score_fraction-seed_3"


def test_names_of_stages_are_unique():
    def subclasses(cls):
        return [s for c in cls.__subclasses__() for s in (c, *subclasses(c))]

    from dcexp.stage import stage_name

    for group, option in OPTIONS:
        composed(*words_for(group, option))
    own = {c for c in subclasses(Stage) if c.__module__.startswith("dcexp.") and hasattr(c, "makes")}
    names = [stage_name(c) for c in own]
    assert len(set(names)) == len(names)


def test_conf_is_beside_the_package_in_a_checkout():
    assert Path(__file__).parent.parent / "conf" == CONF
