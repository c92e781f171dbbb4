"""dcexp's training module, run on given batches."""

from collections.abc import Iterator
from typing import Any

import open_clip
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.model import build_model
from dcexp.scale import Scale
from dcexp.training.batch import Batch
from dcexp.training.images import halves
from dcexp.training.module import ClipTraining
from dcexp.training.precision import grad_scaler
from dcexp.training.trainer import quiet_lightning, trainer


class Recorder(Callback):
    """Keeps what every optimizer step says."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if outputs:
            self.steps.append(outputs)


class Epochs:
    """Gives the batches of one epoch after the other."""

    def __init__(self, epochs: list[list[Batch]], module: ClipTraining) -> None:
        self.ends = [sum(map(len, epochs[: i + 1])) // module.accumulate for i in range(len(epochs))]
        self.epochs, self.module = epochs, module

    def __iter__(self) -> Iterator[Batch]:
        yield from self.epochs[sum(end <= self.module.step for end in self.ends)]


def train(
    scale: Scale, epochs: list[list[Batch]], *, precision: str, accumulate: int, rank: int = 0, ranks: int = 1
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """What every optimizer step says, and the final weights."""
    clip, transform = build_model(scale.recipe.model, precision, 0)
    clip.set_grad_checkpointing()
    loss = open_clip.ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True, rank=rank, world_size=ranks)
    scaler = grad_scaler(precision, "cuda" if torch.cuda.is_available() else "cpu")
    normalize = halves(transform)[1]
    module = ClipTraining(clip, loss, scaler, normalize, scale=scale, precision=precision, accumulate=accumulate)
    recorder = Recorder()
    with quiet_lightning():
        trainer(ranks, len(epochs), [recorder]).fit(module, Epochs(epochs, module))
    return recorder.steps, clip.state_dict()


def random_batches(count: int, size: int, seed: int) -> list[Batch]:
    """Batches for ViT-tiny-8."""
    clip, _ = build_model("ViT-tiny-8", "fp32", 0)
    generator = torch.Generator().manual_seed(seed)
    side, length = clip.visual.image_size[0], clip.context_length
    return [
        Batch(
            torch.randint(0, 256, (size, side, side, 3), generator=generator).to(torch.uint8),
            torch.randint(1, 49407, (size, length), generator=generator),
        )
        for _ in range(count)
    ]


def assert_close_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal but for rounding. Keys' biases are left out: their gradient is zero, and Adam blows up its rounding."""
    for name, value in one.items():
        apart = (value - other[name]).abs()
        if name.endswith("in_proj_bias"):
            apart[len(apart) // 3 : 2 * len(apart) // 3] = 0
        assert apart.max() <= 3e-5, (name, apart.max())
