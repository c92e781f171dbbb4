"""Image-based sampling: draw clusters of the pool by how many target images they hold, then images of them."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.artifacts.scores import Scores
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.clusters import NearestCentroid, cluster_label, cluster_steps
from dcexp.filters.draws import Weigh
from dcexp.filters.rows import Rows, View
from dcexp.filters.sampling import Sampling
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class ImageBasedSampling(Sampling):
    """Draws a cluster c with a probability in proportion to s_c ** ``alpha``, then one of its rows uniformly.

    s_c is the number of target images whose nearest centroid is c (DataComp, appendix P, "image-based sampling", with
    alpha 0, 0.2, 0.5, 1 and 2). So a row of c weighs s_c ** alpha / n_c, with n_c the rows of c that can be drawn; a
    cluster without any is not drawn. 0 ** 0 is 1: with alpha=0 all clusters are alike, those without a target image
    too. (The paper does not say, but its results do: alpha=0 is as good as no filter, ImageNet .170 against .176 at
    the medium scale, while alpha=0.2 has .249; without the empty clusters the two would be neighbours.)

    ``centroids``, ``target`` and ``feature``: see :class:`~dcexp.filters.clusters.InClusters`. Rows whose features
    hold NaN or infinity are missing.
    """

    alpha: float = 0.5
    centroids: str = field(compare=False)
    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(f"filter.alpha={self.alpha}: wanted 0 or more")

    @property
    def label(self) -> str:
        return f"{super().label}-{cluster_label(self.centroids, self.target, self.assets)}"

    def extra(self, pool: Step) -> dict[str, Any]:
        """The nearest centroid of every row, and how many target images each has."""
        nearest = NearestCentroid(centroids=self.centroids, feature=self.feature, assets=self.assets)
        steps = cluster_steps(self.centroids, self.target, self.assets)
        return {"scores": nearest.step(pool), "clusters": steps["clusters"]}

    def view(self, pool: Pool, **inputs: Any) -> View:
        """The rows that have a nearest centroid."""
        return View(scores=inputs["scores"])

    def weigher(self, folder: Path, engine: Engine, pool: Pool, view: View, **inputs: Any) -> Weigh:
        """Count the rows of every cluster, then look the weights up by cluster."""
        scores: Scores = inputs["scores"]
        of_target = inputs["clusters"].counts()
        rows = np.zeros(len(of_target), np.int64)
        count = partial(_count, view, scores, len(of_target), pool.skip_corrupt)
        for counts in engine.map(count, list(enumerate(pool.parts)), what="count the rows of clusters"):
            rows += counts
        weights = of_target.astype(np.float64) ** self.alpha / np.maximum(rows, 1)
        return partial(_look_up, scores, weights)


def _ids(scores: Scores, rows: Rows) -> npt.NDArray[np.int64]:
    return rows.of_part(scores.of_part(rows.number)).astype(np.int64)


def _count(
    view: View, scores: Scores, clusters: int, skip_corrupt: bool, item: tuple[int, Part]
) -> npt.NDArray[np.int64]:
    try:
        rows, _ = view.rows(*item, uids=False)
    except DamagedError:
        if not skip_corrupt:
            raise
        return np.zeros(clusters, np.int64)
    return np.bincount(_ids(scores, rows), minlength=clusters)


def _look_up(scores: Scores, weights: npt.NDArray[np.float64], rows: Rows) -> npt.NDArray[np.float64]:
    return weights[_ids(scores, rows)]
