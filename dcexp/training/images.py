"""open_clip's image transform for training in two halves: the crop in the loader's workers, the rest on the device.

A quarter of the bytes goes through the loader's pipes and to the device: uint8 instead of float32. The outcome is the
transform's to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from torchvision import transforms

from dcexp.pixels import Normalize

STAGES = ["RandomResizedCrop", "MaybeConvertMode", "MaybeToTensor", "Normalize"]


@dataclass(frozen=True)
class Crop:
    """The random crop of an RGB image, resized, as uint8 [height, width, 3]; drawn from torch's generator."""

    crop: Callable[[Image], Image]

    def __call__(self, image: Image) -> npt.NDArray[np.uint8]:
        return np.asarray(self.crop(image))


def halves(transform: Any) -> tuple[Crop, Normalize]:
    """The two halves of open_clip's ``transform`` for training."""
    stages = transform.transforms
    names = [type(stage).__name__ for stage in stages]
    assert names == STAGES, f"open_clip's transform is made of {names}; known are {STAGES}"
    crop, *_, normalize = stages
    assert isinstance(crop, transforms.RandomResizedCrop)
    return Crop(crop), Normalize(normalize.mean, normalize.std)
