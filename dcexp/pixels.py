"""The second half of open_clip's image transforms, on whole batches and on the device; the first gives uint8 crops.

A quarter of the bytes goes through pipes, caches and to the device: uint8 instead of float32. The outcome is the
transform's to the bit.
"""

import torch
from torch import Tensor, nn


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
