"""The lock: the published values, and every way round them refused with field, given and published value."""

import dataclasses

import pytest
import yaml

from dcexp.scale import PUBLISHED, Recipe, Scale, locked
from tests.cli import REPOSITORY, dcexp

# The paper's table (arXiv:2304.14108, section 3.4 and Appendix E) and upstream's scale_configs.py, typed anew:
# model, batch, lr, warm-up, beta2, samples seen, pool size
PAPER = {
    "debug": ("ViT-B-32", 1024, 1e-4, 500, 0.98, 128_000, 128_000),
    "small": ("ViT-B-32", 4096, 5e-4, 500, 0.98, 12_800_000, 12_800_000),
    "medium": ("ViT-B-32", 4096, 5e-4, 500, 0.98, 128_000_000, 128_000_000),
    "large": ("ViT-B-16", 8192, 5e-4, 500, 0.98, 1_280_000_000, 1_280_000_000),
    "xlarge": ("ViT-L-14", 90112, 1e-3, 10000, 0.95, 12_800_000_000, 12_800_000_000),
}
# A digest stands in checkpoints and submissions, so it must never change; neither must what it is taken of.
DIGESTS = {
    "tiny": "db28b79389fae0f3",
    "debug": "e30680ec797c2a58",
    "small": "fa6ba78d545f94ee",
    "medium": "92526687438ed1f4",
    "large": "e99ebbcfb8c2d7a4",
    "xlarge": "d3c54a8c043930c7",
}
STEPS = {"debug": 125, "small": 3125, "medium": 31250, "large": 156250, "xlarge": 142046}


def values(name):
    return {"name": name, **PUBLISHED[name], "recipe": dict(PUBLISHED[name]["recipe"])}


@pytest.mark.parametrize("name", PAPER)
def test_a_scale_is_the_papers(name):
    scale = locked(**values(name))
    recipe = scale.recipe
    got = (recipe.model, recipe.batch_size, recipe.lr, recipe.warmup, recipe.beta2)
    assert (*got, scale.samples_seen, scale.pool_size) == PAPER[name]
    assert (recipe.beta1, recipe.eps, recipe.weight_decay) == (0.9, 1e-6, 0.2)
    assert scale.steps == STEPS[name]
    assert scale.competition == (name != "debug")


def test_tiny_is_no_competition_scale():
    assert not locked(**values("tiny")).competition


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf/scale").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_yaml_shows_the_published_values(path):
    shown = yaml.safe_load(path.read_text())["scale"]
    shown.pop("_target_")
    assert shown == values(path.stem)


def test_every_published_scale_has_its_yaml():
    assert {p.stem for p in (REPOSITORY / "conf/scale").glob("*.yaml")} == set(PUBLISHED)


def test_digests_differ_and_are_stable():
    digests = {name: locked(**values(name)).digest for name in PUBLISHED}
    assert {name: digest[:16] for name, digest in digests.items()} == DIGESTS


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_field_of_a_recipe_can_be_changed(name, field):
    changed = values(name)
    published = changed["recipe"][field]
    changed["recipe"][field] = other = "ViT-H-14" if field == "model" else published + 1
    with pytest.raises(ValueError, match="locked") as refusal:
        locked(**changed)
    assert f"scale.recipe.{field}: given {other!r}, published {published!r}" in str(refusal.value)
    assert "Rule 4" in str(refusal.value)


