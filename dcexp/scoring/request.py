"""Scoring: features and similarity scores for data of one's own, in the layout of CommonPool, by any CLIP."""

import logging
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.place import absolute, below, listed, name_of
from dcexp.claim import claimed
from dcexp.engines.base import Engine
from dcexp.engines.local import Local
from dcexp.reshard.progress import with_speed
from dcexp.scoring.folder import refuse_foreign, refuse_other_model, tidy, writing
from dcexp.scoring.shard import Job, score_tar
from dcexp.sources.scored import NOTES
from dcexp.tasks.pretrained import Model
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)

PER_GPU = 4  # processes that share one, where nobody says how many: one alone cannot decode as fast as it encodes


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the verb ``score`` is asked: features of the tars in ``shards``, a folder or URL, by a model of open_clip.

    ``checkpoint`` is a file or a tag, ``model`` its architecture. ``out`` gets ``metadata/<tar>.parquet`` and
    ``<tar>.npz`` with the arrays ``<feature>_img`` and ``<feature>_txt``, float16 [rows, width], and the column
    ``clip_<feature>_similarity_score``, float32: the cosine before features are rounded. Rows are those of
    source=webdataset; where an image or a caption is missing or cannot be decoded, its features are NaN and the score
    is null. ``half``: fp16 on a GPU. Memory of a process: see :class:`dcexp.scoring.encoder.Encoder`, and for each
    sample of a tar its metadata and ``16 * width`` bytes, with ``4 * width`` for every other feature that is there.
    """

    checkpoint: str
    model: str
    shards: str
    out: str
    feature: str
    engine: Engine
    half: bool = False
    batch: int = 256

    def __post_init__(self) -> None:
        check_types(self)
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.feature):
            raise ValueError(f"feature={self.feature!r}: wanted letters and digits, as b32, l14 or dfn")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}: wanted 1 or more")


def score(request: Request) -> Summary:
    """Score every tar that is not scored yet.

    Raises FileNotFoundError without tars or checkpoint; OSError where ``out`` cannot be written; ValueError for a
    checkpoint of another architecture, for a feature that ``out`` has by another model, for features that are not
    finite, and when no sample has an image and a caption.
    """
    model = Model(checkpoint=request.checkpoint, model=request.model)
    model.check(request.engine)
    folder, out = absolute(request.shards), Path(request.out).expanduser().resolve()
    tars = [below(folder, name) for name in listed(folder, ".tar")]
    if not tars:
        raise FileNotFoundError(f"shards={request.shards}: there are no .tar files directly in {folder}")
    refuse_foreign(out, tars)
    workers, threads = _share(request.engine, len(tars))
    job = Job(out=out, feature=request.feature, half=request.half, batch=request.batch, threads=threads,
              **model.identity())  # fmt: skip
    with writing(out), claimed(out / f"{NOTES}.claim", lambda: False):
        refuse_other_model(job, tars)
        tidy(out)
        results = replace(request.engine, workers=workers).map(partial(score_tar, job), list(enumerate(tars)))
        scored = with_speed(results, "score", len(tars), lambda tar: (tar.counts.total, tar.size))
    damaged = {name_of(tar): one.damage for tar, one in zip(tars, scored, strict=True) if one.damage}
    for name, damage in damaged.items():
        log.warning("%s: %s; the samples before that are scored", name, damage)
    counts = _sum([one.counts for one in scored])
    if not counts.kept:
        raise ValueError(
            f"none of the {counts.total:,} samples in {folder} could be scored: {counts}. Wanted are samples with an "
            "image (.jpg, .png, .jpeg, .webp) and a caption (.txt, or caption in the json)"
        )
    return Summary(counts=counts, facts={"tars": len(tars), "damaged": len(damaged)})


def _share(engine: Engine, tars: int) -> tuple[int, int]:
    """How many processes share this machine, and the threads of each. An engine for many machines has its own number.

    There, with 0 for one process per core, a process has one thread.
    """
    import torch

    cores = os.cpu_count() or 1
    if not isinstance(engine, Local):
        return engine.workers, max(cores // (engine.workers or cores), 1)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    workers = min(engine.workers or (min(PER_GPU * gpus, cores) if gpus else cores), tars)
    return workers, max(cores // workers, 1)


def _sum(counts: list[Counts]) -> Counts:
    return Counts(
        total=sum(one.total for one in counts),
        kept=sum(one.kept for one in counts),
        missing=sum(one.missing for one in counts),
        corrupt=sum(one.corrupt for one in counts),
    )
