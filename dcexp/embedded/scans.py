"""The scans behind the digits data set, and which scan may be used for what.

Source: the 1797 scans shipped with scikit-learn (`sklearn.datasets.load_digits`), the test part of "Optical
Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository,
doi:10.24432/C50P49), written by 13 people. Licence: Creative Commons Attribution 4.0 International (CC BY 4.0).
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["clean", "test", "pool"]

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLEAN_SIZE, TEST_SIZE = 300, 450
SPLIT_SEED = 1998
MARGIN = 2


@dataclass(frozen=True)
class Scans:
    """Scans of one split.

    `ids` [n] is the row in scikit-learn's data, `ink` uint8 [n, 12, 12] the 8x8 scan (255 = most ink) inside an
    empty margin of 2, `digits` [n] what was written.
    """

    ids: NDArray[np.int64]
    ink: NDArray[np.uint8]
    digits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@cache
def scans(split: Split) -> Scans:
    """The scans of a split. The three splits share no scan and never change.

    `clean` (300) is seen only by the dual encoder behind the similarity scores, `test` (450) only by the
    evaluation set, `pool` (the other 1047) only by the pool.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
    cuts = np.split(order, [CLEAN_SIZE, CLEAN_SIZE + TEST_SIZE])
    ids = np.sort(cuts[("clean", "test", "pool").index(split)]).astype(np.int64)
    ink = np.clip(data.images[ids] * 255 / 16, 0, 255).astype(np.uint8)
    framed = np.pad(ink, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    return Scans(ids=ids, ink=framed, digits=data.target[ids].astype(np.int64))
