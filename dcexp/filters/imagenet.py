"""ImageNet distance: keep the images that are most like some image of a target set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.pool import Pool
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.cut import FractionCut
from dcexp.filters.feature_files import TARGETS, FeatureFiles
from dcexp.filters.features import features_of, read_features
from dcexp.filters.nearest import highest_similarity
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class TargetSimilarity(Score):
    """The highest cosine of a row's image features with any image of a target set.

    ``target`` is ``imagenet_l14``, the training images of ImageNet-1k as published with DataComp, or features of
    one's own: a file, or a folder of files, known by their content. Rows whose features hold NaN or infinity have no
    score. (NormSim with p = infinity, arXiv:2405.19547, is the same number.)
    """

    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is named."""
        return (self.feature,)

    @property
    def given(self) -> FeatureFiles:
        """The files of the target."""
        return FeatureFiles(option="target", given=self.target, published=TARGETS, assets=self.assets)

    @property
    def label(self) -> str:
        return f"{super().label}-{self.given.label}"

    def extra(self, pool: Step) -> dict[str, Any]:
        """The digests of the target's files."""
        return {"files": self.given.digests()}

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when there is no such file, and the word is not a published one."""
        self.given.check()

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Download what is not here."""
        self.given.files(values["files"])

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """See :meth:`Score.run`. Raises ValueError when one's own files are no longer those that were asked for."""
        self.given.files(extra["files"])
        return super().run(out, engine, pool=pool)

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The cosines, float32."""
        best = np.full(len(rows), -np.inf, np.float32)
        for path in self.given.files():
            target = read_features(path)
            features = features_of(rows, self.feature, target.shape[1], f"the target's features in {path}")
            best = np.maximum(best, highest_similarity(features, target))
        return best


@dataclass(frozen=True, kw_only=True)
class ImageNetDistance(FractionCut):
    """The ``fraction`` of the pool that is nearest to ImageNet (DataComp, appendix P, "ImageNet distance").

    The distance of an image is 1 minus its highest cosine with any training image, so the top of these cosines is
    kept. ``target`` and ``feature``: see :class:`TargetSimilarity`, whose key they are part of.
    """

    fraction: float = 0.3
    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    @property
    def label(self) -> str:
        return f"{super().label}-{self.by().given.label}"

    def by(self) -> TargetSimilarity:
        """The highest cosine."""
        return TargetSimilarity(target=self.target, feature=self.feature, assets=self.assets)
