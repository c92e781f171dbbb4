"""What a newcomer types wrong, and what they read then."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dcexp.artifacts.shards import Shards
from dcexp.cli import GROUPS, VERBS
from tests.cli import REPOSITORY, dcexp, dcexp_process


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_names_every_verb_group_and_option(monkeypatch, capsys):
    shown = dcexp(monkeypatch, capsys, "--help")
    assert shown.code == 0
    for word in (*VERBS, *GROUPS, "clip_score", "medium", "commonpool"):
        assert word in shown.out


@pytest.mark.parametrize("words", ["plan", "--help", "plan filter=clip_score scale=medium"])
def test_plan_and_help_import_no_torch(words, tmp_path):
    code = (
        "import sys; from dcexp.cli import main; sys.argv = ['dcexp', *sys.argv[1:]]; main();"
        "heavy = {'torch', 'open_clip', 'pytorch_lightning', 'wandb', 'sklearn', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "plan writes nothing"


def test_plan_shows_every_step(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    shown = dcexp(monkeypatch, capsys, "plan filter=clip_score")
    assert shown.code == 0
    for word in ("pool", "subset", "shards", "checkpoint", "result", "make", "400 steps", "clip_score_fraction"):
        assert word in shown.out


def test_medium_shows_its_plan_and_stops_at_the_missing_pool_with_advice(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    shown = dcexp(monkeypatch, capsys, "filter=clip_score scale=medium")
    assert shown.code == 1
    assert "medium" in shown.out and "31,250 steps" in shown.out
    for wanted in (
        str(tmp_path / "data/commonpool_medium"),
        "source.root=",
        "no evaluation set",
        "(and 39 more evalsets: wds_cifar10_test, ",
    ):
        assert wanted in shown.err
    assert "Traceback" not in shown.err and not (tmp_path / "outputs/store").exists()


MISTAKES = {
    "rum filter=none": ["no verb 'rum'", "did you mean 'run'?"],
    "filter=clip_scor": ["filter/clip_scor", "clip_score"],
    "scale=huge": ["scale/huge", "medium"],
    "filter.fractoin=0.3 filter=clip_score": ["no key 'filter.fractoin' here; did you mean 'filter.fraction'?"],
    "filter.fraction=0.3 filter=none": ["no key 'filter.fraction' here."],
    "source.root=~/x source=commonpool": ["quotes within quotes"],
    "experiment=baselines": ["-m starts"],
    "source.size=0": ["wanted size >= 1"],
    "+filter.fractoin=0.3 filter=clip_score": ["ClipScoreFraction", "fractoin"],
    "filter=clip_score filter.fraction=abc": ["fraction: wanted float, got 'abc'"],
    "filter=clip_score filter.fraction=0": ["fraction=0"],
    "filter=clip_score filter.fraction=1.5": ["fraction=1.5"],
    "filter=clip_score_threshold filter.threshold=-inf": ["threshold: wanted float, got -inf"],
    "filter=none plan": ["'plan' is a verb; verbs come first"],
    "plan -m filter=none,random": ["takes one run, not a sweep"],
    "-m filter=none,random rebuild=pool": ["rebuild first"],
    "~tasks.digits": ["no tasks"],
    "filter=clip_score filter.arch=l41": ["arch: wanted 'l14' | 'b32', got 'l41'"],
    "filter=uids": ["filter.path has no value yet; give one: filter.path=…"],
    "filter=uids filter.path=nowhere.npy": ["nowhere.npy"],
    "until=result": ["until: wanted", "'results'", "got 'result'"],
    "rebuild=shard": ["rebuild=shard: wanted one or more of pool, subset, locations, shards"],
    "seed=first": ["seed: wanted int, got 'first'"],
    "engine.workers=-1": ["engine.workers=-1"],
    "train.max_steps=5": ["no key 'train.max_steps' here"],
    "+train.max_steps=5": ["Train", "max_steps"],
    "train.accumulate=3": ["128", "accumulate"],
    "source=commonpool": ["commonpool_tiny", "source.root="],
    "weight=2": ["there is no mixture", "+part@mixture.NAME=webdataset"],
    "+part@mixture.laion=webdataset": ["mixture.laion.source.root has no value yet"],
    "+part@mixture.laion=laion": ["Available options in 'part'", "webdataset"],
    "+part@mixture.laion=digits": ["main and laion of the mixture are the same samples"],
    "+part@mixture.main=digits mixture.main.source.seed=1": ["mixture.main", "cannot be called 'main'"],
    "+part@mixture.a=digits mixture.a.source.seed=1 mixture.a.weight=0": [
        "mixture.a.weight=0: wanted a number above 0"
    ],
    "+part@mixture.a=digits mixture.a.wieght=2": ["no key 'mixture.a.wieght' here; did you mean 'mixture.a.weight'?"],
    "+part@mixture.a=webdataset mixture.a.source.root=nowhere": ["nowhere is no such directory"],
    "filter._target_=nolab.filters.Mine": ["Error loading 'nolab.filters.Mine'"],
}


@pytest.mark.parametrize("words, wanted", MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_clear_message(words, wanted, monkeypatch, capsys, tmp_path):
    shown = dcexp(monkeypatch, capsys, words)
    assert shown.code != 0
    assert "Traceback" not in shown.err
    for text in wanted:
        assert text in shown.err
    assert not list(tmp_path.glob("outputs/store/*/*"))


MINE = """
    import dataclasses
    import numpy as np
    from dcexp.filters.base import ShardFilter

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WideImages(ShardFilter):
        '''Keeps images that are at least ``ratio`` times as wide as high.'''
        ratio: float = 1.0

        columns = ("original_width", "original_height")

        def keep(self, rows):
            width, height = (rows.table[name].to_numpy() for name in self.columns)
            return width >= self.ratio * height
