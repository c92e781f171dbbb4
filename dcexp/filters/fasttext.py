"""fastText's language models, applied to many captions at once.

The library itself takes one caption at a time, and adds up the vectors of some two hundred pieces of it. A caption's
pieces are those of its words, and most words come again: here every distinct word is added up once, and captions are
sums of words (Joulin et al. 2016, "Bag of tricks for efficient text classification"; the model's tree is that of
a hierarchical softmax). Sums in another order end in other last digits, so where two languages are that close the
library is asked (see :mod:`dcexp.filters.language`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Whole = npt.NDArray[np.int32]  # half the memory to go through
Mask = npt.NDArray[np.bool_]

MAGIC, VERSION = 793712314, 12
HIERARCHICAL, SUPERVISED = 1, 3
END = "</s>"  # stands at the end of every text
LABEL = "__label__"
SURE = 0.51  # a probability that no other label can reach
PRIME = np.uint32(16777619)
CLOSE = 1e-3  # between logarithms of probabilities; the library's rounding is a hundredth of that
TINY = 1e-5  # added to every probability before its logarithm, as the library does


@dataclass(frozen=True, kw_only=True)
class FastText:
    """A supervised model with a hierarchical softmax, dense (.bin) or quantised (.ftz).

    ``vectors``: one row per word of the dictionary, then one per bucket of n-grams, shape (rows, width); of a pruned
    model the buckets that are left, which ``place`` finds (-1: none). ``nodes``: the inner nodes of the tree, shape
    (labels - 1, width); ``children`` their left and right child: below ``len(labels)`` a label, else a node.
    """

    words: list[str]
    labels: list[str]
    lengths: tuple[int, int]  # of n-grams, in characters
    buckets: int
    place: Whole | None
    vectors: Floats
    nodes: Floats
    children: Integers

    def is_best(self, hidden: Floats, label: int) -> tuple[Mask, Mask]:
        """Where ``label`` is the most probable one, and where that is too close to call; shapes (len(hidden),).

        Goes down the tree from the root with all texts together, and on only where a label that is as probable may
        still lie below: at every node the probability of what is below it falls.
        """
        wanted = self._score(hidden, label)
        best = wanted >= np.log(0.8 / len(self.labels))  # with less, another one has more
        close = np.zeros(len(hidden), dtype=bool)
        rows = np.flatnonzero(best & (wanted <= np.log(SURE)))
        open_: list[tuple[int, Any, Any]] = [(2 * len(self.labels) - 2, rows, np.zeros(len(rows), np.float32))]
        while open_:
            place, rows, score = open_.pop()
            if place < len(self.labels):
                best[rows[score > wanted[rows]]] = False
                close[rows[score < wanted[rows] + CLOSE]] = True
                continue
            node = place - len(self.labels)
            for child, turn in zip(self.children[node], self._turns(hidden[rows] @ self.nodes[node]), strict=True):
                reached = score + turn
                rival = reached > wanted[rows] - CLOSE
                if child != label and rival.any():
                    open_.append((int(child), rows[rival], reached[rival]))
        return best, close

    def _score(self, hidden: Floats, label: int) -> Floats:
        """The logarithm of one label's probability, shape (len(hidden),)."""
        score = np.zeros(len(hidden), np.float32)
        child = label
        while child != 2 * len(self.labels) - 2:
            node, on_right = (int(i) for i in np.argwhere(self.children == child)[0])
            score += self._turns(hidden @ self.nodes[node])[on_right]
            child = node + len(self.labels)
        return score

    @staticmethod
    def _turns(dots: Floats) -> tuple[Floats, Floats]:
        """Logarithms of the probabilities to turn left, and right."""
        with np.errstate(over="ignore"):
            right = 1 / (1 + np.exp(-dots))
        return np.log(1 - right + TINY), np.log(right + TINY)

    def hidden(self, texts: Any) -> Floats:
        """The mean vector of every text of a pyarrow string array, shape (len(texts), width)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = texts.cast(pa.string())
        tokens = pc.ascii_split_whitespace(pc.replace_substring(texts, "\0", " ") if _holds(texts, "\0") else texts)
        encoded = tokens.flatten().dictionary_encode()
        starts = tokens.offsets.to_numpy()
        sums = _added(self._sums(encoded.dictionary), encoded.indices.to_numpy(), starts - starts[0])
        sums += np.append(self.vectors[self.words.index(END)], 1)  # at the end of every text
        return np.asarray(sums[:, :-1] / sums[:, -1:])

    def _sums(self, words: Any) -> Floats:
        """The sum of the vectors of each word's pieces, then their number, shape (len(words), width + 1)."""
        import pyarrow.compute as pc

        known = pc.fill_null(pc.index_in(words, _strings(self.words)), -1).to_numpy(zero_copy_only=False)
        pieces: list[tuple[Any, Any]] = [(np.flatnonzero(known >= 0), known[known >= 0])]
        for word, hashes in ngrams(words, *self.lengths):
            bucket = hashes % np.uint32(self.buckets)
            if self.place is None:
                pieces.append((word, bucket.astype(np.int32) + len(self.words)))
            else:
                place = self.place[bucket]
                kept = np.flatnonzero(place >= 0)
                pieces.append((word[kept], place[kept] + len(self.words)))
        sums = np.zeros((len(words), self.vectors.shape[1] + 1), np.float32)
        for word, rows in pieces:
            starts = np.append(0, np.cumsum(np.bincount(word, minlength=len(words))))
            sums[:, :-1] += _added(self.vectors, rows, starts)
            sums[:, -1] += np.diff(starts)
        sums[np.asarray(pc.or_(pc.starts_with(words, LABEL), pc.equal(words, "")))] = 0
        return sums


