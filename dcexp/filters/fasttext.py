"""fastText's language models, applied to many captions at once.

The library itself takes one caption at a time, and adds up the vectors of some two hundred pieces of it. A caption's
pieces are those of its words, and few words of a pool are new: here every distinct word is added up once, and captions
are sums of words (Joulin et al. 2016, "Bag of tricks for efficient text classification"; the model's tree is that of
a hierarchical softmax). Sums in another order end in other last digits, so where two languages are that close the
library is asked (see :mod:`dcexp.filters.language`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MAGIC, VERSION = 793712314, 12
HIERARCHICAL, SUPERVISED = 1, 3
END = "</s>"  # stands at the end of every text
LABEL = "__label__"
SURE = 0.51  # a probability that no other label can reach
REMEMBERED = 1 << 17  # words: some ten megabytes
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
    place: npt.NDArray[np.int32] | None
    vectors: Floats
    nodes: Floats
    children: Integers
    _memory: list[Any] = field(default_factory=list)  # words, and the sums of their pieces

    def is_best(self, hidden: Floats, label: int) -> tuple[Mask, Mask]:
        """Where ``label`` is the most probable one, and where that is too close to call; shapes (len(hidden),).

        Goes down the tree from the root with all texts together, and on only where a label that is as probable may
        still lie below: at every node the probability of what is below it falls.
        """
        wanted = self._score(hidden, label)
        best, close = (
            wanted >= np.log(0.8 / len(self.labels)),
            np.zeros(len(hidden), dtype=bool),
        )  # below, another has more
        rows = np.flatnonzero(best & (wanted <= np.log(SURE)))
        open_ = [(2 * len(self.labels) - 2, rows, np.zeros(len(rows)))]
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
        score = np.zeros(len(hidden))
        child = label
        while child != 2 * len(self.labels) - 2:
            node, on_right = (int(i) for i in np.argwhere(self.children == child)[0])
            score += self._turns(hidden @ self.nodes[node].astype(np.float64))[on_right]
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
        from scipy.sparse import csr_array

        blanked = pc.replace_substring(pc.replace_substring(texts.cast(pa.string()), "\0", " "), "\n", " ")
        tokens = pc.ascii_split_whitespace(blanked)
        encoded = tokens.flatten().dictionary_encode()
        codes, starts = encoded.indices.to_numpy(), tokens.offsets.to_numpy()
        vectors = self._of_words(encoded.dictionary)
        holds = csr_array((_ones(len(codes)), codes, starts - starts[0]), shape=(len(texts), len(vectors)))
        sums = holds @ vectors + self._sums(_strings([END]), whole=True)
        return np.asarray(sums[:, :-1] / sums[:, -1:])

    def _of_words(self, words: Any) -> Floats:
        """:meth:`_sums` of distinct words; those met first, the frequent ones, are remembered."""
        import pyarrow as pa
        import pyarrow.compute as pc

        known, sums = self._memory or (_strings([]), np.empty((0, self.vectors.shape[1] + 1), np.float32))
        place = pc.fill_null(pc.index_in(words, known), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        new = np.flatnonzero(place < 0)
        unknown = words.take(new)
        place[new] = np.arange(len(known), len(known) + len(new))
        sums = np.concatenate([sums, self._sums(unknown)])
        if len(known) < REMEMBERED:
            kept = min(len(sums), REMEMBERED)
            self._memory[:] = pa.concat_arrays([known, unknown])[:kept], sums[:kept]
        return sums[place]

    def _sums(self, words: Any, *, whole: bool = False) -> Floats:
        """The sum of the vectors of each word's pieces, then their number, shape (len(words), width + 1).

        ``whole``: without n-grams.
        """
        import pyarrow.compute as pc
        from scipy.sparse import csr_array

        known = pc.fill_null(pc.index_in(words, _strings(self.words)), -1).to_numpy(zero_copy_only=False)
        silent = np.asarray(pc.or_(pc.starts_with(words, LABEL), pc.equal(words, "")))
        known = np.where(silent, -1, known)
        of_word, rows = [np.flatnonzero(known >= 0)], [known[known >= 0]]
        if not whole:
            word, hashes = ngrams(words, *self.lengths)
            bucket = (hashes % np.uint32(self.buckets)).astype(np.int64)
            place = bucket if self.place is None else self.place[bucket]
            kept = (place >= 0) & ~silent[word]
            of_word.append(word[kept])
            rows.append(place[kept] + len(self.words))
        columns, owners = np.concatenate(rows), np.concatenate(of_word)
        holds = csr_array((_ones(len(columns)), (owners, columns)), shape=(len(words), len(self.vectors)))
        counts = np.bincount(owners, minlength=len(words))
        return np.column_stack([holds @ self.vectors, counts.astype(np.float32)])


def _ones(count: int) -> Floats:
    return np.ones(count, np.float32)


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def holds_end(texts: Any) -> Mask:
    """Where a text holds the word that ends one: the library reads no further than that."""
    import pyarrow.compute as pc

    if len(texts) and (data := texts.buffers()[2]) and END.encode() in data.to_pybytes():
        return np.asarray(pc.match_substring(texts, END))
    return np.zeros(len(texts), dtype=bool)


def ngrams(words: Any, shortest: int, longest: int) -> tuple[Integers, npt.NDArray[np.uint32]]:
    """The hashes of every word's n-grams of characters, with ``<`` before and ``>`` behind the word.

    ``words`` is a pyarrow string array. Returns the number of the word, and the 32-bit FNV-1a hash (of signed
    bytes), for each n-gram of ``shortest`` to ``longest`` characters.
    """
    import pyarrow.compute as pc

    framed = pc.binary_join_element_wise("<", words, ">", "")
    offsets = np.frombuffer(framed.buffers()[1], np.int32)[framed.offset : framed.offset + len(framed) + 1]
    raw = np.frombuffer(framed.buffers()[2], np.uint8)[: offsets[-1]]
    begins = np.append((raw & 0xC0) != 0x80, True)  # of characters
    signed = raw.view(np.int8).astype(np.int32).view(np.uint32)
    ends = np.repeat(offsets[1:], np.diff(offsets))
    word_of = np.repeat(np.arange(len(framed)), np.diff(offsets))
    start = np.flatnonzero(begins[offsets[0] : -1]) + offsets[0]
    start = start[start >= offsets[0]]
    at, length = start.copy(), np.zeros(len(start), np.int64)
    hashes = np.full(len(start), 2166136261, np.uint32)
    found_words, found = [], []
    while len(start):
        hashes = (hashes ^ signed[at]) * np.uint32(16777619)
        at = at + 1
        length = length + begins[at]
        # One character alone is an n-gram only if it is not the frame.
        framing = (length == 1) & ((start == offsets[word_of[start]]) | (at == ends[start]))
        whole = begins[at] & (length >= shortest) & ~framing
        found_words.append(word_of[start[whole]])
        found.append(hashes[whole])
        on = (at < ends[start]) & ~(begins[at] & (length == longest))
        start, at, length, hashes = start[on], at[on], length[on], hashes[on]
    return np.concatenate([np.empty(0, np.int64), *found_words]), np.concatenate([np.empty(0, np.uint32), *found])
