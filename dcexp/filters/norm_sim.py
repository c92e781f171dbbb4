"""NormSim: how like a set of target images an image is."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.moment import Moment, write_moment
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.clusters import FromFiles
from dcexp.filters.cut import FractionCut
from dcexp.filters.feature_files import TARGETS, FeatureFiles
from dcexp.filters.features import features_of, read_features, same_width
from dcexp.filters.imagenet import TargetSimilarity
from dcexp.filters.moments import Matrix, moment, squares
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score
from dcexp.stage import Step

PIECE = 1 << 16  # target images that one worker looks at


@dataclass(frozen=True, kw_only=True)
class TargetMoment(FromFiles):
    """The second moment of a target set's features; ``target`` as :class:`~dcexp.filters.imagenet.TargetSimilarity`'s.

    Memory: 8 width^2 bytes for every piece of 65536 images that is not yet added up, beside that of a worker.
    """

    makes = Moment

    target: str = field(default="imagenet_l14", compare=False)

    @property
    def given(self) -> FeatureFiles:
        return FeatureFiles(option="target", given=self.target, published=TARGETS, assets=self.assets)

    def step(self) -> Step:
        """The moment of these files."""
        return Step(self, {"files": self.given.digests()})

    def run(self, out: Path, engine: Engine, *, files: list[str]) -> Summary:
        """Add up all images. Raises ValueError for files that hold no features, or of different widths."""
        items, images = [], 0
        paths = self.given.files(files)
        width = read_features(paths[0]).shape[1]
        for path in paths:
            features = read_features(path)
            same_width(features.shape[1], str(path), width, f"those in {paths[0]}")
            items += [(path, start) for start in range(0, len(features), PIECE)]
            images += len(features)
        total = np.zeros((width, width))
        for of_piece in engine.map(_moment_of_piece, items, what="add up the target"):
            total += of_piece
        write_moment(out, total)
        return Summary(counts=Counts(total=images, kept=images), facts={"width": width})


def _moment_of_piece(item: tuple[Path, int]) -> Matrix:
    path, start = item
    return moment(read_features(path)[start : start + PIECE])


@dataclass(frozen=True, kw_only=True)
class TargetNorm(Score):
    """NormSim with p = 2: the root of the sum of squared cosines of a row's image with all target images.

    It orders rows as variance alignment does (VAS, arXiv:2402.02055), which is its square. It is computed by the
    target's second moment, see :mod:`dcexp.filters.moments`. Rows whose features hold NaN or infinity have no score.
    """

    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is named."""
        return (self.feature,)

    @property
    def label(self) -> str:
        return f"{super().label}-{self._moment.given.label}"

    @property
    def _moment(self) -> TargetMoment:
        return TargetMoment(target=self.target, assets=self.assets)

    def extra(self, pool: Step) -> dict[str, Any]:
        """The target's second moment."""
        return {"moment": self._moment.step()}

    def score(self, rows: Rows, **extra: Any) -> Numbers:
        """The norms, float64; 0 for a row of zeros."""
        matrix = extra["moment"].matrix()
        features = features_of(rows, self.feature, len(matrix), "the target's features")
        return np.sqrt(np.maximum(squares(features, matrix), 0))  # rounding may leave less than 0


@dataclass(frozen=True, kw_only=True)
class NormSimFraction(FractionCut):
    """The ``fraction`` of the pool with the highest NormSim (arXiv:2405.19547): the p-norm of the cosines of an image
    with all images of ``target``.

    ``p="infinity"``: the highest cosine, the number by which ``imagenet_distance`` goes too; ``p=2``: the root of the
    sum of their squares. Published as the second of two: see ``conf/experiment/neg_clip_loss_norm_sim.yaml``.
    ``target`` and ``feature``: see :class:`~dcexp.filters.imagenet.TargetSimilarity`.
    """

    fraction: float = 0.2
    p: Literal["infinity", 2] = "infinity"
    target: str = field(default="imagenet_l14", compare=False)
    feature: str = "l14_img"
    assets: Assets = field(default=Assets(), compare=False)

    @property
    def label(self) -> str:
        given = FeatureFiles(option="target", given=self.target, published=TARGETS, assets=self.assets)
        return f"{super().label}-{given.label}"

    def by(self) -> Score:
        """The norm."""
        make = partial(TargetNorm if self.p == 2 else TargetSimilarity, target=self.target, feature=self.feature)
        return make(assets=self.assets)
