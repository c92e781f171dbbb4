"""Clusters of a pool's own features: their centres, by k-means on a sample of its rows."""

import json
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.clusters import Centroids, write_centroids
from dcexp.artifacts.files import remove_folder, reserve, whole_file, write_json
from dcexp.artifacts.pool import Part, Pool
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import UID, Uids
from dcexp.engines.base import Engine
from dcexp.filters.base import inside, require
from dcexp.filters.codes import need_faiss
from dcexp.filters.features import Features, features_of, have_direction, operations
from dcexp.filters.kmeans import by_faiss, by_torch
from dcexp.filters.random import hashed, mixed
from dcexp.filters.rows import View, unless_damaged
from dcexp.stage import Stage, Step

FOLDER = "sample"  # rows that are trained on; gone with the last iteration
SIZE = 8800  # rows in a cluster where nobody says how many clusters there are: SemDeDup's 50,000 of 440 million


@dataclass(frozen=True, kw_only=True)
class KMeans(Stage):
    """The centres of ``clusters`` clusters of a pool's ``feature``, or of what a filter has kept of the pool.

    ``clusters="auto"`` is one for every 8,800 rows, SemDeDup's size (50,000 of 440 million). Centres are trained on
    ``per_cluster`` rows for each, about: those whose uids, mixed with ``seed``, come first; the seed also draws the
    first centres. So neither the order of files nor the workers matter. ``spherical``: see
    :func:`~dcexp.filters.kmeans.by_torch`; ``library="faiss"`` asks faiss for the same. Rows without a direction (NaN,
    infinity, all zeros) are missing.

    Workers copy the sample, n rows of width w in b bytes a number; then this process alone trains, with all its cores
    or a GPU. On the disk: 2 n b w bytes. Memory: n b w, as pages that the system may drop (faiss: 4 n w that it may
    not), and that of :func:`~dcexp.filters.kmeans.by_torch`; a worker holds the features of one part.
    """

    makes = Centroids

    clusters: int | Literal["auto"]
    feature: str = "l14_img"
    spherical: bool = True
    iterations: int = 100
    per_cluster: int = 256
    seed: int = 0
    library: Literal["torch", "faiss"] = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters != "auto" and self.clusters < 1:
            raise ValueError(f"clusters={self.clusters}: wanted 1 or more, or auto (one for every {SIZE:,} rows)")
        if self.iterations < 1 or self.per_cluster < 1:
            raise ValueError(
                f"iterations={self.iterations} per_cluster={self.per_cluster}: wanted 1 or more (SemDeDup: 100 "
                "iterations; faiss takes 256 rows for each cluster)"
            )

    def step(self, pool: Step, within: Step | None = None) -> Step:
        """These clusters of a pool, or of what the subset ``within`` has kept of it."""
        return Step(self, {"pool": pool, **({"within": within} if within else {})})

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Raise ValueError when faiss is wanted and not installed."""
        if self.library == "faiss":
            need_faiss()

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks the feature."""
        require(self, pool, (), (self.feature,))

    def cost(self, *, pool: Pool | None = None, **_: Any) -> str:
        """The products of the sample with the centres, in every iteration."""
        if pool is None or self.feature not in pool.features:
            return ""
        clusters = self.count(pool.rows)
        sample = min(self.per_cluster * clusters, pool.rows)
        return operations(2.0 * sample * clusters * pool.features[self.feature] * self.iterations)

    def count(self, rows: int) -> int:
        """How many clusters there are of so many rows."""
        return math.ceil(rows / SIZE) if self.clusters == "auto" else self.clusters

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None) -> Summary:
        """Draw the sample, train, and write ``centroids.npy``. Raises ValueError for more clusters than rows."""
        self.check_pool(pool)
        (folder := out / FOLDER).mkdir(exist_ok=True)
        expected = within.summary["distinct"] if within else pool.rows
        clusters = self.count(expected)
        share = min(self.per_cluster * clusters / max(expected, 1), 1.0)
        view = View(within=inside(within), skip_corrupt=pool.skip_corrupt)
        draw = partial(_draw, folder, self, view, pool.features[self.feature], share)
        tallies = list(engine.map(draw, list(enumerate(pool.parts)), what="cluster: sample"))
        drawn, missing, corrupt = (sum(tally[name] for tally in tallies) for name in ("drawn", "missing", "corrupt"))
        if clusters > drawn:
            more = ", or more of them drawn (per_cluster=…)" * (share < 1)
            raise ValueError(
                f"{self.label}: {clusters:,} clusters are to be found in {drawn:,} rows that have {self.feature!r}, of "
                f"{expected:,}; wanted no more clusters than rows (clusters=…){more}"
            )
        write_centroids(out, self._trained(_together(folder, len(pool.parts)), clusters, folder))
        remove_folder(folder)
        counts = Counts(
            total=pool.rows, kept=drawn, dropped=pool.rows - drawn - missing - corrupt, missing=missing, corrupt=corrupt
        )
        return Summary(counts=counts, facts={"clusters": clusters, "width": pool.features[self.feature]})

    def _trained(self, sample: Features, clusters: int, folder: Path) -> npt.NDArray[np.float32]:
        train = by_faiss if self.library == "faiss" else partial(by_torch, state=folder / "state.npz")
        return train(sample, clusters, self.iterations, self.seed, spherical=self.spherical)


