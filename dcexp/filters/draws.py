"""Draws with replacement over the parts of a pool: the parent holds one number per part, a worker one part.

Drawing one row after the other, and once more whenever that row has been taken often enough, is the same in
distribution as this: make all draws at once; of rows drawn too often make the excess again, among the rows that have
room; until nothing is left. So each round's draws are dealt out to the parts first (a multinomial over their total
weights), and then made within each. The seed, the round and the number of the part decide, whatever the engine.
"""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.engines.base import Engine
from dcexp.filters.rows import Rows, View

log = logging.getLogger(__name__)

Weigh = Callable[[Rows], npt.NDArray[Any]]  # a weight for every row, finite and 0 or more
Weights = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BLOCK = 1 << 20  # draws that a worker makes together


def weigh_parts(folder: Path, engine: Engine, pool: Pool, view: View, weigh: Weigh) -> tuple[Weights, int]:
    """Write the weights of every part's rows in ``view``; returns each part's total, and how many rows have any.

    Raises ValueError for a weight that is negative, infinite or NaN, and when all are zero.
    """
    work = partial(_weigh, folder, view, weigh, pool.skip_corrupt)
    found = list(engine.map(work, list(enumerate(pool.parts)), what="weigh"))
    totals, rows = np.array([total for total, _ in found]), sum(rows for _, rows in found)
    if rows == 0:
        raise ValueError(f"none of the {pool.rows:,} samples has a weight above 0, so none can be drawn")
    with np.errstate(over="ignore"):
        whole = totals.sum()
    if not np.isfinite(whole):
        raise ValueError("the weights are so large that their sum is infinite; divide them by their maximum")
    return totals, rows


def _weigh(folder: Path, view: View, weigh: Weigh, skip_corrupt: bool, item: tuple[int, Part]) -> tuple[float, int]:
    number, part = item
    path = _weights_file(folder, number)
    if not path.is_file():
        try:
            rows, _ = view.rows(number, part, uids=False)
            weights = np.asarray(weigh(rows), dtype=np.float64)
        except DamagedError:
            if not skip_corrupt:
                raise
            weights = np.empty(0)  # no draws fall here, and the selection counts the part
        if not (weights >= 0).all() or np.isinf(weights).any():
            bad = weights[~(weights >= 0) | np.isinf(weights)][0]
            raise ValueError(
                f"{part.parquet}: a weight is {bad}; wanted finite numbers, 0 or more, to draw in proportion to"
            )
        with whole_file(path) as file:
            np.save(file, weights)
    weights = np.load(path, allow_pickle=False)
    with np.errstate(over="ignore"):
        return float(weights.sum()), int(np.count_nonzero(weights))


def draw(folder: Path, engine: Engine, totals: Weights, draws: int, cap: int, seed: int) -> tuple[list[str], int]:
    """Make ``draws`` draws, none of a row more than ``cap`` times; ``totals`` are those of :func:`weigh_parts`.

    Returns for every part the file of how often each of its rows is taken ("" for never), and the number of rounds.
    There must be room: as many rows with a weight as fill up to ``draws`` by ``cap`` each.
    """
    totals, files, rounds = totals.copy(), [""] * len(totals), 0
    while draws:
        dealt = deal(draws, totals, generator(seed, rounds, 0))
        items = [(number, rounds, int(dealt[number]), files[number]) for number in np.flatnonzero(dealt).tolist()]
        draws = 0
        made = engine.map(partial(_draw, folder, cap, seed), items, what=f"draw, round {rounds + 1}")
        for (number, *_), (file, excess, left) in zip(items, made, strict=True):
            files[number], totals[number], draws = file, left, draws + excess
        rounds += 1
        log.debug("%s draws are made again after round %s", f"{draws:,}", rounds)
    return files, rounds


def deal(draws: int, totals: Weights, rng: np.random.Generator) -> Counts:
    """How many of ``draws`` fall to each part: a multinomial in proportion to ``totals``, shape (parts,).

    (numpy's own gives what rounding leaves over to the last part, even where its total is 0.)
    """
    dealt = np.zeros(len(totals), np.int64)
    behind = np.cumsum(totals[::-1])[::-1]  # the total of a part and of all behind it; exact for the last with any
    for number in np.flatnonzero(totals).tolist():
        dealt[number] = rng.binomial(draws, totals[number] / behind[number])
        draws -= int(dealt[number])
    return dealt


def _draw(folder: Path, cap: int, seed: int, item: tuple[int, int, int, str]) -> tuple[str, int, float]:
    """Make one round's draws within a part; returns the file of counts so far, the excess, and the weight left."""
    number, round_, draws, before = item
    path = folder / f"{number:08d}.{round_}.npy"
    note = path.with_suffix(".json")
    if not note.is_file():
        weights = np.load(_weights_file(folder, number), allow_pickle=False)
        counts = np.load(before, allow_pickle=False) if before else np.zeros(len(weights), np.int64)
        weights[counts >= cap] = 0
        counts += drawn(draws, weights, generator(seed, round_, number + 1))
        excess = int(np.maximum(counts - cap, 0).sum())
        with whole_file(path) as file:
            np.save(file, np.minimum(counts, cap))
        write_json(note, {"excess": excess, "left": float(weights[counts < cap].sum())})
        if before:
            Path(before).unlink(missing_ok=True)
    made = json.loads(note.read_text())
    return str(path), made["excess"], made["left"]


def drawn(draws: int, weights: Weights, rng: np.random.Generator) -> Counts:
    """How often each row is drawn in ``draws`` independent draws in proportion to ``weights``, shape (rows,)."""
    counts = np.zeros(len(weights), np.int64)
    edges, last = np.cumsum(weights), int(np.flatnonzero(weights)[-1])
    for start in range(0, draws, BLOCK):
        points = np.sort(rng.random(min(BLOCK, draws - start))) * edges[-1]
        rows = np.minimum(np.searchsorted(edges, points, side="right"), last)  # a point may be rounded to the end
        counts += np.bincount(rows, minlength=len(weights))
    return counts


def generator(seed: int, round_: int, place: int) -> np.random.Generator:
    """Random numbers of their own for each place (a part, or the parent) in each round."""
    return np.random.default_rng(np.random.SeedSequence(seed % 2**64, spawn_key=(round_, place)))


def _weights_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.weights.npy"
