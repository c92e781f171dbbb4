"""Caption filters: keep captions by their length, or by the things they name."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.files import content_digest
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.base import ShardFilter
from dcexp.filters.rows import Mask, Rows
from dcexp.filters.wordnet import Suffixes, wordnet
from dcexp.published import ASSETS
from dcexp.stage import Step

BATCH = 1 << 16  # captions that are split into words at a time
REMEMBERED = 1 << 18  # words whose answer a process keeps: tens of megabytes


@dataclass(frozen=True, kw_only=True)
class CaptionLength(ShardFilter):
    """Keeps captions of more than ``words`` words and more than ``chars`` characters (Unicode code points).

    ``split`` says what a word is: ``whitespace`` is Python's ``str.split()``, and DataComp's basic filtering;
    ``fasttext`` is ``fasttext.tokenize``, which also counts every line break as a word, and splits at NUL but at no
    other whitespace than ASCII's. With that and ``words=1`` this is the caption filter of DataComp's image-based
    filtering.
    """

    words: int = 2
    chars: int = 5
    split: Literal["whitespace", "fasttext"] = "whitespace"

    columns = ("text",)
    effort = 1

    def keep(self, rows: Rows, **extra: Artifact) -> Mask:
        """True where both are exceeded."""
        import pyarrow.compute as pc

        longer = fasttext_words_above if self.split == "fasttext" else words_above
        masks = [longer(text, self.words) & (_counts(pc.utf8_length(text)) > self.chars) for text in _texts(rows)]
        return np.concatenate([np.empty(0, dtype=bool), *masks])


@dataclass(frozen=True, kw_only=True)
class TextEntities(ShardFilter):
    """Keeps captions in which a word names an entity (DataComp, section 4.1, "Text-based filtering").

    Words are ``str.split()``'s. A word names the first synset that WordNet has for it, of any part of speech, and
    only the synset's offset is compared, as upstream; so a verb at the offset of a listed noun counts.
    ``entities`` is ``imagenet21k`` or a file of your own with lines like n01440764, and is known by its content.
    ``suffixes``: see :func:`~dcexp.filters.wordnet.wordnet`; DataComp used nltk 3.8.1.
    """

    entities: str = field(default="imagenet21k", compare=False)
    suffixes: Suffixes = "repeated"
    assets: Assets = field(default=Assets(), compare=False)

    columns = ("text",)
    effort = 1

    def extra(self, pool: Step) -> dict[str, Any]:
        """A digest of one's own list ("missing" when it is not there yet); nothing for the published one."""
        if self._published:
            return {}
        digest = content_digest(self._path) if self._path.is_file() else "missing"
        return {"entities": digest} if digest != ASSETS["imagenet21k"].files[0].sha256 else {}

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise FileNotFoundError when a file that the user named is not there."""
        self.assets.check("wordnet")
        if self._published:
            self.assets.check("imagenet21k")
        elif not self._path.is_file():
            raise FileNotFoundError(
                f"filter.entities={self.entities}: no such file ({self._path}). Wanted imagenet21k, or a file with one "
                "WordNet id like n01440764 per line"
            )

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Download what is not here, once, before many workers want it; and read one's own list."""
        self.assets.files("wordnet")
        offsets(self._list())
        if "entities" in values and values["entities"] != content_digest(self._path):
            raise ValueError(f"{self._path} was changed while the run was going; give the same command again")

    def keep(self, rows: Rows, **extra: Artifact) -> Mask:
        """True where a word's first synset is listed."""
        (home,) = self.assets.files("wordnet")
        is_entity = namer(home, self.suffixes, self._list())
        masks = [_any_word(text, is_entity) for text in _texts(rows)]
        return np.concatenate([np.empty(0, dtype=bool), *masks])

    @property
    def _published(self) -> bool:
        return self.entities == "imagenet21k"

    @property
    def _path(self) -> Path:
        return Path(self.entities).expanduser().resolve()

    def _list(self) -> Path:
        return self.assets.files("imagenet21k")[0] if self._published else self._path


def namer(home: Path, suffixes: Suffixes, entities: Path) -> Callable[[str], bool]:
    """The question whether a word names one of ``entities``, for WordNet at ``home``; answers are remembered."""
    return _namer(home, suffixes, offsets(entities))


@functools.cache
def _namer(home: Path, suffixes: Suffixes, listed: frozenset[int]) -> Callable[[str], bool]:
    first_offset = wordnet(home, suffixes)
    return functools.lru_cache(REMEMBERED)(lambda word: first_offset(word) in listed)


def offsets(path: Path) -> frozenset[int]:
    """The synset offsets in a list of WordNet ids; blank lines are skipped. Raises ValueError, naming the line."""
    state = path.stat()
    return _offsets(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _offsets(path: Path, size: int, mtime: int) -> frozenset[int]:
    found = set()
    for number, line in enumerate(path.read_text("utf-8", "replace").split("\n"), start=1):
        wnid = line.strip()
        if wnid and not (len(wnid) == 9 and wnid[0] in "nvasr" and wnid[1:].isascii() and wnid[1:].isdigit()):
            raise ValueError(f"{path}, line {number}: wanted a WordNet id like n01440764, got {wnid[:40]!r}")
        found |= {int(wnid[1:])} if wnid else set()
    return frozenset(found)


def words_above(text: Any, limit: int) -> Mask:
    """Where ``str.split()`` finds more than ``limit`` words, in a pyarrow array of texts, shape (len(text),)."""
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(text)
    pieces = pc.utf8_split_whitespace(trimmed, max_splits=limit)  # no more than are asked for
    above: Mask = _counts(pc.list_value_length(pieces)) - _is_empty(trimmed) > limit
    return above


def fasttext_words_above(text: Any, limit: int) -> Mask:
    """The same for ``fasttext.tokenize``."""
    above: Mask = fasttext_words(text) > limit
    return above


def fasttext_words(text: Any) -> Any:
    """How many words ``fasttext.tokenize`` finds in each of a pyarrow array of texts, shape (len(text),)."""
    import pyarrow.compute as pc

    trimmed = pc.ascii_trim_whitespace(pc.replace_substring(text, "\0", " "))
    split = _counts(pc.list_value_length(pc.ascii_split_whitespace(trimmed))) - _is_empty(trimmed)
    return split + _counts(pc.count_substring(text, "\n"))


def _any_word(text: Any, wanted: Callable[[str], bool]) -> Mask:
    """True for texts of which any word is ``wanted``; each distinct word is asked about once."""
    import pyarrow.compute as pc

    lists = pc.utf8_split_whitespace(text)  # what it adds at the ends, empty words, WordNet does not know
    found = lists.flatten().dictionary_encode()
    answers = np.array(list(map(wanted, found.dictionary.to_pylist())), dtype=bool)
    hits = np.concatenate([[0], np.cumsum(answers[found.indices.to_numpy()])])
    ends = np.cumsum(_counts(pc.list_value_length(lists)))
    return np.diff(hits[np.concatenate([[0], ends])]) > 0


def _texts(rows: Rows) -> Iterator[Any]:
    """The captions, as pyarrow arrays of bounded length."""
    for batch in rows.table.select(["text"]).to_batches(max_chunksize=BATCH):
        yield batch["text"]


def _counts(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False).astype(np.int64)


def _is_empty(text: Any) -> Any:
    import pyarrow.compute as pc

    return _counts(pc.equal(pc.binary_length(text), 0))