"""


def test_a_filter_from_a_package_of_ones_own_needs_no_change_here(tmp_path):
    (tmp_path / "lab/mylab").mkdir(parents=True)
    (tmp_path / "lab/mylab/__init__.py").touch()
    (tmp_path / "lab/mylab/filters.py").write_text(textwrap.dedent(MINE))
    (tmp_path / "lab/conf/filter").mkdir(parents=True)
    (tmp_path / "lab/conf/filter/wide.yaml").write_text("_target_: mylab.filters.WideImages\nratio: 1.05\n")
    path = f"{REPOSITORY}:{tmp_path / 'lab'}"
    done = dcexp_process(
        "--config-dir lab/conf filter=wide until=subset source.size=600 tracker=none", tmp_path, PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("outputs/store/subset/*/manifest.json")
    assert "mylab.filters.WideImages" in manifest.read_text() and "wide_images-ratio_1.05" in str(manifest)
    direct = dcexp_process(
        "filter._target_=mylab.filters.WideImages until=subset source.size=600 tracker=none", tmp_path, PYTHONPATH=path
    )
    assert direct.returncode == 0, direct.stderr


def test_a_sweep_shares_pool_subsets_and_shards(tmp_path):
    done = dcexp_process(
        "-m filter=none,clip_score,random seed=0,1 until=shards source.size=600 tracker=none", tmp_path
    )
    assert done.returncode == 0, done.stderr
    made = {kind: len(list(tmp_path.glob(f"outputs/store/{kind}/*"))) for kind in ("pool", "subset", "shards")}
    assert made == {"pool": 1, "subset": 3, "shards": 3}
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/.hydra"))) == 6


def test_a_failing_run_of_a_sweep_fails_the_sweep_and_the_others_finish(tmp_path):
    done = dcexp_process(
        "-m filter=none,clip_score filter.fraction=0.5 until=subset source.size=600 tracker=none", tmp_path
    )
    assert done.returncode == 1 and "fraction" in done.stderr and "Traceback" not in done.stderr


def test_every_failing_run_of_a_sweep_says_why(tmp_path):
    done = dcexp_process("-m filter=clip_score filter.fraction=2,3 until=subset source.size=600 tracker=none", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    for fraction in (2, 3):
        assert f"failed: filter.fraction={fraction}: wanted more than 0 and at most 1" in done.stdout + done.stderr


MIXTURE = (
    "filter=clip_score source.size=900 tracker=none until=shards engine.workers=1 reshard.shard_size=100 weight=0.5 "
    "+part@mixture.other=digits mixture.other.source.size=500 mixture.other.source.seed=1 mixture.other.weight=3 "
    "reshard@mixture.other.reshard=index mixture.other.reshard.shard_size=200 "
    "+part@mixture.mine=webdataset mixture.mine.source.root=mine filter@mixture.mine.filter=random "
    "mixture.mine.filter.fraction=0.5"
)


def test_a_mixture_of_three_sources_is_made_shown_used_again_and_verified(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    assert (
        dcexp(monkeypatch, capsys, "until=pool source.size=300 source.seed=2 tracker=none engine.workers=1").code == 0
    )
    (pool,) = tmp_path.glob("outputs/store/pool/*/shards")
    shutil.copytree(pool, tmp_path / "mine")
    made = dcexp(monkeypatch, capsys, MIXTURE)
    assert made.code == 0, made.err
    (mixture,) = (Shards(path) for path in tmp_path.glob("outputs/store/shards/mixture-*"))
    mixture.check()
    parts = mixture.summary["parts"]
    assert list(parts) == ["main", "mine", "other"]
    assert [parts[name]["weight"] for name in parts] == [0.5, 1, 3]
    assert mixture.samples == sum(part["samples"] for part in parts.values()) == mixture.summary["counts"]["kept"]
    assert len(list(tmp_path.glob("outputs/store/shards/*/"))) == 4 and all(Path(p).is_file() for p in mixture.places)
    shown = dcexp(monkeypatch, capsys, f"plan {MIXTURE}")
    assert "make" not in shown.out and f"{parts['other']['share']:.1%} from other" in shown.out
    assert "nothing to make" in dcexp(monkeypatch, capsys, MIXTURE).err
    whole = dcexp(monkeypatch, capsys, f"verify {MIXTURE}")
    assert whole.code == 0 and "fault" not in whole.out
    shutil.rmtree(Path(mixture.places[0]).parent)
    broken = dcexp(monkeypatch, capsys, f"verify {MIXTURE}")
    assert broken.code == 1 and "its shards of main are not there any more" in broken.out
    assert dcexp(monkeypatch, capsys, f"{MIXTURE} rebuild=shards").code == 0
    assert dcexp(monkeypatch, capsys, f"verify {MIXTURE}").code == 0


def test_the_whole_traceback_is_in_the_log_of_the_run(monkeypatch, capsys, tmp_path):
    dcexp(monkeypatch, capsys, "source=commonpool tasks=digits")
    (log,) = tmp_path.glob("outputs/runs/*/*/dcexp.log")
    assert "Traceback" in log.read_text() and "in check_all" in log.read_text()


def test_a_config_dir_with_an_equals_sign_in_its_path(monkeypatch, capsys, tmp_path):
    (tmp_path / "lr=1/filter").mkdir(parents=True)
    (tmp_path / "lr=1/filter/all.yaml").write_text("_target_: dcexp.filters.none.NoFilter\n")
    assert dcexp(monkeypatch, capsys, f"plan --config-dir '{tmp_path}/lr=1' filter=all").code == 0
