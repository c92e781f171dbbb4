"""Draws in batches by softmax, each batch without replacement, whose rows then lose some of their score."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEAST = 0.25  # share of new rows among those proposed, below which proposing is given up for a pass over all rows


def draw_in_batches(scores: Numbers, batches: Iterable[int], penalty: float, rng: np.random.Generator) -> Counts:
    """How often each row is taken in ``batches`` of such sizes, shape of ``scores``, which are overwritten.

    Rows drawn one after the other in proportion to exp(score), those already in the batch left out, are a batch
    without replacement; -inf is never drawn, and a batch must be no larger than there are other scores. Rows are
    proposed by the weights at some earlier time, which were no smaller, and accepted by what is left of these: so a
    batch costs what it draws, and all rows are looked at again only when few are accepted. What a batch lacks then is
    the highest of score + Gumbel noise among the rest, which is the same distribution (Yellott, 1977). Memory: 49
    bytes a row, those of ``scores`` and of the counts included.
    """
    counts, taken = np.zeros(len(scores), np.int64), np.zeros(len(scores), bool)
    base, edges = np.empty_like(scores), np.empty_like(scores)
    stale = True
    for wanted in batches:
        if stale:
            _propose_by(scores, base, edges)
        rows, stale = np.empty(0, np.int64), False
        while len(rows) < wanted and not stale:
            size = int(1.3 * (wanted - len(rows))) + 16
            new = _proposed(scores, base, edges, size, taken, rng)
            stale = len(new) < LEAST * size
            new = new[: wanted - len(rows)]
            taken[new] = True
            rows = np.concatenate([rows, new])
        if len(rows) < wanted:
            rows = np.concatenate([rows, _highest(scores, taken, wanted - len(rows), rng)])
        taken[rows] = False
        counts[rows] += 1
        scores[rows] -= penalty
    return counts


def _propose_by(scores: Numbers, base: Numbers, edges: Numbers) -> None:
    """Note the scores in ``base``, and in ``edges`` the sums of their weights up to each row."""
    base[:] = scores
    np.subtract(scores, scores.max(), out=edges)
    np.exp(edges, out=edges)
    np.cumsum(edges, out=edges)


def _proposed(
    scores: Numbers, base: Numbers, edges: Numbers, size: int, taken: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Counts:
    """Of ``size`` proposals those accepted and not yet taken, each once, in the order of their first coming."""
    rows = np.searchsorted(edges, rng.random(size) * edges[-1], side="right")
    rows = rows[rows < len(edges)]  # a point may be rounded to the end
    rows = rows[(rng.random(len(rows)) < np.exp(scores[rows] - base[rows])) & ~taken[rows]]
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _highest(scores: Numbers, taken: npt.NDArray[np.bool_], count: int, rng: np.random.Generator) -> Counts:
    noisy = rng.gumbel(size=len(scores))
    noisy += scores
    noisy[taken] = -np.inf
    return np.argpartition(noisy, len(noisy) - count)[len(noisy) - count :]
