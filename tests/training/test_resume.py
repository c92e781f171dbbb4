"""A training that is interrupted, at whatever step and by whatever, ends as if it had not been."""

import json
import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from dcexp.artifacts.shards import Shards
from dcexp.engines.local import Local
from dcexp.training.train import Train
from tests.training.small import MicroLocal, micro_scale, samples, write_shards

pytestmark = pytest.mark.slow
SERVER = get_context("forkserver")  # which imports torch once
SERVER.set_forkserver_preload(["dcexp.training.fit", "tests.training.small"])
FILES = ("epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "epoch_latest.pt")
ALONE = Train(precision="fp32", checkpoints=3, workers=2, log_every=1, accumulate=2)
TOGETHER = Train(precision="fp32", checkpoints=3, workers=1, log_every=1, accumulate=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pool = samples(90)
    pool[7]["jpg"] = b"no picture"
    del pool[60]["txt"]
    return write_shards(tmp_path_factory.mktemp("resume") / "shards", pool)


def steps_in(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def train_and_be_told(train: Train, out: Path, shards: Path, devices: int, number: signal.Signals, after: int) -> None:
    """Train; this process gets a signal when ``after`` steps are in the curve."""

    def watch() -> None:
        while steps_in(out) < after:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
    train.run(out, MicroLocal(devices=devices), shards=Shards(shards), scale=micro_scale(), seed=1)


def interrupted(train: Train, out: Path, shards: Shards, number: signal.Signals, after: int, devices: int = 1) -> int:
    """The exit code of a training that was told to end."""
    args = (train, out, shards.path, devices, number, after)
    process = SERVER.Process(target=train_and_be_told, args=args)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def curve(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "second" not in k} for line in lines]


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """What becomes of a training that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole")
    return out, ALONE.run(out, Local(), shards=shards, scale=micro_scale(), seed=1)


@pytest.fixture(scope="module")
def whole_of_two(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole_of_two")
    return out, TOGETHER.run(out, MicroLocal(devices=2), shards=shards, scale=micro_scale(), seed=1)


def assert_same(out: Path, whole: Path) -> None:
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert curve(out) == curve(whole)
    assert [line["step"] for line in curve(out)] == list(range(20))


def saved_step(out: Path) -> int:
    return torch.load(out / "epoch_latest.pt", weights_only=True)["recipe"]["step"]


@pytest.mark.parametrize(
    ("number", "code", "after"),
    [(signal.SIGTERM, 128 + 15, 3), (signal.SIGUSR1, 128 + 10, 9), (signal.SIGINT, 1, 17)],
)
def test_a_signal_saves_the_step_it_comes_in_and_the_same_call_goes_on(shards, whole, tmp_path, number, code, after):
    assert interrupted(ALONE, tmp_path, shards, number, after) == code
    assert after <= saved_step(tmp_path) <= after + 2
    summary = ALONE.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)
    assert_same(tmp_path, whole[0])
    assert summary.counts == whole[1].counts


def test_interrupted_again_and_again_and_killed_between(shards, whole, tmp_path):
    saved = []
    for number, after in (("SIGTERM", 1), ("SIGKILL", 5), ("SIGUSR1", 8), ("SIGTERM", 12), ("SIGKILL", 18)):
        interrupted(ALONE, tmp_path, shards, signal.Signals[number], after)
        saved.append(saved_step(tmp_path))
    assert saved == sorted(saved) and 1 <= saved[0] < 4 and 12 <= saved[-1] < 20
    summary = ALONE.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)
    assert_same(tmp_path, whole[0])
    assert summary.counts == whole[1].counts


@pytest.mark.parametrize("after", [10])
def test_two_ranks_stop_after_the_same_step_and_go_on(shards, whole_of_two, tmp_path, after):
    assert interrupted(TOGETHER, tmp_path, shards, signal.SIGTERM, after, devices=2) == 128 + 15
    assert after <= saved_step(tmp_path) <= after + 2
    summary = TOGETHER.run(tmp_path, MicroLocal(devices=2), shards=shards, scale=micro_scale(), seed=1)
    assert_same(tmp_path, whole_of_two[0])
    assert summary.counts == whole_of_two[1].counts


def test_a_shard_that_was_shortened_meanwhile_is_named(tmp_path):
    shards = write_shards(tmp_path / "shards", samples(30))
    out = tmp_path / "out"
    out.mkdir()
    interrupted(ALONE, out, shards, signal.SIGTERM, 2)
    (place,) = shards.places
    whole = Path(place).read_bytes()
    Path(place).write_bytes(whole[: len(whole) // 3 // 512 * 512] + bytes(len(whole) - len(whole) // 3 // 512 * 512))
    with pytest.raises(ValueError, match=r"00000000.tar: sample \d+, read before training was interrupted, cannot be"):
        ALONE.run(out, Local(), shards=shards, scale=micro_scale(), seed=1)


def train_on_nothing(shards: Path, out: Path) -> None:
    ALONE.run(out, Local(), shards=Shards(shards), scale=micro_scale(), seed=1)


def test_a_training_that_fails_ends(tmp_path):
    """The loader's workers leave the end to their process, which waits for them when it ends."""
    shards = write_shards(tmp_path / "shards", [{"jpg": b"no picture", "txt": b"a"}] * 5)
    process = SERVER.Process(target=train_on_nothing, args=(shards.path, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == 1
