"""How far a batch must be split to fit the memory of the devices: found out by trying, before the training."""

import gc
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dcexp.engines.base import Engine
from dcexp.engines.gang import die_with_parent
from dcexp.model import build_model
from dcexp.scale import Scale
from dcexp.training.batch import Batch
from dcexp.training.images import halves
from dcexp.training.module import ClipTraining
from dcexp.training.precision import grad_scaler
from dcexp.training.trainer import quiet_lightning, trainer

SPARE = 0.9  # of what is free may be used: batches on their way and fragmentation take their part
TRIALS = 4, 16  # samples of the steps on a CPU whose memory tells that of larger ones


def smallest_accumulation(engine: Engine, scale: Scale, precision: str, numbers: Sequence[int], folder: Path) -> int:
    """The first of the ascending ``numbers`` of micro-batches with which a step fits every device of ``engine``.

    On CUDA steps are tried until one fits; on a CPU their memory is told from two small ones. Raises ValueError when
    none fits. Each rank leaves its answer in ``folder`` for a moment.
    """
    engine.gang(_ask, scale, precision, tuple(numbers), folder)
    files = [folder / f"accumulate_{rank}.tmp" for rank in range(engine.devices)]
    answers = [json.loads(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    if 0 in answers:
        raise ValueError(
            f"train.accumulate=auto: not even one sample of {scale.recipe.model} at a time fits the memory of device "
            f"{answers.index(0)}. Does another process hold it?"
        )
    return max(answers)


def _ask(scale: Scale, precision: str, numbers: tuple[int, ...], folder: Path) -> None:
    """Find out for this rank, in a process of its own, whose memory is given back when it ends."""
    rank, local, ranks, here = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 0))
    )
    answer = folder / f"accumulate_{rank}.tmp"
    process = get_context("spawn").Process(
        target=_answer, args=(scale, precision, numbers, ranks, here or ranks, local, answer), daemon=True
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f"train.accumulate=auto: the trial of rank {rank} ended with code {process.exitcode}; give a number instead"
        )


def _answer(
    scale: Scale, precision: str, numbers: tuple[int, ...], ranks: int, here: int, device: int, answer: Path
) -> None:
    die_with_parent()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        os.environ.pop(name, None)  # it tries alone
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(device + 1)))).split(",")
    if device < len(visible):  # else there is none for this rank, and it trains on a CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[device]
    fits = (_fits_cuda if torch.cuda.is_available() else _fits_cpu)(scale, precision, ranks, here)
    answer.write_text(json.dumps(next((number for number in numbers if fits(number)), 0)))


def _fits_cuda(scale: Scale, precision: str, ranks: int, _: int) -> Callable[[int], bool]:
    """Whether a step in so many micro-batches fits the device: by taking it."""
    local = scale.recipe.batch_size // ranks
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(SPARE * free / total)

    def fits(accumulate: int) -> bool:
        try:
            take_steps(a_rank(scale, precision, accumulate, ranks), local // accumulate)
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    return fits


def _fits_cpu(scale: Scale, precision: str, ranks: int, here: int) -> Callable[[int], bool]:
    """The same where trying might take the machine down: by the growth of the peak over two small steps."""
    unit = 1 if sys.platform == "darwin" else 1024
    module, peaks = a_rank(scale, precision, 1, ranks=1), []
    for size in TRIALS:
        take_steps(module, size)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    per_sample = max(peaks[1] - peaks[0], 0) / (TRIALS[1] - TRIALS[0])
    free = SPARE * psutil.virtual_memory().available / here
    batch = scale.recipe.batch_size
    local = batch // ranks

    def fits(accumulate: int) -> bool:
        logits = 6 * 4 * local * batch  # two matrices, their softmaxes and gradients
        return peaks[0] + local // accumulate * per_sample + logits <= free

    return fits


def a_rank(scale: Scale, precision: str, accumulate: int, ranks: int) -> ClipTraining:
    """The training of one of ``ranks`` ranks, with all that it holds in memory, and without the others."""
    clip, transform = build_model(scale.recipe.model, precision, 0)
    clip.set_grad_checkpointing()
    loss = Among(scale.recipe.batch_size - scale.recipe.batch_size // ranks)
    scaler = grad_scaler(precision, "cuda" if torch.cuda.is_available() else "cpu")
    module = ClipTraining(
        clip, loss, scaler, halves(transform)[1], scale=scale, precision=precision, accumulate=accumulate
    )
    if ranks > 1:  # DDP keeps the gradients once more, in buckets
        module.register_buffer("buckets", torch.zeros(sum(p.numel() for p in clip.parameters())))
    return module


def take_steps(module: ClipTraining, size: int) -> None:
    """Two steps on micro-batches of ``size`` grey samples: in the second, the optimizer's state is there as well."""
    height, width = module.clip.visual.image_size  # type: ignore[union-attr, misc]
    batch = Batch(
        torch.full((size, height, width, 3), 127, dtype=torch.uint8),
        torch.ones((size, module.clip.context_length), dtype=torch.int64),  # type: ignore[arg-type]
    )
    with quiet_lightning():
        trainer(1, 1, []).fit(module, Repeated(batch, 2 * module.accumulate))
    gc.collect()  # Lightning's objects hold each other, and the optimizer's state


@dataclass(frozen=True)
class Repeated:
    """A batch, ``times`` times. Lightning would take a list for several loaders."""

    batch: Batch
    times: int

    def __iter__(self) -> Iterator[Batch]:
        return repeat(self.batch, self.times)


class Among(nn.Module):
    """The loss of a rank among ranks that give ``others`` samples: the memory of ClipLoss, without the ranks."""

    def __init__(self, others: int) -> None:
        super().__init__()
        self.others = others

    def forward(self, *, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        """See the class; features [batch, dim]."""
        labels = torch.arange(len(image_features), device=image_features.device)
        padding = image_features.new_zeros((self.others, image_features.shape[1]))
        losses = [
            cross_entropy(logit_scale * mine @ torch.cat([theirs, padding]).T, labels)
            for mine, theirs in ((image_features, text_features), (text_features, image_features))
        ]
        return sum(losses, torch.zeros_like(losses[0])) / 2
