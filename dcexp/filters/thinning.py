"""Rounds of dropping what is least like the rest: the candidates on the disk, and what each round has dropped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.uid import Uids
from dcexp.engines.base import watched
from dcexp.filters.features import Features
from dcexp.filters.moments import Matrix, moment, squares
from dcexp.filters.rows import Mask

Rounds = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

STAYS = 0  # the round of those that no round has dropped
DECIMALS = 12  # to which scores are compared: float64 leaves as many whatever the order in which it has added up
BLOCK = 1 << 16  # rows that are read at once
SAVED_EVERY = 60.0  # seconds between two notes of how far the rounds have come
STATE = "rounds.npz"


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Rows of a pool, copied into ``folder``: which rows of each part they are, their uids and their features.

    They are numbered through all parts, in the pool's order; ``width`` is that of the features.
    """

    folder: Path
    parts: int
    width: int

    def has(self, number: int) -> bool:
        """Whether a part has been copied."""
        return all(self._file(number, what).is_file() for what in ("features", "uids", "where"))

    def write(self, number: int, where: Mask, uids: Uids, features: Features) -> None:
        """Copy a part: ``where``, over all its rows, says which ones ``uids`` and ``features`` are of."""
        for what, array in (("features", features), ("uids", uids), ("where", where)):
            with whole_file(self._file(number, what)) as file:
                np.save(file, array)

    def sizes(self) -> list[int]:
        """How many there are in each part."""
        return [len(self._read(number, "uids")) for number in range(self.parts)]

    def where(self, number: int) -> Mask:
        """Which rows of a part are candidates."""
        return np.asarray(self._read(number, "where"))

    def uids(self) -> Uids:
        """The uids of all."""
        return np.concatenate([self._read(number, "uids") for number in range(self.parts)])

    def blocks(self, mask: Mask) -> Iterator[tuple[Places, Features]]:
        """The numbers and features of those in ``mask``, some at a time."""
        first = 0
        for number in range(self.parts):
            features = self._read(number, "features")
            for start in range(0, len(features), BLOCK):
                own = np.flatnonzero(mask[first + start : first + min(start + BLOCK, len(features))])
                if len(own):
                    yield first + start + own, features[start + own]
            first += len(features)

    def moment(self, mask: Mask) -> Matrix:
        """The sum of the outer products of those in ``mask``, each at length 1."""
        return sum((moment(features) for _, features in self.blocks(mask)), np.zeros((self.width, self.width)))

    def _read(self, number: int, what: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self._file(number, what), mmap_mode="r", allow_pickle=False)
        return array

    def _file(self, number: int, what: str) -> Path:
        return self.folder / f"{number:08d}.{what}.npy"


def thin(candidates: Candidates, wanted: int, rounds: int) -> Rounds:
    """The round, from 1, in which each candidate is dropped until ``wanted`` are left; STAYS for these.

    See :class:`~dcexp.filters.norm_sim_d.NormSimD` for the rule. What an interrupted attempt has noted is gone on with.
    """
    dropped, total = _begun(candidates)
    step = -(-max(len(dropped) - wanted, 0) // rounds)
    left, done = int((dropped == STAYS).sum()), int(dropped.max(initial=STAYS))
    again = -(-max(left - wanted, 0) // step) if step else 0
    for _ in watched(_rounds(candidates, wanted, step, dropped, total, done), "thin out", again):
        pass
    return dropped


def _rounds(
    candidates: Candidates, wanted: int, step: int, dropped: Rounds, total: Matrix, done: int
) -> Iterator[None]:
    """Drop round after round, in ``dropped``; ``total`` is the second moment of those that are left."""
    uids, noted = candidates.uids(), time.monotonic()
    while (left := int((dropped == STAYS).sum())) > wanted:
        done += 1
        scores = np.full(len(dropped), np.inf)
        for places, features in candidates.blocks(dropped == STAYS):
            scores[places] = squares(features, total / left).round(DECIMALS)
        dropped[lowest(scores, uids, min(step, left - wanted))] = done
        total -= candidates.moment(dropped == done)
        if time.monotonic() - noted > SAVED_EVERY:
            with whole_file(candidates.folder / STATE, durable=False) as file:
                np.savez(file, dropped=dropped, total=total)
            noted = time.monotonic()
        yield


def _begun(candidates: Candidates) -> tuple[Rounds, Matrix]:
    """The rounds so far and the second moment of those that are left."""
    if (candidates.folder / STATE).is_file():
        with np.load(candidates.folder / STATE, allow_pickle=False) as state:
            return state["dropped"], state["total"]
    dropped = np.full(sum(candidates.sizes()), STAYS, np.int32)
    return dropped, candidates.moment(dropped == STAYS)


def lowest(scores: npt.NDArray[np.float64], uids: Uids, count: int) -> Places:
    """The places of the ``count`` lowest scores, 1 or more; of equal ones those of the highest uids."""
    edge = np.partition(scores, count - 1)[count - 1]
    below, level = np.flatnonzero(scores < edge), np.flatnonzero(scores == edge)
    order = np.lexsort((uids["f1"][level], uids["f0"][level]))[::-1]
    return np.concatenate([below, level[order[: count - len(below)]]])
