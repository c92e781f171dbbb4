"""Splitting a batch as far as the memory of the devices asks for."""

import json
import os

import pytest
import torch
from torch.nn.functional import normalize

from dcexp.engines.local import Local
from dcexp.scale import PUBLISHED, locked
from dcexp.training import memory
from dcexp.training.memory import Among, smallest_accumulation
from dcexp.training.train import Train, divisors
from tests.training.small import MicroLocal, micro_scale, samples, write_shards

TINY = locked(name="tiny", **PUBLISHED["tiny"])


@pytest.mark.parametrize("others", [0, 5])
def test_the_stand_in_for_the_loss_is_the_loss_of_a_rank(others):
    import open_clip

    features = [normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), dim=1) for n in range(2)]
    scale = torch.tensor(3.0)
    loss = Among(others)(image_features=features[0], text_features=features[1], logit_scale=scale)
    # Features of zeros add exp(0) to each row's sum, for each of the others.
    logits = scale * features[0] @ features[1].T
    rows, columns = ((m.exp().sum(1) + others).log() - m.diag() for m in (logits, logits.T))
    torch.testing.assert_close(loss, (rows.mean() + columns.mean()) / 2)
    if not others:
        torch.testing.assert_close(loss, open_clip.ClipLoss()(*features, scale))


def pretend(free: int):
    """A machine with so many bytes free."""

    class Memory:
        available = free

    return lambda: Memory


def answers(free: int, numbers: list[int], monkeypatch, tmp_path) -> int:
    monkeypatch.setattr(memory.psutil, "virtual_memory", pretend(free))
    fits = memory._fits_cpu(TINY, "fp32", ranks=1, here=1)
    return next((n for n in numbers if fits(n)), 0)


@pytest.mark.slow
def test_less_memory_means_more_micro_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "TRIALS", (64, 256))
    numbers = divisors(128)
    found = [answers(free, numbers, monkeypatch, tmp_path) for free in (10**12, 1)]
    assert found == [1, 0]


@pytest.mark.slow
@pytest.mark.long
def test_it_is_found_out_in_a_process_of_its_own_and_on_every_rank(tmp_path):
    before = dict(os.environ)
    assert smallest_accumulation(Local(devices=2), TINY, "fp32", divisors(64), tmp_path) == 1
    assert list(tmp_path.iterdir()) == [] and dict(os.environ) == before


def test_none_that_fits_is_an_error(monkeypatch, tmp_path):
    def gang(self, fn, scale, precision, numbers, folder):
        (folder / "accumulate_0.tmp").write_text("0")

    monkeypatch.setattr(Local, "gang", gang)
    with pytest.raises(ValueError, match="not even one sample of ViT-tiny-8 at a time fits the memory of device 0"):
        smallest_accumulation(Local(), TINY, "fp32", [1, 2], tmp_path)


def test_a_training_goes_on_with_the_number_it_began_with(monkeypatch, tmp_path):
    asked = []

    def found(*_):
        asked.append(True)
        return 3

    monkeypatch.setattr(memory, "smallest_accumulation", found)
    shards = write_shards(tmp_path / "shards", samples(30))
    train = Train(precision="fp32", checkpoints=1, workers=1, accumulate="auto")
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        summary = train.run(out, MicroLocal(), shards=shards, scale=micro_scale(), seed=0)
        assert summary.facts["accumulate"] == 3
    assert len(asked) == 1 and json.loads((out / "accumulation.json").read_text()) == {"accumulate": 3}


def test_a_batch_that_does_not_divide_by_the_devices_is_refused_with_auto_too():
    with pytest.raises(ValueError, match=r"set engine\.devices to a divisor"):
        Train(accumulate="auto").check(Local(devices=3), scale=TINY, seed=0)
