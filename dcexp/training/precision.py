"""Precision: what autocast and the gradient scaler do for each of open_clip's words, and what hardware it needs."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "amp", "amp_bf16", "bf16", "fp16"]
NEED_CUDA = ("amp", "fp16")


def require_hardware(precision: str, devices: int = 1) -> None:
    """Raise ValueError when this machine lacks what ``precision`` or that many ``devices`` need."""
    if precision not in NEED_CUDA and devices == 1:
        return
    import os

    import torch

    cuda = torch.cuda.is_available()
    if precision in NEED_CUDA and not cuda:
        raise ValueError(
            f"train.precision={precision} needs a CUDA device, and there is none: set train.precision=fp32 "
            "(exact) or train.precision=amp_bf16"
        )
    there = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if devices > there:
        raise ValueError(f"engine.devices={devices}, but there are {there} {'CUDA devices' if cuda else 'CPU cores'}")


def autocast(precision: str, device_type: str) -> "torch.autocast":
    """The context of forward and loss: fp16 for amp, bfloat16 for amp_bf16, nothing for the others."""
    import torch

    dtype = torch.float16 if precision == "amp" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=precision in ("amp", "amp_bf16"))


def grad_scaler(precision: str, device_type: str) -> "torch.amp.GradScaler":
    """Torch's scaler with its defaults for amp; for every other precision one that does nothing."""
    import torch

    return torch.amp.GradScaler(device_type, enabled=precision == "amp")
