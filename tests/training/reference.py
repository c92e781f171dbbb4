"""open_clip's own training loop, run on given batches."""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import open_clip
import torch
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from PIL import Image
from torchvision import transforms

from dcexp.model import build_model, seed_all
from dcexp.scale import Recipe
from dcexp.training.batch import Batch


class Loader:
    """Plays open_clip's loader for one epoch."""

    def __init__(self, batches: list[Batch], transform: Any) -> None:
        self.batches, self.rest = batches, transforms.Compose(transform.transforms[1:])  # all but the crop
        self.num_batches, self.num_samples = len(batches), sum(len(b.images) for b in batches)
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on it here."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.batches:
            pictures = [Image.fromarray(pixels) for pixels in batch.images.numpy()]
            yield torch.stack([self.rest(picture) for picture in pictures]), batch.texts


def reference(
    recipe: Recipe, epochs: list[list[Batch]], *, precision: str, accumulate: int, steps: int, device: str = "cpu"
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The loss of every optimizer step, and the final weights."""
    clip, transform = build_model(recipe.model, precision, 0)
    seed_all(0)
    clip.set_grad_checkpointing()
    clip.to(device)
    args = _args(recipe, precision, accumulate, len(epochs[0][0].images), device)
    loss = open_clip.create_loss(args)
    losses: list[torch.Tensor] = []
    forward = loss.forward

    def recorded(*positional: Any, **named: Any) -> Any:
        result = forward(*positional, **named)
        losses.append(result["contrastive_loss"].detach())
        return result

    loss.forward = recorded
    optimizer = _optimizer(clip, recipe)
    schedule = cosine_lr(optimizer, recipe.lr, recipe.warmup, steps)
    scaler = torch.amp.GradScaler(device) if precision == "amp" else None
    for epoch, batches in enumerate(epochs):
        data = {"train": Loader(batches, transform)}
        train_one_epoch(clip, data, loss, epoch, optimizer, scaler, schedule, None, args)
    return losses[accumulate - 1 :: accumulate], clip.state_dict()


def _optimizer(clip: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    decayed: list[torch.nn.Parameter] = []
    undecayed: list[torch.nn.Parameter] = []
    for name, parameter in clip.named_parameters():
        spared = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        (undecayed if spared else decayed).append(parameter)
    groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": recipe.weight_decay}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps)


def _args(recipe: Recipe, precision: str, accumulate: int, batch_size: int, device: str) -> Namespace:
    return Namespace(
        model=recipe.model, precision=precision, accum_freq=accumulate, batch_size=batch_size, device=device,
        distill=False, skip_scheduler=False, grad_clip_norm=None, log_every_n_steps=100, world_size=1, rank=0,
        local_rank=0, wandb=False, horovod=False, distributed=False, siglip=False, local_loss=True,
        gather_with_grad=True,
    )  # fmt: skip
