"""One tar: its features and scores."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Counts
from dcexp.artifacts.place import open_place
from dcexp.artifacts.tar import TarReader
from dcexp.scoring.encoder import Encoder, Features
from dcexp.scoring.files import Files, State, feature_arrays, score_column
from dcexp.scoring.samples import Reading

VERSION = 1  # of what is made of the same tar by the same model


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all tars: the model, where the files go, and the ``threads`` of each process."""

    out: Path
    weights: str
    model: str
    sha256: str
    feature: str
    half: bool
    batch: int
    threads: int

    @property
    def identity(self) -> dict[str, Any]:
        """By what the features of a tar are known."""
        return {"sha256": self.sha256, "model": self.model, "half": self.half, "version": VERSION}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of a tar: where its samples went, and its size in bytes; ``damage`` says what is wrong with it."""

    counts: Counts
    size: int
    damage: str = ""


def score_tar(job: Job, item: tuple[int, str]) -> Scored:
    """Score one tar, unless it has been. Other features of the same tar stay; all of another state of it go."""
    number, tar = item
    files = Files.of(job.out, tar)
    if done := _done(job, files, tar):
        return done
    _take_gpu(number)
    with TarReader(tar) as reader, _calmly(job):
        encoder = _encoder(job.weights, job.sha256, job.model, job.half, job.batch)
        reading = Reading(reader, tar)
        features = _joined(list(encoder.features(reading.pieces(encoder.together), job.threads)), encoder.width)
        made = Scored(counts=_counts(features, reading.corrupt), size=reader.size, damage=reader.damage)
        _write(job, files, reader.state, reading.table(), features, made)
    return made


def _done(job: Job, files: Files, tar: str) -> Scored | None:
    place = open_place(tar)
    place.close()
    there = files.known(place.state).get(job.feature)
    if not there or there["identity"] != job.identity:
        return None
    return Scored(counts=Counts(**there["counts"]), size=place.size, damage=there["damage"])


def _take_gpu(number: int) -> None:
    """Let a process that has no GPU yet take one by the ``number`` of its first tar: so all are taken."""
    import torch

    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        torch.cuda.set_device(number % torch.cuda.device_count())


@lru_cache(maxsize=1)
def _encoder(weights: str, sha256: str, model: str, half: bool, batch: int) -> Encoder:
    """The model, loaded once in a process for all its tars."""
    return Encoder(Path(weights), model, half, batch)


@contextmanager
def _calmly(job: Job) -> Iterator[None]:
    """Leave out what Pillow remarks on odd files, a line for each: they are decoded, or counted as corrupt.

    Raises ValueError where a GPU has too little memory.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            yield
        except torch.OutOfMemoryError:
            raise ValueError(
                f"batch={job.batch}: there is too little memory on the GPU for it and {job.model} in each process that "
                "shares the GPU. Give a smaller batch, or fewer processes: engine.workers=1"
            ) from None


def _joined(parts: list[Features], width: int) -> Features:
    nothing = Features(np.empty((0, width), np.float32), np.empty((0, width), np.float32), np.empty(0, np.bool_))
    return Features(*(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True)))


def _counts(features: Features, unreadable: int) -> Counts:
    """A sample is kept that has both features; corrupt whose image cannot be decoded, or that has no row at all."""
    kept = int(np.isfinite(features.scores).sum())
    broken = int(features.broken.sum())
    rows = len(features.broken)
    return Counts(total=rows + unreadable, kept=kept, missing=rows - kept - broken, corrupt=broken + unreadable)


def _write(job: Job, files: Files, state: State, table: Any, features: Features, made: Scored) -> None:
    """The npz, the parquet and, last, the note that they are there: what is cut short between is made anew."""
    import pyarrow as pa

    others = {name: known for name, known in files.known(state).items() if name != job.feature}
    arrays, columns = files.kept(others) if others else ({}, {})
    files.write_note(state, others)
    for name, found in zip(feature_arrays(job.feature), (features.images, features.texts), strict=True):
        arrays[name] = found.astype(np.float16)
    columns[score_column(job.feature)] = pa.array(features.scores, pa.float32(), from_pandas=True)
    for name in sorted(columns):
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, columns[name])
    files.write({name: arrays[name] for name in sorted(arrays)}, table)
    known = {"identity": job.identity, "counts": asdict(made.counts), "damage": made.damage, "made_with": _versions()}
    files.write_note(state, {**others, job.feature: known})


@cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("open_clip_torch", "torch", "torchvision", "pillow", "numpy", "pyarrow")}
