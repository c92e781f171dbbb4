"""One tar: its features and scores, written whole or not at all, and known again by a note."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Counts
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.place import name_of, open_place
from dcexp.artifacts.tar import TarReader
from dcexp.scoring.encoder import Encoder, Features
from dcexp.scoring.samples import Reading

METADATA, NOTES = "metadata", "scored"
Arrays = dict[str, npt.NDArray[Any]]
VERSION = 1  # of what is made of the same tar by the same model


def score_column(feature: str) -> str:
    """CommonPool's name of the column with the cosines of the features ``<feature>_img`` and ``<feature>_txt``."""
    return f"clip_{feature}_similarity_score"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all tars: the model, where the files go, and how many ``processes`` share a machine."""

    out: Path
    weights: str
    model: str
    sha256: str
    feature: str
    half: bool
    batch: int
    processes: int

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


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one tar in the folder ``out``."""

    out: Path
    stem: str

    @property
    def parquet(self) -> Path:
        return self.out / METADATA / f"{self.stem}.parquet"

    @property
    def npz(self) -> Path:
        return self.out / METADATA / f"{self.stem}.npz"

    @property
    def note(self) -> Path:
        return self.out / NOTES / f"{self.stem}.json"

    def known(self, state: list[int | str]) -> dict[str, Any]:
        """By feature, what is there of the tar in this ``state``: its identity and counts."""
        if not (self.note.is_file() and self.npz.is_file() and self.parquet.is_file()):
            return {}
        note = json.loads(self.note.read_text())
        return dict(note["features"]) if note["tar"] == state else {}

    def write_note(self, state: list[int | str], known: Mapping[str, Any]) -> None:
        write_json(self.note, {"tar": state, "features": dict(sorted(known.items()))})

    def kept(self, known: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """The arrays and the columns of scores of other features."""
        import pyarrow.parquet as pq

        with np.load(self.npz, allow_pickle=False) as npz:
            arrays = {name: npz[name] for feature in known for name in (f"{feature}_img", f"{feature}_txt")}
        table = pq.read_table(self.parquet, columns=[score_column(feature) for feature in known], use_threads=False)
        return arrays, {name: table[name] for name in table.column_names}


def score_tar(job: Job, item: tuple[int, str]) -> Scored:
    """Score one tar, unless it has been. Other features of the same tar stay; all of another state of it go."""
    number, tar = item
    files = Files(out=job.out, stem=name_of(tar).removesuffix(".tar"))
    if done := _done(job, files, tar):
        return done
    encoder = _encoder(job.weights, job.sha256, job.model, job.half, job.batch, number)
    with TarReader(tar) as reader:
        reading = Reading(reader, tar)
        threads = max((os.cpu_count() or 1) // job.processes, 1)
        features = _joined(list(encoder.features(reading.pieces(), threads)), encoder.width)
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


@lru_cache(maxsize=1)
def _encoder(weights: str, sha256: str, model: str, half: bool, batch: int, number: int) -> Encoder:
    """The model, loaded once in a process, for all its tars on the device of the first."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    return Encoder(Path(weights), model, half, batch)


def _joined(parts: list[Features], width: int) -> Features:
    nothing = Features(np.empty((0, width), np.float32), np.empty((0, width), np.float32), np.empty(0, np.bool_))
    return Features(*(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True)))


def _counts(features: Features, unreadable: int) -> Counts:
    """A sample is kept that has both features; corrupt whose image cannot be decoded, or that has no row at all."""
    kept = int(np.isfinite(features.scores).sum())
    broken = int(features.broken.sum())
    rows = len(features.broken)
    return Counts(total=rows + unreadable, kept=kept, missing=rows - kept - broken, corrupt=broken + unreadable)


def _write(job: Job, files: Files, state: list[int | str], table: Any, features: Features, made: Scored) -> None:
    """The npz, the parquet and, last, the note that they are there: what is cut short between is made anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    others = {name: known for name, known in files.known(state).items() if name != job.feature}
    arrays, columns = files.kept(others) if others else ({}, {})
    files.write_note(state, others)
    halves = {"img": features.images.astype(np.float16), "txt": features.texts.astype(np.float16)}
    arrays |= {f"{job.feature}_{tower}": array for tower, array in halves.items()}
    columns[score_column(job.feature)] = pa.array(features.scores, pa.float32(), from_pandas=True)
    for name in sorted(columns):
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, columns[name])
    with whole_file(files.npz) as file:
        np.savez(file, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    with whole_file(files.parquet) as file:
        pq.write_table(table, file)
    known = {"identity": job.identity, "counts": asdict(made.counts), "damage": made.damage, "made_with": _versions()}
    files.write_note(state, {**others, job.feature: known})


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("open_clip_torch", "torch", "torchvision", "pillow", "numpy", "pyarrow")}
