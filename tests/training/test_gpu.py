"""The training on a CUDA device: skipped without one."""

import pytest
import torch

from dcexp.model import build_model
from dcexp.training.images import halves
from dcexp.training.memory import smallest_accumulation
from dcexp.training.train import divisors
from tests.training.loop import random_batches, train
from tests.training.reference import reference
from tests.training.small import MicroLocal, micro_scale

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_images_are_normalised_to_the_same_bits_as_on_a_cpu():
    normalize = halves(build_model("ViT-B-32", "fp32", 0)[1])[1]
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    there = normalize.cpu()(values)
    assert torch.equal(normalize.cuda()(values.cuda()).cpu(), there)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["amp", "amp_bf16"])
def test_mixed_precision_is_open_clips(precision, accumulate):
    """T4 of the recipe: another order of the same kernels, so close and not equal."""
    scale = micro_scale()
    batches = random_batches(count=8 * accumulate, size=12 // accumulate, seed=accumulate)
    losses, _ = reference(
        scale.recipe, [batches], precision=precision, accumulate=accumulate, steps=scale.steps, device="cuda"
    )
    steps, _ = train(scale, [batches], precision=precision, accumulate=accumulate)
    ours = torch.stack([step["loss"].cpu() for step in steps])
    torch.testing.assert_close(ours, torch.stack(losses).cpu(), rtol=1e-3, atol=0)


def test_the_smallest_accumulation_is_found_by_trying(tmp_path):
    assert smallest_accumulation(MicroLocal(), micro_scale(), "amp_bf16", divisors(12), tmp_path) == 1
