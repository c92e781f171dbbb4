"""The optimizer step of the recipe, as open_clip executes it (``train_one_epoch``): equal to it to the bit."""

import math
from typing import Any, TypedDict

import open_clip
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from dcexp.scale import Scale
from dcexp.training.batch import Batch
from dcexp.training.images import Normalize
from dcexp.training.optimizer import adamw
from dcexp.training.precision import autocast
from dcexp.training.schedule import learning_rate

MAX_LOGIT_SCALE = math.log(100)  # CLIP paper, section 2.5


class StepResult(TypedDict):
    """What one optimizer step says: this rank's loss, exp(logit_scale) before the update, the learning rate."""

    loss: Tensor
    scale: Tensor
    lr: float


class ClipTraining(LightningModule):
    """CLIP under the recipe of ``scale``, by manual optimization.

    ``accumulate`` micro-batches make one optimizer step. Their features are computed without gradients first, so
    each is contrasted with the whole batch (gradient caching); the losses are not divided, as in open_clip, which
    gives ``logit_scale`` its gradient that many times. ``step`` steps are done, which left ``optimizer_state``.
    """

    def __init__(
        self,
        clip: nn.Module,
        loss: open_clip.ClipLoss,
        scaler: torch.amp.GradScaler,
        normalize: Normalize,
        *,
        scale: Scale,
        precision: str,
        accumulate: int,
        step: int = 0,
        optimizer_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.clip, self.contrast, self.scaler, self.normalize = clip, loss, scaler, normalize
        self.scale, self.precision, self.accumulate = scale, precision, accumulate
        self.input_dtype = open_clip.get_input_dtype(precision)
        self.step = step
        self._optimizer_state = optimizer_state
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.AdamW:
        """AdamW, with its state if training goes on."""
        optimizer = adamw(self.clip, self.scale.recipe)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None  # which may be gigabytes
        return optimizer

    def training_step(self, batch: Batch, _: int) -> StepResult | None:
        """Collect a micro-batch; with the last of a step, take the step and say what came of it."""
        self._pairs.append((batch.images, batch.texts))
        if len(self._pairs) < self.accumulate:
            return None
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        lr = learning_rate(self.scale.recipe, self.step, self.scale.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss, scale = self._backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
        self._pairs.clear()
        self.step += 1
        return {"loss": loss, "scale": scale, "lr": lr}

    def _backward(self) -> tuple[Tensor, Tensor]:
        """Add up the gradients of the whole batch; the last micro-batch's loss and exp(logit_scale)."""
        cached = self._features_without_gradient() if self.accumulate > 1 else []
        for index, (images, texts) in enumerate(self._pairs):
            with autocast(self.precision, self.device.type):
                fresh = self.clip(self._pixels(images), texts)
                loss = self.contrast(
                    image_features=_joined("image_features", cached, index, fresh),
                    text_features=_joined("text_features", cached, index, fresh),
                    logit_scale=fresh["logit_scale"],
                )
            self.manual_backward(self.scaler.scale(loss))
        return loss.detach(), fresh["logit_scale"].detach()

    def _features_without_gradient(self) -> list[dict[str, Tensor]]:
        with torch.no_grad(), autocast(self.precision, self.device.type):
            return [self.clip(self._pixels(images), texts) for images, texts in self._pairs]

    def _pixels(self, images: Tensor) -> Tensor:
        pixels: Tensor = self.normalize(images)
        return pixels.to(self.input_dtype)


def _joined(name: str, cached: list[dict[str, Tensor]], index: int, fresh: dict[str, Tensor]) -> Tensor:
    """The features [batch, dim] of all micro-batches, those of number ``index`` with their gradient."""
    if not cached:
        return fresh[name]
    return torch.cat([fresh[name] if i == index else features[name] for i, features in enumerate(cached)])