def _added(vectors: Floats, rows: npt.NDArray[Any], starts: npt.NDArray[Any]) -> Floats:
    """The sum of ``vectors[rows[starts[i] : starts[i + 1]]]`` for every i."""
    from scipy.sparse import csr_array

    holds = csr_array((np.ones(len(rows), np.float32), rows, starts), shape=(len(starts) - 1, len(vectors)))
    return np.asarray(holds @ vectors)


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def holds_end(texts: Any) -> Mask:
    """Where a text holds the word that ends one: the library reads no further than that."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring(texts, END)) if _holds(texts, END) else np.zeros(len(texts), dtype=bool)


def _holds(texts: Any, part: str) -> bool:
    """False when no text of an array holds ``part``: one look at all their bytes together."""
    data = texts.buffers()[2] if len(texts) else None
    return data is not None and part.encode() in data.to_pybytes()


def ngrams(words: Any, shortest: int, longest: int) -> Iterator[tuple[Whole, npt.NDArray[np.uint32]]]:
    """The hashes of every word's n-grams of characters, with ``<`` before and ``>`` behind the word.

    ``words`` is a pyarrow string array. Yields, for each length from ``shortest`` to ``longest`` characters, the number
    of the word, ascending, and the 32-bit FNV-1a hash of its bytes, taken as signed, of every n-gram. One character
    alone is one only if it is not of the frame.
    """
    import pyarrow.compute as pc

    framed = pc.binary_join_element_wise("<", words, ">", "")
    offsets = np.frombuffer(framed.buffers()[1], np.int32)[: len(framed) + 1]
    raw = np.frombuffer(framed.buffers()[2], np.uint8)[: offsets[-1]]
    begins = (raw & 0xC0) != 0x80  # of characters
    begin = np.flatnonzero(begins).astype(np.int32)
    size = np.diff(begin, append=np.int32(len(raw)))
    first = np.cumsum(np.append(0, begins))[offsets]  # character of every word
    word = np.repeat(np.arange(len(framed), dtype=np.int32), np.diff(first))
    signed = np.append(raw.view(np.int8).astype(np.int32).view(np.uint32), [0, 0, 0]).astype(np.uint32)
    several = [np.flatnonzero(size > i) for i in range(1, 4)]
    hashes = np.full(len(begin), 2166136261, np.uint32)
    for length in range(1, longest + 1):
        count = max(len(begin) - length + 1, 0)
        hashes = (hashes[:count] ^ signed[begin[length - 1 :]]) * PRIME
        for i, long in enumerate(several, start=1):
            more = long[long >= length - 1]
            hashes[more - length + 1] = (hashes[more - length + 1] ^ signed[begin[more] + i]) * PRIME
        if length >= shortest:
            within = word[:count] == word[length - 1 :]
            if length == 1:
                within[first[:-1]] = within[first[1:] - 1] = False
            yield word[:count][within], hashes[within]