@dataclass(frozen=True, kw_only=True)
class ByClusters(Stage):
    """A stage that goes by the clusters of a ``clustering``, which is in the keys of its steps."""

    clustering: KMeans = field(compare=False)

    @property
    def label(self) -> str:
        return f"{super().label}-{self.clustering.label}"


def _draw(folder: Path, stage: KMeans, view: View, width: int, share: float, item: tuple[int, Part]) -> dict[str, int]:
    """Copy the rows of a part that are trained on; returns where all its rows went."""
    number, part = item
    note = folder / f"{number:08d}.json"
    if not note.is_file():
        nothing = np.empty(0, UID), np.empty((0, width), np.float16), {"drawn": 0, "missing": 0, "corrupt": part.rows}
        work = partial(_drawn, stage, view, width, share, number, part)
        uids, features, went = unless_damaged(view.skip_corrupt, work, nothing)
        for name, array in (("uids", uids), ("features", features)):
            with whole_file(_file(folder, number, name)) as file:
                np.save(file, array)
        write_json(note, went)
    tally: dict[str, int] = json.loads(note.read_text())
    return tally


def _drawn(
    stage: KMeans, view: View, width: int, share: float, number: int, part: Part
) -> tuple[Uids, Features, dict[str, int]]:
    rows, others = view.rows(number, part)
    features = features_of(rows, stage.feature, width, "those of the pool when it was indexed")
    whole = have_direction(features)
    uids = rows.uids()
    chosen = whole & (_place(uids, stage.seed) <= share)
    missing = others["missing"] + int((~whole).sum())
    return uids[chosen], features[chosen], {"drawn": int(chosen.sum()), "missing": missing, "corrupt": 0}


def _place(uids: Uids, seed: int) -> npt.NDArray[np.float64]:
    """A number from 0 to 1 for every uid, other than the one by which a random subset is drawn."""
    return mixed(hashed(uids, seed)) / 2.0**64


def _together(folder: Path, parts: int) -> Features:
    """The samples of all parts in the order of their uids, mapped from the disk."""
    path = folder / "features.npy"
    if not path.is_file():
        uids = np.concatenate([np.load(_file(folder, number, "uids")) for number in range(parts)])
        own = [np.load(_file(folder, number, "features"), mmap_mode="r") for number in range(parts)]
        place = np.argsort(np.lexsort((uids["f1"], uids["f0"])))
        unfinished, shape = path.with_suffix(".tmp"), (len(uids), own[0].shape[1])
        together = np.lib.format.open_memmap(unfinished, "w+", np.result_type(*own), shape)
        with unfinished.open("r+b") as file:  # a full disk is an error here; in the map it would end the process
            reserve(file, 0, unfinished.stat().st_size)
        for at, features in zip(np.split(place, np.cumsum([len(f) for f in own])[:-1]), own, strict=True):
            together[at] = features
        together.flush()
        unfinished.replace(path)
    sample: Features = np.load(path, mmap_mode="c")
    return sample


def _file(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number:08d}.{name}.npy"
