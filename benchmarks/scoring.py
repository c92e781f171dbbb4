"""How much of its loader's rate ``score`` keeps.

    python benchmarks/scoring.py --images 2000 --tars 2 --repeats 5

One process: ``loader`` reads generated tars, decodes, crops and tokenises; ``score`` does that, encodes with the tiny
model, and writes npz and parquet of each tar. They take turns, after one unmeasured round of both, in which the model
is loaded. Where other programs use the machine too, the share of the CPU time says more than that of the rates.

Images are JPEGs of ``--width`` pixels, a quarter less in height (CommonPool's are 512 pixels long at most); captions
have 12 words. With ``--model`` another of open_clip's architectures with random weights is used instead of the tiny
one: then the device decides, not the loader.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TINY = "ViT-tiny-8"
DIFFERENT = 100  # pictures; they come in turns
TARGET = 0.9


def write_tar(path: Path, count: int, width: int) -> int:
    """A tar of ``count`` samples with pictures of ``width`` pixels; its bytes."""
    rng = np.random.default_rng(0)
    pictures = [_jpeg(rng, width) for _ in range(DIFFERENT)]
    words = ["a", "photo", "of", "red", "boat", "isolated", "on", "white", "vintage", "handmade", "2019", "pdf"]
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            info = {"uid": rng.bytes(16).hex(), "original_width": width, "original_height": width * 3 // 4}
            caption = " ".join(rng.choice(words, 12)) + f" {number}"
            members = {"jpg": pictures[number % DIFFERENT], "json": json.dumps(info).encode(), "txt": caption.encode()}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path.stat().st_size


def _jpeg(rng: np.random.Generator, width: int) -> bytes:
    from PIL import Image

    blocks = rng.integers(0, 256, (width * 3 // 32, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_weights(folder: Path, model: str) -> Path:
    """A checkpoint with random weights."""
    import torch

    from dcexp.model import build_model

    path = folder / "model.pt"
    torch.save({"state_dict": build_model(model, "fp32", seed=0)[0].state_dict()}, path)
    return path


def compared(folder: Path, model: str, images: int, tars: int, width: int, repeats: int, threads: int) -> None:
    """Let the two take turns, and print their rates."""
    from dcexp.artifacts.tar import TarReader
    from dcexp.scoring.encoder import Encoder
    from dcexp.scoring.samples import Reading
    from dcexp.scoring.shard import Job, _encoder, score_tar

    paths = [str(folder / f"{number}.tar") for number in range(tars)]
    size = sum(write_tar(Path(path), images, width) for path in paths)
    count = images * tars
    job = Job(out=folder / "out", weights=str(write_weights(folder, model)), model=model, sha256="", feature="l14",
              half=False, batch=256, threads=threads)  # fmt: skip
    encoder: Encoder = _encoder(job.weights, job.sha256, job.model, job.half, job.batch)

    def loader() -> None:
        for path in paths:
            with TarReader(path) as reader:
                assert sum(len(p.pictured) for p in encoder.prepared(Reading(reader, path).pieces(), threads)) == images

    def score() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            for item in enumerate(paths):
                assert score_tar(replace(job, out=Path(out)), item).counts.kept == images

    walls: dict[str, list[float]] = {"loader": [], "score": []}
    cpus: dict[str, list[float]] = {"loader": [], "score": []}
    for repeat in range(repeats + 1):
        for run in (loader, score):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if repeat:
                walls[run.__name__].append(time.perf_counter() - wall)
                cpus[run.__name__].append(time.process_time() - cpu)
    print(f"{model}, {tars} tars of {images:,} samples, {threads} threads")
    print(f"images of {width} pixels, {size / count / 1e3:.0f} kB a sample")
    print(f"samples/s, median of {repeats} (lowest to highest); CPU time, lowest")
    for name, found in walls.items():
        low, middle, high = (count / f(found) for f in (max, statistics.median, min))
        print(
            f"{name:<8} {middle:8,.0f}   ({low:,.0f} to {high:,.0f})   {min(cpus[name]) / count * 1e3:.2f} ms a sample"
        )
    shares = [
        statistics.median(walls["loader"]) / statistics.median(walls["score"]),
        min(cpus["loader"]) / min(cpus["score"]),
    ]
    print(f"share of the rates {shares[0]:.1%}, of the CPU time {shares[1]:.1%} (target {TARGET:.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--tars", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default=TINY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compared(
            Path(folder), options.model, options.images, options.tars, options.width, options.repeats, options.threads
        )


if __name__ == "__main__":
    main()
