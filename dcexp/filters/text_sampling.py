"""Text-based sampling: draw captions by how rare, or how common, the things they name are in the pool."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.pool import DamagedError, Part, Pool
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.base import require
from dcexp.filters.captions import BATCH, REMEMBERED, offsets
from dcexp.filters.draws import Weigh
from dcexp.filters.rows import Rows, View
from dcexp.filters.sampling import Sampling
from dcexp.filters.wordnet import Suffixes, wordnet

Combine = Literal["max", "average"]
Counts = npt.NDArray[np.int64]
Lexicon = tuple[Path, Suffixes, Path]  # WordNet, how words are reduced to base forms, and the list of synsets


@dataclass(frozen=True, kw_only=True)
class TextBasedSampling(Sampling):
    """Draws a caption in proportion to the max, or average, of N_j ** (``alpha`` - 1) over the synsets j it matches.

    N_j is the number of captions that match j, of those that can be drawn (DataComp, appendix P, "text-based
    sampling", with alpha 0, 0.5, 1 and 1.2). What a caption matches are the ImageNet-21k synsets that its words name,
    each once, by the rule of :class:`~dcexp.filters.captions.TextEntities`; a caption that matches none is not drawn.
    With alpha=1 all others are alike; below, rare things are drawn more often.
    """

    alpha: float = 1.0
    combine: Combine = "max"
    suffixes: Suffixes = "repeated"
    assets: Assets = field(default=Assets(), compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(f"filter.alpha={self.alpha}: wanted 0 or more")

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when a file that the user named is not there."""
        self.assets.check("wordnet")
        self.assets.check("imagenet21k")

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Download what is not here, once, before many workers want it."""
        self._lexicon()

    def _lexicon(self) -> Lexicon:
        (home,), (listed,) = self.assets.files("wordnet"), self.assets.files("imagenet21k")
        return home, self.suffixes, listed

    def check_pool(self, pool: Pool) -> None:
        """Raise ValueError when the pool has no captions."""
        require(self, pool, ("text",))

    def view(self, pool: Pool, **inputs: Any) -> View:
        """The captions."""
        self.check_pool(pool)
        return View(columns=("text",))

    def weigher(self, folder: Path, engine: Engine, pool: Pool, view: View, **inputs: Any) -> Weigh:
        """Note what every caption matches, counting by synset; then weigh by these counts."""
        lexicon = self._lexicon()
        counts: Counts = np.zeros(len(offsets(lexicon[2])), np.int64)
        work = partial(_note, folder, view, lexicon, pool.skip_corrupt)
        for found in engine.map(work, list(enumerate(pool.parts)), what="count what captions name"):
            counts += found
        return partial(_weigh, folder, np.maximum(counts, 1) ** (self.alpha - 1), self.combine)


def _note(folder: Path, view: View, lexicon: Lexicon, skip_corrupt: bool, item: tuple[int, Part]) -> Counts:
    """Write which row matches which synset, as two arrays side by side; returns how many rows match each."""
    synsets = len(offsets(lexicon[2]))
    path = _note_file(folder, item[0])
    if not path.is_file():
        try:
            rows, _ = view.rows(*item, uids=False)
        except DamagedError:
            if not skip_corrupt:
                raise
            return np.zeros(synsets, np.int64)
        pairs = matches(rows.table["text"], namer(*lexicon))
        with whole_file(path) as file:
            np.save(file, pairs)
    return np.bincount(np.load(path, allow_pickle=False)[1], minlength=synsets)


def matches(texts: Any, name: Callable[[str], int]) -> npt.NDArray[np.int32]:
    """The pairs (row, synset), each once, of a pyarrow column of texts; shape (2, pairs), in the order of rows.

    ``name`` gives a word's synset, or -1; words are those of ``str.split()``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found, start = [np.empty((2, 0), np.int32)], 0
    for batch in pa.table({"text": texts}).to_batches(max_chunksize=BATCH):
        lists = pc.utf8_split_whitespace(batch["text"])  # what it adds at the ends, empty words, name nothing
        words = lists.flatten().dictionary_encode()
        names = np.fromiter(map(name, words.dictionary.to_pylist()), np.int64)[words.indices.to_numpy()]
        rows = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        pairs = np.unique(((rows + start) << 32 | names)[names >= 0])
        found.append(np.stack([pairs >> 32, pairs & 0xFFFFFFFF]).astype(np.int32))
        start += len(lists)
    return np.concatenate(found, axis=1)


@functools.cache
def namer(home: Path, suffixes: Suffixes, listed: Path) -> Callable[[str], int]:
    """The place of a word's first synset among the sorted offsets in a list, or -1; answers are remembered."""
    first_offset = wordnet(home, suffixes)
    places: dict[int | None, int] = {offset: place for place, offset in enumerate(sorted(offsets(listed)))}
    return functools.lru_cache(REMEMBERED)(lambda word: places.get(first_offset(word), -1))


def _weigh(folder: Path, weights: npt.NDArray[np.float64], combine: Combine, rows: Rows) -> npt.NDArray[np.float64]:
    """The weight of each row, by the synsets noted for it; 0 for rows that match none."""
    row, synset = np.load(_note_file(folder, rows.number), allow_pickle=False)
    if combine == "max":
        highest = np.zeros(len(rows))
        np.maximum.at(highest, row, weights[synset])
        return highest
    return np.bincount(row, weights[synset], len(rows)) / np.maximum(np.bincount(row, minlength=len(rows)), 1)


def _note_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.matches.npy"
