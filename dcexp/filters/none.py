"""No filter: the whole pool, upstream's ``no_filter``."""

from dataclasses import dataclass

import numpy as np

from dcexp.filters.base import Mask, Rows, ShardFilter


@dataclass(frozen=True, kw_only=True)
class NoFilter(ShardFilter):
    """Keeps every sample (DataComp, section 4.1)."""

    def keep(self, rows: Rows) -> Mask:
        """True for all."""
        return np.ones(len(rows), dtype=bool)
