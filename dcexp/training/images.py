"""open_clip's image transform for training in two halves: the crop in the loader's workers, the rest on the device.

A quarter of the bytes goes through the loader's pipes and to the device: uint8 instead of float32. The outcome is the
transform's to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision import transforms

STAGES = ["RandomResizedCrop", "MaybeConvertMode", "MaybeToTensor", "Normalize"]


@dataclass(frozen=True)
class Crop:
    """The random crop of an RGB image, resized, as uint8 [height, width, 3]; drawn from torch's generator."""

    crop: Callable[[Image], Image]

    def __call__(self, image: Image) -> npt.NDArray[np.uint8]:
        return np.asarray(self.crop(image))


class Normalize(nn.Module):
    """uint8 images [n, height, width, 3] to what the model takes: float32 [n, 3, height, width]."""

    mean: Tensor
    std: Tensor
    white: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in {"mean": mean, "std": std}.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        # A tensor: CUDA multiplies by the reciprocal of a number, which rounds differently.
        self.register_buffer("white", torch.tensor(255.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.div_(self.white).sub_(self.mean).div_(self.std)


def halves(transform: Any) -> tuple[Crop, Normalize]:
    """The two halves of open_clip's ``transform`` for training."""
    stages = transform.transforms
    names = [type(stage).__name__ for stage in stages]
    assert names == STAGES, f"open_clip's transform is made of {names}; known are {STAGES}"
    crop, *_, normalize = stages
    assert isinstance(crop, transforms.RandomResizedCrop)
    return Crop(crop), Normalize(normalize.mean, normalize.std)