def test_plain_python_is_locked_too():
    scale = locked(**values("small"))
    with pytest.raises(ValueError, match=r"scale\.recipe\.lr: given 1\.0, published 0\.0005"):
        dataclasses.replace(scale, recipe=dataclasses.replace(scale.recipe, lr=1.0))
    with pytest.raises(ValueError, match=r"scale\.samples_seen: given 5, published 12800000"):
        dataclasses.replace(scale, samples_seen=5)
    with pytest.raises(ValueError, match=r"scale\.name: given 'mine', published are tiny, debug, small"):
        dataclasses.replace(scale, name="mine")
    with pytest.raises(ValueError, match="wanted a Recipe"):
        dataclasses.replace(scale, recipe={"lr": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        scale.recipe.lr = 1.0


def test_a_value_of_another_type_is_another_value():
    for wrong in ("4096", True, 4096.5, None):
        changed = values("small")
        changed["recipe"]["batch_size"] = wrong
        with pytest.raises(ValueError, match=r"scale\.recipe\.batch_size"):
            locked(**changed)


def test_a_scale_smuggled_past_its_constructor_is_refused_where_it_is_used():
    scale = locked(**values("tiny"))
    object.__setattr__(scale.recipe, "lr", 1.0)
    with pytest.raises(ValueError, match=r"scale\.recipe\.lr: given 1\.0, published 0\.002"):
        scale.check()


SHADOW = """
name: small
competition: true
pool_size: 12_800_000
samples_seen: 12_800_000
recipe: {model: ViT-B-32, batch_size: 4096, lr: 0.7, warmup: 500, beta1: 0.9, beta2: 0.98, eps: 1.0e-6,
         weight_decay: 0.2}
_target_: dcexp.scale.locked
"""
LR = ("scale.recipe.lr: given 0.7", "published 0.0005")


@pytest.fixture
def shadow(tmp_path):
    (tmp_path / "mine/scale").mkdir(parents=True)
    (tmp_path / "mine/scale/small.yaml").write_text(SHADOW)
    return tmp_path / "mine"


BYPASSES = {
    "override": ("scale=small scale.recipe.lr=0.7", LR),
    "force": ("scale=small ++scale.recipe.lr=0.7", LR),
    "add": ("scale=small +scale.recipe.x=1", ("scale.recipe.x: given 1", "published '(no such field)'")),
    "add at the top": ("scale=small +scale.x=1", ("scale.x: given 1", "published '(no such field)'")),
    "remove": ("scale=small ~scale.recipe.lr", ("scale.recipe.lr: given '(removed)'", "published 0.0005")),
    "remove all": ("scale=small ~scale.recipe", ("scale.recipe.lr: given '(removed)'", "published 0.0005")),
    "replace": ("scale=small 'scale.recipe={lr: 0.7}'", LR),
    "interpolation": ("scale=small seed=7 scale.recipe.warmup=${seed}", ("warmup: given 7", "published 500")),
    "samples": ("scale=small scale.samples_seen=1", ("scale.samples_seen: given 1", "published 12800000")),
    "competition": (
        "scale=tiny scale.competition=true",
        ("scale.competition: given True", "published False"),
    ),
    "another name": (
        "scale=small scale.name=medium",
        ("scale.pool_size: given 12800000", "published 128000000"),
    ),
    "a name of one's own": ("scale=small scale.name=mine", ("scale.name: given 'mine'", "published are")),
}


@pytest.mark.parametrize("words, wanted", BYPASSES.values(), ids=BYPASSES.keys())
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_command_line_cannot_change_a_scale(verb, words, wanted, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(dcexp(monkeypatch, capsys, f"{verb} {words}"), wanted, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "--config-dir {0} scale=small",
        "--config-path {0} scale=small",
        "scale=small 'hydra.searchpath=[file://{0}]'",
    ],
)
def test_a_shadowing_file_is_refused(words, shadow, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (shadow / "run.yaml").write_text("defaults: [{scale: small}, _self_]\n_target_: dcexp.pipeline.Run\n")
    refused(dcexp(monkeypatch, capsys, words.format(shadow)), LR, tmp_path)


def test_an_experiment_file_is_refused(shadow, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (shadow / "scale/small.yaml").unlink()
    (shadow / "experiment").mkdir()
    (shadow / "experiment/fast.yaml").write_text("# @package _global_\nscale: {recipe: {lr: 0.7}}\n")
    refused(dcexp(monkeypatch, capsys, f"--config-dir {shadow} scale=small experiment=fast"), LR, tmp_path)


def test_an_edited_yaml_is_refused(shadow, monkeypatch, capsys, tmp_path):
    import shutil

    from dcexp import cli

    monkeypatch.chdir(tmp_path)
    edited = tmp_path / "conf"
    shutil.copytree(REPOSITORY / "conf", edited)
    yaml_file = edited / "scale/small.yaml"
    yaml_file.write_text(yaml_file.read_text().replace("lr: 5.0e-4", "lr: 0.7"))
    monkeypatch.setattr(cli, "CONF", edited)
    refused(dcexp(monkeypatch, capsys, "scale=small"), LR, tmp_path)


@pytest.mark.parametrize("part", ["train", "scale"])
def test_the_trainer_and_the_scale_cannot_be_replaced(part, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    target = {"train": "tests.test_scale.MyTrain", "scale": "tests.test_scale.my_scale"}[part]
    outcome = dcexp(monkeypatch, capsys, f"{part}._target_={target}")
    refused(outcome, ("train a", "published are"), tmp_path)


def my_scale(**values):
    class Mine(Scale):
        def check(self):
            pass

    return Mine(**{**values, "recipe": Recipe(**values["recipe"])})


def MyTrain(**fields):
    from dcexp.training.train import Train

    class Mine(Train):
        pass

    return Mine(**fields)


def refused(outcome, wanted, folder):
    assert outcome.code == 1
    for text in wanted:
        assert text in outcome.err
    assert "Traceback" not in outcome.err
    assert not (folder / "outputs/store").exists(), "nothing was begun"


class Anything(float):
    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


def my_number(**values):
    return Scale(**{**values, "recipe": Recipe(**{**values["recipe"], "lr": Anything(0.7)})})


def MyRun(**fields):
    from dcexp.pipeline import Run

    class Mine(Run):
        def __post_init__(self):
            pass

    return Mine(**fields)


def test_a_number_that_claims_to_equal_everything_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    outcome = dcexp(monkeypatch, capsys, "scale=small scale._target_=tests.test_scale.my_number")
    refused(outcome, LR, tmp_path)


def test_the_run_cannot_be_replaced(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for verb in ("run", "plan", "verify"):
        words = "_target_=tests.test_scale.MyRun train._target_=tests.test_scale.MyTrain"
        refused(dcexp(monkeypatch, capsys, f"{verb} {words}"), ("a run is a", "Rule 4"), tmp_path)


@pytest.mark.parametrize("words", ["+scale._args_=[1]", "_target_=types.SimpleNamespace", "train._partial_=true"])
def test_hydras_own_words_are_no_way_round(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(dcexp(monkeypatch, capsys, words.replace("train._partial_", "+train._partial_")), (), tmp_path)
