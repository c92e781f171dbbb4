"""The stage from end to end on a scale of 20 steps: its files, its counts, its refusals, and going on after a kill."""

import json
from pathlib import Path

import open_clip
import pytest
import torch

from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.engines.local import Local
from dcexp.model import load_model
from dcexp.scale import PUBLISHED, locked
from dcexp.stage import Step
from dcexp.training.precision import require_hardware
from dcexp.training.train import Train
from tests.training.small import micro_scale, samples, write_shards

SMALL = locked(name="small", **PUBLISHED["small"])
TRAIN = Train(precision="fp32", checkpoints=3, workers=2, log_every=4)
FILES = ["epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "epoch_latest.pt", "metrics.jsonl"]
TIMES = (
    "seconds",
    "train/data_time",
    "train/batch_time",
    "train/samples_per_second",
    "train/samples_per_second_per_gpu",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pool = samples(90)
    pool[7]["jpg"] = b"no picture"
    return write_shards(tmp_path_factory.mktemp("train") / "shards", pool)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, TRAIN.run(out, Local(), shards=shards, scale=micro_scale(), seed=1)


def curve(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def test_files_and_summary(trained):
    out, summary = trained
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert summary.counts.add_up and summary.counts.kept == 240 and summary.counts.corrupt > 0
    assert summary.facts["steps"] == 20 and summary.facts["passes"] == pytest.approx(240 / 90, abs=1e-3)
    assert summary.facts["recipe"] == micro_scale().digest
    json.dumps(summary.as_dict(), allow_nan=False)


def test_curve_has_the_first_and_last_step_of_every_interval(trained):
    lines = curve(trained[0])
    assert [line["step"] for line in lines] == [0, 4, 6, 7, 11, 12, 13, 17, 19]
    assert lines[0]["train/scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert lines[0]["train/lr"] == 1e-4 / 4
    assert lines[-1]["samples_seen"] == 240
    assert lines[-1]["corrupt"] == trained[1].counts.corrupt


def test_checkpoint_is_open_clip_s(trained, shards):
    checkpoint = Checkpoint(trained[0])
    content = torch.load(checkpoint.weights, weights_only=True)
    assert list(content) == ["epoch", "name", "state_dict", "optimizer", "recipe"]
    assert (content["epoch"], content["name"], content["recipe"]["step"]) == (3, "micro", 20)
    assert content["recipe"]["digest"] == micro_scale().digest
    load_model(checkpoint.weights, "ViT-tiny-8")
    clip, _, _ = open_clip.create_model_and_transforms("ViT-tiny-8", pretrained=str(checkpoint.weights))
    last = torch.load(trained[0] / "epoch_3.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, last[name]) for name, value in clip.state_dict().items())


def test_run_again_changes_nothing(trained, shards):
    out, summary = trained
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert TRAIN.run(out, Local(), shards=shards, scale=micro_scale(), seed=1) == summary
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_shards_without_a_usable_sample_are_refused(tmp_path):
    shards = write_shards(tmp_path / "shards", [{"jpg": b"no picture", "txt": b"a"}] * 5)
    with pytest.raises(ValueError, match=r"nothing to train on: .* samples in a row could not be decoded"):
        TRAIN.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)


def test_shards_without_samples_are_refused(tmp_path):
    shards = write_shards(tmp_path / "shards", [])
    with pytest.raises(ValueError, match="holds no samples"):
        TRAIN.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({"accumulate": 3}, 1, r"4096 samples .* train.accumulate=3; set train.accumulate to one of 1, 2, 4, 8$"),
        ({}, 3, r"engine.devices=3 .* set engine.devices to a divisor: 1, 2, 4, 8$"),
        ({"workers": 0}, 1, "train.workers=0: wanted 1 or more"),
        ({"accumulate": 0}, 1, "train.accumulate=0: wanted 1 or more"),
        ({"checkpoints": 0}, 1, "train.checkpoints=0: wanted 1 or more"),
        ({"checkpoints": 3126}, 1, "scale small has 3125 steps"),
        ({"log_every": 0}, 1, "train.log_every=0: wanted 1 or more"),
    ],
)
def test_refusals_before_any_work(fields, devices, message):
    train = Train(**{"precision": "fp32", **fields})
    with pytest.raises(ValueError, match=message):
        train.check(Local(devices=devices), scale=SMALL, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_numpy_cannot_take_are_refused(seed):
    with pytest.raises(ValueError, match="seed="):
        TRAIN.check(Local(), scale=SMALL, seed=seed)


def test_types_are_checked():
    with pytest.raises(ValueError, match=r"Train.precision: wanted 'fp32'"):
        Train(precision="float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is meant")
@pytest.mark.parametrize("precision", ["amp", "fp16"])
def test_half_precision_needs_cuda(precision):
    with pytest.raises(ValueError, match=r"set train.precision=fp32 .* or train.precision=amp_bf16"):
        require_hardware(precision)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is meant")
def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"engine.devices=1024, but there are \d+ CPU cores"):
        Train(precision="fp32").check_machine(Local(devices=1024), scale=SMALL, seed=0)


def test_identity(shards):
    source = Step(TRAIN, {})  # any step will do
    keys = {
        Train(**fields).step(source, SMALL, 0).key
        for fields in ({}, {"workers": 2}, {"accumulate": 2}, {"precision": "fp32"}, {"checkpoints": 8})
    }
    assert len(keys) == 5
    assert Train(log_every=7).step(source, SMALL, 0).key in keys
    assert Train().cost(scale=SMALL, seed=0) == (
        "3,125 steps x 4,096 = 12,800,000 samples; 5 checkpoints, one per 2,560,000 samples; "
        "about 3.8 hours of one A100"
    )
