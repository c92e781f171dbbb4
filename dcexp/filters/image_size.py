"""Image size filter: keep images that are large enough and not too long."""

from dataclasses import dataclass

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.filters.base import ShardFilter
from dcexp.filters.rows import Mask, Rows


@dataclass(frozen=True, kw_only=True)
class ImageSize(ShardFilter):
    """Keeps images whose shorter side has ``min_side`` pixels or more, the longer at most ``max_aspect`` times that.

    Both are of the original image, before any resizing (DataComp, section 4.1, "Basic filtering"). An image without
    width or height is never kept.
    """

    min_side: int = 200
    max_aspect: float = 3.0

    columns = ("original_width", "original_height")
    effort = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_side < 0 or self.max_aspect < 1:
            raise ValueError(
                f"filter.min_side={self.min_side}, filter.max_aspect={self.max_aspect}: wanted 0 or more pixels, and "
                "an aspect of 1 (square) or more"
            )

    def keep(self, rows: Rows, **extra: Artifact) -> Mask:
        """True where both limits hold; the aspect is a quotient of doubles, as upstream."""
        width, height = (rows.numbers(name) for name in self.columns)
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        aspect = np.divide(longer, shorter, out=np.full(len(rows), np.inf), where=shorter > 0)
        return (shorter >= self.min_side) & (aspect <= self.max_aspect)
