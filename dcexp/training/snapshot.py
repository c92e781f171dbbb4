"""What is kept of a training, and how it goes on from there."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dcexp.artifacts.checkpoint import LATEST
from dcexp.artifacts.files import whole_file
from dcexp.scale import Scale
from dcexp.training.batch import Batch, Position
from dcexp.training.curve import Curve, sync
from dcexp.training.module import ClipTraining
from dcexp.training.ranks import Ranks

TENSORS = ("buffer", "shuffle", "augment")  # the fields of a Position that are arrays


@dataclass(frozen=True)
class Snapshot:
    """The content of ``epoch_latest.pt``: plain data and tensors under open_clip's names, and dcexp's ``recipe``.

    Before the last step also ``data``: for each rank and worker, where in the data it stands.
    """

    content: dict[str, Any]

    @property
    def step(self) -> int:
        """How many optimizer steps are done."""
        return int(self.content["recipe"]["step"])

    @property
    def corrupt(self) -> int:
        """How many samples were skipped."""
        return int(self.content["recipe"]["corrupt"])

    def positions(self, rank: int) -> dict[int, Position]:
        """Where the loader workers of a rank stand, by number."""
        return {
            p["worker"]: Position(**{**p, **{n: p[n].numpy() for n in TENSORS}}) for p in self.content["data"][rank]
        }


def latest(out: Path) -> Snapshot | None:
    """What an earlier attempt left in ``out``, on the CPU; None if it saved nothing."""
    path = out / LATEST
    return Snapshot(torch.load(path, map_location="cpu", weights_only=True)) if path.exists() else None


class Keeper(Callback):
    """Writes ``epoch_latest.pt`` (everything) when it is told to, and at the end of each interval ``epoch_<k>.pt`` too.

    ``positions`` are those of this rank's loader workers.
    """

    def __init__(
        self,
        out: Path,
        *,
        scale: Scale,
        seed: int,
        curve: Curve,
        ranks: Ranks,
        positions: dict[int, Position],
    ) -> None:
        self.out, self.scale, self.seed, self.curve = out, scale, seed, curve
        self.ranks, self.positions = ranks, positions

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Note where the batch's worker stands after it."""
        if batch.position is not None:
            self.positions[batch.position.worker] = batch.position

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """See the class."""
        assert isinstance(module, ClipTraining)
        self.save(module)

    def save(self, module: ClipTraining) -> None:
        """Save everything; with the last step of an interval its weights too. All ranks call it, the first writes."""
        self.curve.finite.check()
        corrupt = self.ranks.total(self.curve.corrupt)
        last = module.step == self.scale.steps
        data = {} if last else {"data": self.ranks.gathered([_plain(p) for _, p in sorted(self.positions.items())])}
        if self.ranks.rank:
            return
        finished = sum(end <= module.step for end in self.curve.ends)
        weights = {"epoch": finished, "name": self.scale.name, "state_dict": module.clip.state_dict()}
        if module.step in self.curve.ends:
            save(self.out / f"epoch_{finished}.pt", weights)
        sync(self.curve.path)
        save(self.out / LATEST, weights | self._rest(module, corrupt) | data)

    def _rest(self, module: ClipTraining, corrupt: int) -> dict[str, Any]:
        optimizer = module.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        recipe = {"scale": self.scale.name, "digest": self.scale.digest, "precision": module.precision}
        progress = {"seed": self.seed, "step": module.step, "accumulate": module.accumulate, "corrupt": corrupt}
        scaler = {"scaler": module.scaler.state_dict()} if module.scaler.is_enabled() else {}
        return {"optimizer": optimizer.state_dict(), **scaler, "recipe": recipe | progress}


def _plain(position: Position) -> dict[str, Any]:
    return {**position._asdict(), **{name: torch.from_numpy(getattr(position, name)) for name in TENSORS}}


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
