"""Matrix products in full fp32, whatever a training in this process has set."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_fp32() -> Iterator[None]:
    """Within it no TF32 and no bfloat16 stand in for fp32 where matrices are multiplied."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
