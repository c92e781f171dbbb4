"""No filter: the whole pool, upstream's ``no_filter``."""

from dataclasses import dataclass

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.filters.base import ShardFilter
from dcexp.filters.rows import Mask, Rows


@dataclass(frozen=True, kw_only=True)
class NoFilter(ShardFilter):
    """Keeps every sample (DataComp, section 4.1)."""

    def keep(self, rows: Rows, **_: Artifact) -> Mask:
        """True for all."""
        return np.ones(len(rows), dtype=bool)
