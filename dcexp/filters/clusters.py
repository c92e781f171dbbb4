"""Image-based filtering: keep images that fall into the same clusters of the pool as a set of target images."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.clusters import Centroids, Clusters, write_centroids, write_counts
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.base import ShardFilter
from dcexp.filters.feature_files import CENTROIDS, TARGETS, FeatureFiles
from dcexp.filters.features import features_of, read_features, same_width
from dcexp.filters.nearest import Ids, nearest
from dcexp.filters.rows import Mask, Rows
from dcexp.filters.score import Numbers, Score
from dcexp.stage import Stage, Step

PIECE = 1 << 16  # target images that one worker looks at


@dataclass(frozen=True, kw_only=True)
class FromFiles(Stage):
    """A stage that is made from feature files, which its step knows by their digests, the value ``files``."""

    assets: Assets = field(default=Assets(), compare=False)

    @property
    def given(self) -> FeatureFiles:
        """The files."""
        raise NotImplementedError(f"{type(self).__name__} has no given()")

    @property
    def label(self) -> str:
        return f"{super().label}-{self.given.label}"

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when there is no such file, and the word is not a published one."""
        self.given.check()

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Download what is not here."""
        self.given.files(values["files"])


@dataclass(frozen=True, kw_only=True)
class PoolCentroids(FromFiles):
    """The centres of a pool's clusters, read once and laid where every worker can map them.

    ``centroids`` is small, medium, large or xlarge: DataComp's 100,000 centres of that pool (k-means on ``l14_img``
    of the rows that pass the caption filter). Or a file of one's own, known by its content.
    """

    makes = Centroids

    centroids: str = field(compare=False)

    @property
    def given(self) -> FeatureFiles:
        return FeatureFiles(option="centroids", given=self.centroids, published=CENTROIDS, assets=self.assets)

    def step(self) -> Step:
        """These centroids."""
        return Step(self, {"files": self.given.digests()})

    def run(self, out: Path, engine: Engine, *, files: list[str]) -> Summary:
        """Write ``centroids.npy``. Raises ValueError for what is not an array of finite numbers."""
        arrays = [read_features(path) for path in self.given.files(files)]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        write_centroids(out, rows)
        return Summary(counts=Counts(total=len(rows), kept=len(rows)), facts={"width": rows.shape[1]})


@dataclass(frozen=True, kw_only=True)
class TargetClusters(FromFiles):
    """How many images of a target set are nearest to each centroid.

    ``target`` is ``imagenet_l14``, the 1.28 million training images of ImageNet-1k as published with DataComp, or
    features of one's own: a file, or a folder of files, known by their content.
    """

    makes = Clusters

    target: str = field(default="imagenet_l14", compare=False)

    @property
    def given(self) -> FeatureFiles:
        return FeatureFiles(option="target", given=self.target, published=TARGETS, assets=self.assets)

    def step(self, centroids: Step) -> Step:
        """The target's clusters among ``centroids``."""
        return Step(self, {"centroids": centroids, "files": self.given.digests()})

    def run(self, out: Path, engine: Engine, *, centroids: Centroids, files: list[str]) -> Summary:
        """Find every target image's centroid. Raises ValueError when the two are of different widths."""
        rows = centroids.rows()
        items, images = [], 0
        for path in self.given.files(files):
            features = read_features(path)
            same_width(features.shape[1], str(path), rows.shape[1], "the centroids")
            items += [(path, start) for start in range(0, len(features), PIECE)]
            images += len(features)
        counts = np.zeros(len(rows), np.int64)
        for ids in engine.map(partial(_piece, centroids), items, what="find the target's clusters"):
            counts += np.bincount(ids, minlength=len(rows))
        write_counts(out, counts)
        facts = {"clusters": len(rows), "clusters_of_target": int(np.count_nonzero(counts))}
        return Summary(counts=Counts(total=images, kept=images), facts=facts)


def _piece(centroids: Centroids, item: tuple[Path, int]) -> Ids:
    path, start = item
    return nearest(read_features(path)[start : start + PIECE], centroids.rows())


@dataclass(frozen=True, kw_only=True)
class InClusters(ShardFilter):
    """Keeps rows whose nearest centroid is the nearest one of at least one target image.

    DataComp's image-based filtering (section 4.1) is this, of captions that pass the weaker of its two caption
    filters: see ``conf/filter/image_based.yaml``. ``centroids`` and ``target`` are those of :class:`PoolCentroids`
    and :class:`TargetClusters`, and in the keys of these steps. A row whose features hold NaN or infinity is in no
    cluster.
    """

    centroids: str = field(compare=False)
    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    effort = 3

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is named."""
        return (self.feature,)

    @property
    def label(self) -> str:
        return f"{super().label}-{cluster_label(self.centroids, self.target, self.assets)}"

    def extra(self, pool: Step) -> dict[str, Any]:
        """The centroids, and the target's clusters among them."""
        return cluster_steps(self.centroids, self.target, self.assets)

    def keep(self, rows: Rows, **extra: Any) -> Mask:
        """True where the nearest centroid is one of the target's."""
        wanted = np.append(extra["clusters"].counts() > 0, False)  # the last for rows without any centroid, -1
        return wanted[_nearest(rows, self.feature, extra["centroids"])]


@dataclass(frozen=True, kw_only=True)
class NearestCentroid(Score):
    """The id of every row's nearest centroid; rows whose features hold NaN or infinity have none."""

    centroids: str = field(compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is named."""
        return (self.feature,)

    def extra(self, pool: Step) -> dict[str, Any]:
        """The centroids."""
        return {"centroids": PoolCentroids(centroids=self.centroids, assets=self.assets).step()}

    def score(self, rows: Rows, **extra: Any) -> Numbers:
        """The ids, exact in the type they have."""
        ids = _nearest(rows, self.feature, extra["centroids"])
        exact = np.float32 if len(extra["centroids"].rows()) <= 1 << 24 else np.float64
        return np.where(ids < 0, np.nan, ids).astype(exact)


def cluster_steps(centroids: str, target: str, assets: Assets) -> dict[str, Any]:
    """The steps ``centroids`` and ``clusters`` of a filter that has these fields."""
    step = PoolCentroids(centroids=centroids, assets=assets).step()
    return {"centroids": step, "clusters": TargetClusters(target=target, assets=assets).step(step)}


def cluster_label(centroids: str, target: str, assets: Assets) -> str:
    """The words for such a filter's clusters."""
    steps = cluster_steps(centroids, target, assets)
    return "-".join(step.stage.given.label for step in steps.values())


def _nearest(rows: Rows, feature: str, centroids: Centroids) -> Ids:
    targets = centroids.rows()
    return nearest(features_of(rows, feature, targets.shape[1], "the centroids"), targets)
