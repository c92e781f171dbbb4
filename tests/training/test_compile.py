"""torch.compile: the same training but for rounding."""

from dataclasses import replace

import pytest
import torch

from dcexp.engines.local import Local
from dcexp.training.train import Train
from tests.training.loop import assert_close_weights
from tests.training.small import micro_scale, samples, write_shards

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]  # the compiler takes minutes on two cores


def test_a_compiled_training_drifts_by_no_more_than_rounding(tmp_path):
    shards = write_shards(tmp_path / "shards", samples(60))
    plain = Train(precision="fp32", checkpoints=2, workers=1, accumulate=2, log_every=1)
    outs, losses = [], []
    for train in (plain, replace(plain, compile=True)):
        out = tmp_path / str(train.compile)
        out.mkdir()
        train.run(out, Local(), shards=shards, scale=micro_scale(), seed=1)
        outs.append(torch.load(out / "epoch_1.pt", weights_only=True)["state_dict"])
        losses.append([float(line.split('"train/loss": ')[1].split(",")[0]) for line in (out / "metrics.jsonl").open()])
    assert list(outs[0]) == list(outs[1])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=0)
    assert_close_weights(*outs)
