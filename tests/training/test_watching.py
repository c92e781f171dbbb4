"""What one sees of a training while it runs: the curve under open_clip's names, and complaints to act upon."""

import json
import logging
import math
from itertools import pairwise

import pytest
import torch

from dcexp.artifacts.files import whole_file
from dcexp.engines.local import Local
from dcexp.training import curve as curves
from dcexp.training.intervals import Intervals
from dcexp.training.progress import StepProgress
from dcexp.training.train import Train
from tests.training.small import micro_scale, samples, write_shards

TRAIN = Train(precision="fp32", checkpoints=2, workers=1, log_every=5)
NAMES = [
    "step", "train/loss", "train/contrastive_loss", "train/scale", "train/lr", "train/data_time", "train/batch_time",
    "train/samples_per_second", "train/samples_per_second_per_gpu", "samples_seen", "corrupt", "seconds",
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("watching") / "shards", samples(60))


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    TRAIN.run(out, Local(), shards=shards, scale=micro_scale(), seed=1)
    return out


def test_a_line_has_open_clips_names_and_numbers_that_fit_together(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [0, 5, 9, 10, 15, 19]
    for line in lines:
        assert list(line) == NAMES
        assert line["train/loss"] == line["train/contrastive_loss"]
        assert 0 <= line["train/data_time"] <= line["train/batch_time"]
        assert line["train/samples_per_second"] == pytest.approx(12 / line["train/batch_time"], rel=1e-2)
    spent = sum((b["step"] - a["step"]) * b["train/batch_time"] for a, b in pairwise(lines))
    assert lines[-1]["seconds"] == pytest.approx(lines[0]["train/batch_time"] + spent, abs=0.02)


def test_a_loss_that_is_lost_stops_with_the_shards_of_its_batch(shards, trained, tmp_path):
    """Weights that are not finite stand in for a divergence, which the recipe does not give us."""
    state = torch.load(trained / "epoch_1.pt", weights_only=True)["state_dict"]
    state["visual.proj"][0, 0] = math.nan
    latest = torch.load(trained / "epoch_latest.pt", weights_only=True)
    latest |= {"state_dict": state, "data": [[]], "recipe": latest["recipe"] | {"step": 10}}
    with whole_file(tmp_path / "epoch_latest.pt") as file:
        torch.save(latest, file)
    before = (tmp_path / "epoch_latest.pt").read_bytes()
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 10, learning rate \S+\. Its batch came from .*00000000.tar"
    ):
        TRAIN.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)
    assert (tmp_path / "epoch_latest.pt").read_bytes() == before


class Slow(Intervals):
    """A loader that lets the training wait."""

    def __iter__(self):
        for batch in super().__iter__():
            self.wait.seconds += self.pretended
            yield batch

    pretended = 1e6


@pytest.mark.parametrize(("pretended", "warned"), [(1e6, 1), (0.0, 0)])
def test_a_device_that_waits_for_data_is_told_of_once(shards, tmp_path, monkeypatch, caplog, pretended, warned):
    monkeypatch.setattr("dcexp.training.fit.Intervals", Slow)
    monkeypatch.setattr(Slow, "pretended", pretended)
    monkeypatch.setattr(curves, "WATCHED", 0.0)
    monkeypatch.setattr(curves, "SLOW", 0.9)  # this machine may really be slow
    with caplog.at_level(logging.WARNING):
        TRAIN.run(tmp_path, Local(), shards=shards, scale=micro_scale(), seed=1)
    told = [r.getMessage() for r in caplog.records if "waiting for data" in r.getMessage()]
    assert len(told) == warned and all("train.workers" in text for text in told)


def test_progress_shows_rate_scale_and_wait(caplog):
    with caplog.at_level(logging.INFO), StepProgress(100, 0, shown=True) as progress:
        progress.show(7, 1.5, 2e-3, 14.3, 1234.0, 0.25)
    assert "step 7 of 100  loss 1.500  lr 2.00e-03  scale 14.3  1,234 samples/s  data wait 25%" in caplog.text
