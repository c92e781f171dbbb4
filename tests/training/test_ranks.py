"""Two ranks against one process on the concatenated batch."""

import os
from pathlib import Path

import pytest
import torch

from dcexp.engines.local import Local
from dcexp.training.batch import Batch
from tests.training.loop import assert_close_weights, random_batches, train
from tests.training.small import micro_scale


def whole_batches() -> list[Batch]:
    return random_batches(count=8, size=12, seed=3)


def train_one_rank(out: Path, accumulate: int) -> None:
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), 12 // 2 // accumulate
    places = [slice(start, start + size) for start in range(rank * 6, rank * 6 + 6, size)]
    batches = [Batch(b.images[place], b.texts[place]) for b in whole_batches() for place in places]
    steps, weights = train(
        micro_scale(),
        [batches[: 4 * accumulate], batches[4 * accumulate :]],
        precision="fp32",
        accumulate=accumulate,
        rank=rank,
        ranks=2,
    )
    torch.save({"losses": torch.stack([s["loss"] for s in steps]), "weights": weights}, out / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_are_one_process(tmp_path, accumulate):
    Local(devices=2).gang(train_one_rank, tmp_path, accumulate)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    batches = whole_batches()
    steps, weights = train(micro_scale(), [batches[:4], batches[4:]], precision="fp32", accumulate=1)
    losses = torch.stack([s["loss"] for s in steps])
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, losses, rtol=5e-7, atol=0)
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert_close_weights(weights, first["weights"])
