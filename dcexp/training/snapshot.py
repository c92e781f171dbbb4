"""What is kept at the end of an interval, and how training goes on from it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.artifacts.checkpoint import LATEST
from dcexp.artifacts.files import whole_file
from dcexp.scale import Scale
from dcexp.training.curve import Curve, sync
from dcexp.training.module import ClipTraining


@dataclass(frozen=True)
class Snapshot:
    """The content of ``epoch_latest.pt``: plain data and tensors under open_clip's names, and dcexp's ``recipe``."""

    content: dict[str, Any]

    @property
    def intervals(self) -> int:
        """How many intervals are finished."""
        return int(self.content["epoch"])

    @property
    def step(self) -> int:
        """How many optimizer steps are done."""
        return int(self.content["recipe"]["step"])

    @property
    def corrupt(self) -> int:
        """How many samples were skipped."""
        return int(self.content["recipe"]["corrupt"])


def latest(out: Path) -> Snapshot | None:
    """What an earlier attempt left in ``out``, on the CPU; None if it finished no interval."""
    path = out / LATEST
    return Snapshot(torch.load(path, map_location="cpu", weights_only=True)) if path.exists() else None


class Keeper(Callback):
    """Writes ``epoch_<k>.pt`` (weights) and ``epoch_latest.pt`` (everything) at the end of each interval."""

    def __init__(self, out: Path, *, scale: Scale, seed: int, curve: Curve) -> None:
        self.out, self.scale, self.seed, self.curve = out, scale, seed, curve

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """See the class."""
        assert isinstance(module, ClipTraining)
        if not trainer.is_global_zero:
            return
        interval = self.curve.ends.index(module.step) + 1
        weights = {"epoch": interval, "name": self.scale.name, "state_dict": module.clip.state_dict()}
        save(self.out / f"epoch_{interval}.pt", weights)
        sync(self.curve.path)
        save(self.out / LATEST, weights | self._rest(module))

    def _rest(self, module: ClipTraining) -> dict[str, Any]:
        optimizer = module.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        recipe = {"scale": self.scale.name, "digest": self.scale.digest, "precision": module.precision}
        progress = {"seed": self.seed, "step": module.step, "corrupt": self.curve.all_corrupt}
        scaler = {"scaler": module.scaler.state_dict()} if module.scaler.is_enabled() else {}
        return {"optimizer": optimizer.state_dict(), **scaler, "recipe": recipe | progress}


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` in torch's format; equal contents give equal bytes."""
    with whole_file(path) as file:
        torch.save(_canonical(content), file)


def _canonical(value: Any) -> Any:
    """The same data built anew: pickle writes what is one object once, so the bytes tell where objects came from."""
    if isinstance(value, dict):
        return {_canonical(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_canonical(v) for v in value])
    return sys.intern(value) if isinstance(value, str) else value
