"""CLIP models by name: open_clip's own architectures, and the small ones in ``models/`` beside this file."""

import logging
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP
    from PIL.Image import Image

    Transform = Callable[[Image], torch.Tensor]
    Tokenizer = Callable[[str | list[str]], torch.Tensor]


class BrokenModelError(ValueError):
    """A checkpoint that cannot be used, whatever is asked of it."""


def build_model(name: str, precision: str, seed: int) -> "tuple[CLIP, Transform]":
    """A fresh CLIP, its weights drawn from ``seed``, and the image transform it is trained with.

    ``precision`` is open_clip's word: fp16 and bf16 hold the large matrices in that type, every other keeps
    fp32 weights. Seeds torch, numpy and random. Raises RuntimeError for a name open_clip does not know.
    """
    seed_all(seed)
    model, train, _ = _create(name, precision=precision)
    return model, train


def seed_all(seed: int) -> None:
    """Seed torch, numpy and random, from 0 to 2**32 - 1."""
    import numpy
    import torch

    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)


def load_model(checkpoint: str | Path, name: str) -> "tuple[CLIP, Transform]":
    """The trained fp32 CLIP of a checkpoint file or tag, ready to evaluate, and its image transform for evaluation.

    Raises BrokenModelError for a file with other things than tensors in it, and for weights of another architecture.
    """
    from safetensors import SafetensorError

    try:
        model, _, evaluation = _create(name, pretrained=str(checkpoint))
    except pickle.UnpicklingError as error:
        raise BrokenModelError(
            f"{checkpoint} holds other things than tensors, which could run code when they are loaded, or is no "
            f"checkpoint: {_first_line(error)}. Wanted: torch.save({{'state_dict': model.state_dict()}}, file)"
        ) from None
    except (RuntimeError, KeyError, EOFError, AssertionError, SafetensorError) as error:  # open_clip asserts widths
        raise BrokenModelError(f"{checkpoint} is not a checkpoint of {name}: {_first_line(error)}") from None
    return model.eval(), evaluation


def model_names() -> list[str]:
    """The names of all architectures: open_clip's, and our own."""
    import open_clip

    _register_own()
    names: list[str] = open_clip.list_models()
    return names


def tokenizer(name: str) -> "Tokenizer":
    """The tokenizer of a model: texts to token ids, int64 [texts, context length]."""
    import open_clip

    _register_own()
    with _quiet_root_logger():
        return open_clip.get_tokenizer(name)


def _create(name: str, **options: Any) -> tuple[Any, Any, Any]:
    import open_clip

    _register_own()
    with _quiet_root_logger():
        created: tuple[Any, Any, Any] = open_clip.create_model_and_transforms(name, output_dict=True, **options)
    return created


@cache
def _register_own() -> None:
    import open_clip

    open_clip.add_model_config(Path(__file__).with_name("models"))


def _first_line(error: Exception, words: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= words else f"{text[:words]} …"


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip speaks through the root logger; "initialized randomly" is what training wants."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
