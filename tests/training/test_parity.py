"""The training step against open_clip's: not close, equal."""

import pytest
import torch

from dcexp.training.batch import Batch
from tests.training.loop import assert_close_weights, random_batches, train
from tests.training.reference import reference
from tests.training.small import micro_scale


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("precision", "accumulate"),
    [("fp32", 1), ("fp32", 2), ("fp32", 3), ("amp_bf16", 1), ("amp_bf16", 2), ("amp_bf16", 3), ("bf16", 1)],
)
def test_equals_open_clip_to_the_bit(precision, accumulate):
    scale = micro_scale()
    batches = random_batches(count=8 * accumulate, size=12 // accumulate, seed=accumulate)
    epochs = [batches[: 4 * accumulate], batches[4 * accumulate :]]
    losses, weights = reference(scale.recipe, epochs, precision=precision, accumulate=accumulate, steps=scale.steps)
    steps, ours = train(scale, epochs, precision=precision, accumulate=accumulate)
    assert len(steps) == 8
    assert all(torch.equal(a, b["loss"]) for a, b in zip(losses, steps, strict=True))
    assert list(ours) == list(weights)
    assert [name for name in weights if not torch.equal(weights[name], ours[name])] == []


def test_accumulation_contrasts_with_the_whole_batch():
    scale = micro_scale()
    whole = random_batches(count=6, size=12, seed=7)
    halves = [Batch(b.images[part], b.texts[part]) for b in whole for part in (slice(0, 6), slice(6, 12))]
    steps, weights = train(scale, [whole], precision="fp32", accumulate=1)
    in_two, weights_in_two = train(scale, [halves], precision="fp32", accumulate=2)
    for one, two in zip(steps, in_two, strict=True):
        torch.testing.assert_close(one["loss"], two["loss"], atol=5e-7, rtol=0)
        assert one["lr"] == two["lr"]
    assert_close_weights(weights, weights_in_two)
