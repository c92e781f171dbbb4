"""negCLIPLoss: how well image and text fit each other, and how badly the rest of a random batch."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Artifact, Summary
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import Engine
from dcexp.filters.clip_loss import negative_losses
from dcexp.filters.cut import FractionCut
from dcexp.filters.features import have_direction, operations, same_width, whole_features
from dcexp.filters.rows import Rows
from dcexp.filters.score import Numbers, Score

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NegClipLoss(Score):
    """Minus ``temperature`` times a row's own CLIP loss in a random batch, the mean of ``draws`` (arXiv:2405.19547).

    See :func:`~dcexp.filters.clip_loss.negative_losses` for the formula. The temperature is that of the model which
    made the features: 0.01 for OpenAI's, 0.07 for the public DFN network.

    A batch is of one metadata file of the pool, as in the authors' code. Each draw deals the file's rows into batches
    of ``batch`` at random; the last one, which may lack some, is filled up with rows of others, which serve as its
    negatives only: a smaller batch would have fewer negatives, and its rows would look better by about
    ``temperature`` * log(batch / size). A file of fewer rows than ``batch`` is one batch, the same in each draw, so its
    rows do look better. Batches are drawn by the seed, the uids of the file, and the number of the draw; the order of
    rows or files, and the workers, do not matter. Rows without a direction in one of the features (NaN, infinity, all
    zeros) have no score and are in no batch.

    Memory in each worker, for n rows of the largest file and features of width w as they are stored, in b bytes a
    number: 2 b n w for both features and as much again where rows are lacking, 100 n, and that of one batch.
    """

    temperature: float = 0.01
    batch: int = 32768
    draws: int = 10
    image: str = "l14_img"
    text: str = "l14_txt"
    seed: int = 0

    columns = ("uid",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < np.inf or self.batch < 2 or self.draws < 1:
            raise ValueError(
                f"filter.temperature={self.temperature} filter.batch={self.batch} filter.draws={self.draws}: wanted a "
                "temperature above 0 (0.01 for OpenAI's CLIP), 2 or more rows in a batch, and 1 draw or more"
            )
        if self.image == self.text:
            raise ValueError(
                f"filter.image and filter.text are both {self.image}; wanted those of images, and of texts"
            )

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The image's and the text's."""
        return (self.image, self.text)

    def cost(self, *, pool: Pool | None = None, **_: Any) -> str:
        """The products of every row with its batches."""
        if pool is None or self.image not in pool.features:
            return ""
        draws = sum(
            part.rows * (self.batch * self.draws if part.rows > self.batch else part.rows) for part in pool.parts
        )
        return operations(2.0 * draws * pool.features[self.image])

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool lacks one of the features, or they are of different widths."""
        super().check_pool(pool)
        widths = pool.features
        same_width(widths[self.image], f"{pool.root}: {self.image!r}", widths[self.text], f"{self.text!r}")

    def run(self, out: Path, engine: Engine, *, pool: Pool, **extra: Any) -> Summary:
        """See :meth:`Score.run`."""
        self.check_pool(pool)
        sizes = {min(part.rows, self.batch) for part in pool.parts if part.rows}
        if len(sizes) > 1:
            log.warning(
                "the pool's smallest file has %s rows, fewer than a batch of %s; negCLIPLoss is higher where there are "
                "fewer negatives. filter.batch=%s treats all files alike", f"{min(sizes):,}", f"{self.batch:,}",
                max(min(sizes), 2),
            )  # fmt: skip
        return super().run(out, engine, pool=pool, **extra)

    def score(self, rows: Rows, **extra: Artifact) -> Numbers:
        """The scores, float32."""
        images, texts = (whole_features(rows, name) for name in self.features)
        whole = have_direction(images) & have_direction(texts)
        scores = np.full(len(rows), np.nan, np.float32)
        scores[whole] = self.means(images, texts, np.flatnonzero(whole), rows.uids()[whole])
        return scores

    def means(
        self, images: Numbers, texts: Numbers, places: npt.NDArray[np.int64], uids: Uids
    ) -> npt.NDArray[np.float64]:
        """The mean over all draws, of the rows at ``places``, whose uids are ``uids``, shape (len(places),)."""
        order = np.lexsort((uids["f1"], uids["f0"]))
        words = np.frombuffer(hashlib.sha256(uids[order].tobytes()).digest(), np.uint32).tolist()
        draws = self.draws if len(places) > self.batch else 1  # all of them would be the same batch
        totals = np.zeros(len(places))
        for draw in range(draws if len(places) else 0):
            seed = np.random.SeedSequence(self.seed % 2**64, spawn_key=(draw, *words))
            dealt = order[np.random.default_rng(seed).permutation(len(order))]
            for start in range(0, len(dealt), self.batch):
                own = dealt[start : start + self.batch]
                filled = np.concatenate([own, dealt[: min(self.batch, len(dealt)) - len(own)]])
                at = places[filled]
                totals[own] += negative_losses(images[at], texts[at], self.temperature)[: len(own)]
        return totals / draws


@dataclass(frozen=True, kw_only=True)
class NegClipLossFraction(FractionCut):
    """Keeps the top ``fraction`` of the pool by negCLIPLoss; the other fields are those of :class:`NegClipLoss`."""

    fraction: float = 0.3
    temperature: float = 0.01
    batch: int = 32768
    draws: int = 10
    image: str = "l14_img"
    text: str = "l14_txt"
    seed: int = 0

    def by(self) -> NegClipLoss:
        """The score, made once for all fractions."""
        return NegClipLoss(
            temperature=self.temperature,
            batch=self.batch,
            draws=self.draws,
            image=self.image,
            text=self.text,
            seed=self.seed,
        )
