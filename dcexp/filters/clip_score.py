"""CLIP score filters: cut by the similarity of image and text that ships with the metadata."""

from dataclasses import dataclass
from typing import Literal

from dcexp.filters.cut import FractionCut, ThresholdCut
from dcexp.filters.score import Column, Score

Arch = Literal["l14", "b32"]


@dataclass(frozen=True, kw_only=True)
class ClipScoreFraction(FractionCut):
    """The top ``fraction`` of the pool by CLIP score (DataComp, section 4.1, "CLIP score filtering").

    ``arch`` is the OpenAI model that gave the scores: ViT-L/14 or ViT-B/32.
    """

    fraction: float = 0.3
    arch: Arch = "l14"

    def by(self) -> Score:
        """The column of that model."""
        return _column(self.arch)


@dataclass(frozen=True, kw_only=True)
class ClipScoreThreshold(ThresholdCut):
    """Samples whose CLIP score is ``threshold`` (a cosine, -1 to 1) or higher.

    ``arch`` has no default, for a threshold means nothing without it: 0.3 is reached by a fifth of CommonPool with
    ViT-B/32, and by less than a tenth with ViT-L/14 (DataComp, Table 16).
    """

    arch: Arch

    def by(self) -> Score:
        """The column of that model."""
        return _column(self.arch)


def _column(arch: str) -> Column:
    """CLIP similarity as it ships with the metadata; ``arch`` is l14 or b32."""
    return Column(column=f"clip_{arch}_similarity_score")
