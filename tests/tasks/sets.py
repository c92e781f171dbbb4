"""Small evaluation sets and a checkpoint, made from nothing, for the tests of tasks."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from dcexp.artifacts.base import REQUIRED, Artifact, Counts, Summary
from dcexp.artifacts.checkpoint import Checkpoint
from dcexp.artifacts.files import write_json
from dcexp.engines.base import Engine
from dcexp.stage import Stage

MODEL = "ViT-tiny-8"
CLASSES = ("cat", "dog", "a very long name of a bird", "fish", "Tree", "car & van", "boat")
TEMPLATES = ("a photo of a {c}.", "{c} in the wild", "there is a {c} and nothing else")

Files = Mapping[str, bytes]  # of one sample: content by extension


def write_tar(path: Path, samples: Sequence[Files], start: int = 0) -> None:
    """A tar as webdataset writes it: s0000000.cls, s0000000.jpg …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, files in enumerate(samples, start=start):
            for extension, content in files.items():
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_set(
    root: Path,
    shards: Sequence[Sequence[Files]],
    classes: Sequence[str] = CLASSES,
    templates: Sequence[str] = TEMPLATES,
) -> Path:
    """A whole evaluation set in upstream's layout."""
    start = 0
    for i, samples in enumerate(shards):
        write_tar(root / "test" / f"{i}.tar", samples, start)
        start += len(samples)
    (root / "test" / "nshards.txt").write_text(f"{len(shards)}\n")
    (root / "classnames.txt").write_text("\n".join(classes) + "\n\n")
    (root / "zeroshot_classification_templates.txt").write_text("\n \n".join(templates) + "\n")
    return root


def picture(rng: np.random.Generator, mode: str) -> Image.Image:
    """Blocks of random colour of a random size and shape; every mode that test sets hold."""
    blocks = rng.integers(0, 256, (5, 4, 4 if mode in ("RGBA", "CMYK") else 3), dtype=np.uint8)
    size = int(rng.integers(24, 90)), int(rng.integers(24, 90))
    if mode in ("RGBA", "CMYK"):
        return Image.fromarray(blocks, mode).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR).convert(mode)


def encoded(image: Image.Image, extension: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension])
    return buffer.getvalue()


KINDS = (("RGB", "jpg"), ("RGBA", "png"), ("L", "png"), ("P", "png"), ("CMYK", "jpeg"), ("RGB", "webp"), ("1", "png"))


def samples(n: int, classes: int = len(CLASSES), seed: int = 0) -> list[Files]:
    """``n`` pictures of all kinds with random labels; in half of them the label stands before the image."""
    rng = np.random.default_rng(seed)
    made: list[Files] = []
    for i in range(n):
        mode, extension = KINDS[i % len(KINDS)]
        image = (extension, encoded(picture(rng, mode), extension))
        label = ("cls", str(int(rng.integers(classes))).encode())
        made.append(dict([label, image] if i % 2 else [image, label]))
    return made


@dataclass(frozen=True, kw_only=True)
class Untrained(Stage):
    """Makes a checkpoint of the tiny model with such random weights that its answers differ between images."""

    makes: ClassVar[type[Artifact]] = Checkpoint
    spread: float = 0.05

    def run(self, out: Path, engine: Engine, **values: Any) -> Summary:
        import torch

        from dcexp.model import build_model

        model, _ = build_model(MODEL, "fp32", seed=values["seed"])
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if name.endswith(("class_embedding", "positional_embedding", "bias")):
                    weights.zero_()  # else they drown the image
                elif "ln_" not in name:
                    weights.normal_(0, self.spread)
        torch.save({"state_dict": model.state_dict()}, out / "epoch_latest.pt")
        return Summary(counts=Counts(total=0, kept=0))


def checkpoint(folder: Path, seed: int = 0) -> Checkpoint:
    """An :class:`Untrained` checkpoint outside any store."""
    folder.mkdir(parents=True)
    Untrained().run(folder, None, seed=seed)  # type: ignore[arg-type]
    lineage = {"values": {"scale": {"name": "tiny", "recipe": {"model": MODEL}}}}
    whole = dict.fromkeys(REQUIRED, "")
    write_json(folder / "manifest.json", {**whole, "digest": f"{folder}", "lineage": lineage})
    return Checkpoint(folder)


def line_of(folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return line
