"""A training that is watched is the same training, and every interval of it is evaluated once."""

import gc
import json
import logging
import os
import pickle
import random
import signal
import time
import weakref
from collections.abc import Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.artifacts.evalset import ClassSet
from dcexp.artifacts.shards import Shards
from dcexp.engines.local import Local
from dcexp.model import load_model
from dcexp.stage import Step
from dcexp.tasks import clip
from dcexp.tasks.digits import DigitsTestSet
from dcexp.tasks.zeroshot import ZeroShot
from dcexp.training.monitor import evaluate
from dcexp.training.train import Train
from tests.training.small import MicroLocal, micro_scale, samples, write_shards

TRAIN = Train(precision="fp32", checkpoints=3, workers=2, log_every=4)
ENDS = {1: 7, 2: 13, 3: 20}
WEIGHTS = ("epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "epoch_latest.pt")
TOP1 = "val/zoo-zeroshot-val-top1"


def norm(weights: Path) -> float:
    """A number that tells these weights from others, well below 1."""
    state = torch.load(weights, weights_only=True)["state_dict"]
    return float(state["visual.proj"].norm()) / 1e3


def scores(weights: Path) -> Mapping[str, float]:
    """Reads the file, builds the model, and leaves nothing as it was."""
    load_model(weights, "ViT-tiny-8")
    torch.rand(3), np.random.rand(3), random.random()
    torch.set_grad_enabled(False)
    return {"top1": norm(weights), "top5": 0.5}


def fails(weights: Path) -> Mapping[str, float]:
    torch.rand(3)
    raise RuntimeError("out of memory")


def lines(out: Path, name: str = "monitor.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def expected(out: Path) -> list[dict[str, float]]:
    return [
        {"step": end - 1, "epoch": k, TOP1: norm(out / f"epoch_{k}.pt"), TOP1.replace("top1", "top5"): 0.5}
        for k, end in ENDS.items()
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("monitor") / "shards", samples(90))


def trained(train: Train, out: Path, shards: Shards, devices: int = 1) -> Path:
    train.run(out, MicroLocal(devices=devices), shards=shards, scale=micro_scale(), seed=1)
    return out


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    return trained(TRAIN, tmp_path_factory.mktemp("alone"), shards)


def assert_same(out: Path, alone: Path) -> None:
    for name in WEIGHTS:
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    curves = [[(line["step"], line["train/loss"]) for line in lines(o, "metrics.jsonl")] for o in (out, alone)]
    assert curves[0] == curves[1]


def test_a_watched_training_is_the_same_training_and_each_interval_has_its_line(alone, shards, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = trained(TRAIN.watched({"zoo": scores}), tmp_path, shards)
    assert_same(out, alone)
    assert lines(out) == expected(out) and len({line[TOP1] for line in lines(out)}) == 3
    assert f"epoch 2: zoo top1 {norm(out / 'epoch_2.pt'):.3f}, top5 0.500" in caplog.text
    assert not (alone / "monitor.jsonl").exists()
    assert "monitor.jsonl" in Checkpoint.aside


def test_the_key_is_the_same():
    source = Step(TRAIN, {})
    watched = TRAIN.watched({"zoo": scores})
    assert watched.step(source, micro_scale(), 0).key == TRAIN.step(source, micro_scale(), 0).key
    assert watched == TRAIN and not TRAIN.watch and dict(pickle.loads(pickle.dumps(watched)).watch) == {"zoo": scores}


def test_the_config_cannot_hand_a_training_functions():
    with pytest.raises(TypeError, match="watch"):
        Train(watch={"zoo": scores})


@pytest.mark.parametrize("function", [scores, fails])
def test_random_generators_and_autograd_are_as_before(alone, tmp_path, function):
    (tmp_path / "epoch_1.pt").symlink_to(alone / "epoch_1.pt")

    def states():
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return [
            [s.tolist() for s in (torch.get_rng_state(), *cuda)],
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]

    before = states()
    evaluate(tmp_path, ENDS, {"zoo": function})
    assert states() == before and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_an_error_is_told_and_training_goes_on(alone, shards, tmp_path, caplog):
    out = trained(TRAIN.watched({"broken": fails, "zoo": scores}), tmp_path, shards)
    assert_same(out, alone)
    assert lines(out) == expected(out)
    said = [record.message for record in caplog.records if "broken" in record.message]
    assert said == [
        f"epoch {k} was not evaluated on broken, training goes on: RuntimeError('out of memory')" for k in ENDS
    ]


def test_what_is_missing_is_made_up_for_when_the_training_was_over(alone, shards, tmp_path):
    for name in (*WEIGHTS, "metrics.jsonl"):
        (tmp_path / name).write_bytes((alone / name).read_bytes())
    evaluate(tmp_path, {2: 13}, {"zoo": scores})
    (tmp_path / "epoch_1.pt").unlink()
    trained(TRAIN.watched({"zoo": scores, "other": scores}), tmp_path, shards)
    assert [(line["epoch"], "other" in str(line)) for line in lines(tmp_path)] == [
        (2, False), (2, True), (3, False), (3, True),
    ]  # fmt: skip


class Interrupted(BaseException):
    pass


def interrupted_once(note: Path, epoch: int, weights: Path) -> Mapping[str, float]:
    """The process is killed within, the first time."""
    if weights.name == f"epoch_{epoch}.pt" and not note.exists():
        note.touch()
        if os.environ.get("DCEXP_TEST_KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise Interrupted
    return scores(weights)


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_while_it_looks_and_gone_on_no_line_is_missing_and_none_there_twice(alone, shards, tmp_path, epoch):
    train = TRAIN.watched({"zoo": partial(interrupted_once, tmp_path / "note", epoch)})
    with pytest.raises(Interrupted):
        trained(train, tmp_path / "out", shards)
    out = trained(train, tmp_path / "out", shards)
    assert_same(out, alone)
    assert lines(out) == expected(out)


def train_killed(train: Train, out: Path, folder: Path) -> None:
    os.environ["DCEXP_TEST_KILL"] = "1"
    trained(train, out, Shards(folder))


@pytest.mark.slow
def test_killed_while_it_looks_and_gone_on(alone, shards, tmp_path):
    train = TRAIN.watched({"zoo": partial(interrupted_once, tmp_path / "note", 2)})
    process = get_context("spawn").Process(target=train_killed, args=(train, tmp_path / "out", shards.path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and [line["epoch"] for line in lines(tmp_path / "out")] == [1]
    out = trained(train, tmp_path / "out", shards)
    assert_same(out, alone)
    assert lines(out) == expected(out)


@pytest.mark.slow
@pytest.mark.long
def test_of_two_ranks_the_first_looks(shards, tmp_path):
    watched = trained(TRAIN.watched({"zoo": scores}), tmp_path / "watched", shards, devices=2)
    assert_same(watched, trained(TRAIN, tmp_path / "alone", shards, devices=2))
    assert lines(watched) == expected(watched)


def test_the_clock_of_the_curve_stands_still(shards, tmp_path):
    def slow(weights: Path) -> Mapping[str, float]:
        time.sleep(2)
        return {"top1": 0.5}

    out = trained(TRAIN.watched({"zoo": slow}), tmp_path, shards)
    assert all(line["train/batch_time"] < 1.5 for line in lines(out, "metrics.jsonl"))


def test_real_scores_are_those_of_the_task_and_the_model_is_freed(alone, tmp_path, monkeypatch):
    (tmp_path / "evalset").mkdir()
    DigitsTestSet().run(tmp_path / "evalset", Local())
    task = ZeroShot(key="digits", name="Digits", size=900, classes=10, data=DigitsTestSet())
    models = []

    def loaded(*args):
        model, transform = load_model(*args)
        models.append(weakref.ref(model))
        return model, transform

    monkeypatch.setattr(clip, "load_model", loaded)
    evalset = ClassSet(tmp_path / "evalset")
    watch = pickle.loads(pickle.dumps(partial(task.scores, "ViT-tiny-8", evalset, 1)))
    (tmp_path / "epoch_1.pt").symlink_to(alone / "epoch_1.pt")
    evaluate(tmp_path, {1: 7}, {"imagenet": watch})
    gc.collect()
    assert [model() for model in models] == [None]
    (line,) = lines(tmp_path)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.path.mkdir()
    checkpoint.weights.symlink_to(alone / "epoch_1.pt")
    checkpoint.manifest = {"digest": "1", "lineage": {"values": {"scale": {"recipe": {"model": "ViT-tiny-8"}}}}}
    metrics = task.measure(clip.load_clip(checkpoint, "parity"), evalset, 1)
    assert line == {
        "step": 6,
        "epoch": 1,
        "val/imagenet-zeroshot-val-top1": metrics["acc1"],
        "val/imagenet-zeroshot-val-top5": metrics["acc5"],
    }
