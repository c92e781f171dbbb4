"""A scale of a few steps, and shards to train it on."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dcexp.artifacts.shards import FILES, META, SIZES, Shards
from dcexp.engines.local import Local
from dcexp.scale import PUBLISHED, Scale, locked

RECIPE = {**PUBLISHED["tiny"]["recipe"], "batch_size": 12, "lr": 1e-4, "warmup": 4}
MICRO = {"competition": False, "pool_size": 120, "samples_seen": 235, "recipe": RECIPE}  # 20 steps


def micro_scale() -> Scale:
    """20 steps of 12 samples. Publishes it in this process, or it could not be constructed."""
    PUBLISHED["micro"] = MICRO
    return locked(name="micro", **MICRO)


@dataclass(frozen=True, kw_only=True)
class MicroLocal(Local):
    """Local, whose ranks know the micro scale too."""

    def gang(self, fn: Callable[..., Any], *args: Any) -> None:
        super().gang(_with_micro_scale, fn, *args)


def _with_micro_scale(fn: Callable[..., Any], *args: Any) -> None:
    micro_scale()
    fn(*args)


def write_shards(folder: Path, samples: list[dict[str, bytes]], per_shard: int = 40) -> Shards:
    """``samples`` as suffix: content, in tars of ``per_shard``."""
    folder.mkdir(parents=True)
    sizes = {}
    for shard, start in enumerate(range(0, len(samples), per_shard)):
        name = f"{shard:08d}.tar"
        sizes[name] = len(samples[start : start + per_shard])
        with tarfile.open(folder / name, "w") as tar:
            for number, sample in enumerate(samples[start : start + per_shard], start):
                for suffix, content in sample.items():
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / SIZES).write_text(json.dumps(sizes))
    (folder / META).write_text("{}")
    (folder / FILES).write_text(json.dumps({name: {"bytes": (folder / name).stat().st_size} for name in sizes}))
    return Shards(folder)


def samples(count: int, seed: int = 0) -> list[dict[str, bytes]]:
    """Random pictures with numbered captions."""
    rng = np.random.default_rng(seed)
    return [{"jpg": picture(rng), "txt": f"picture {n}".encode(), "json": b"{}"} for n in range(count)]


def picture(rng: np.random.Generator, kind: str = "JPEG") -> bytes:
    """An image file of 40 x 36 random pixels."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()
