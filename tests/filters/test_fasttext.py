"""fastText's models for many captions at once, against the library itself."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.assets import Assets
from dcexp.embedded.captions import ENGLISH, FOREIGN_WORDS, UNRELATED
from dcexp.filters import fasttext as module
from dcexp.filters.fasttext_file import read_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("fasttext") is None, reason="needs dcexp[lang]")
CAPTIONS = [*ENGLISH, *UNRELATED, *(t.format(w) for t, words in FOREIGN_WORDS.items() for w in words.split())]
CAPTIONS += [caption[:n] for caption in CAPTIONS for n in (3, 9, 20)] + ["", " ", "\x00", "a\nb", "é" * 300, "😀"]


@pytest.fixture(scope="module")
def small():
    return Assets().files("lid_176_ftz")[0]


@pytest.fixture(scope="module")
def dense(small, tmp_path_factory):
    """The same model in the dense format of lid.176.bin: every bucket has a row, zeros where none was left."""
    model = read_model(small)
    buckets = np.zeros((model.buckets, model.vectors.shape[1]), np.float32)
    assert model.place is not None
    left = np.flatnonzero(model.place >= 0)
    buckets[left] = model.vectors[len(model.words) + model.place[left]]
    vectors = np.concatenate([model.vectors[: len(model.words)], buckets])
    path = tmp_path_factory.mktemp("model") / "dense.bin"
    raw = small.read_bytes()
    head = struct.calcsize("<2i12id3iq")
    body = end_of_entries(raw, head + 8)
    with path.open("wb") as file:
        file.write(raw[:head] + struct.pack("<q", -1) + raw[head + 8 : body] + b"\x00")
        for matrix in (vectors, np.concatenate([model.nodes, np.zeros((1, 16), np.float32)])):
            file.write(struct.pack("<qq", *matrix.shape) + matrix.tobytes() + b"\x00" * (matrix is vectors))
    return path


def end_of_entries(raw, at):
    (size,) = struct.unpack_from("<i", raw, struct.calcsize("<2i12id"))
    for _ in range(size):
        at = raw.index(b"\x00", at) + 1 + struct.calcsize("<qb")
    return at


def library(path, texts):
    import fasttext

    model = fasttext.load_model(str(path))
    return [model.predict(text.replace("\n", " "))[0][0].removeprefix("__label__") for text in texts]


def answers(path, texts, language):
    model = read_model(path)
    array = pa.array(texts, pa.string())
    best, close = model.is_best(model.hidden(array), model.labels.index(language))
    return best, close | module.holds_end(array)


@pytest.mark.parametrize("which", ["small", "dense"])
@pytest.mark.parametrize("language", ["en", "de", "pt", "zh", "la"])
def test_it_answers_as_the_library_does(which, language, request):
    path = request.getfixturevalue(which)
    best, unsure = answers(path, CAPTIONS, language)
    wanted = np.array([label == language for label in library(path, CAPTIONS)])
    assert (best == wanted)[~unsure].all() and unsure.mean() < 0.05
    assert language == "la" or wanted.any()


WORD = st.text(max_size=8) | st.sampled_from(
    ["</s>", "__label__en", "the", "und", "\x0b", "\r", "\x1c", "<", ">", "a\x00b"]
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.lists(WORD, max_size=6).map(" ".join), min_size=1, max_size=5))
def test_it_answers_as_the_library_does_to_any_text(texts):
    texts = [text for text in texts if text.isprintable() or text.encode(errors="ignore")]
    path = Assets().files("lid_176_ftz")[0]
    best, unsure = answers(path, texts, "en")
    assert [bool(b) for b in best[~unsure]] == [
        label == "en" for label, skip in zip(library(path, texts), unsure, strict=True) if not skip
    ]


def reference_ngrams(word, shortest, longest):
    framed = f"<{word}>"
    for i in range(len(framed)):
        for n in range(shortest, longest + 1):
            if i + n <= len(framed) and not (n == 1 and i in (0, len(framed) - 1)):
                h = 2166136261
                for byte in framed[i : i + n].encode():
                    h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
                yield h


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=5))
@pytest.mark.parametrize("lengths", [(2, 4), (1, 3), (3, 3)])
def test_ngrams_are_those_of_a_plain_loop(words, lengths):
    found = list(module.ngrams(pa.array(words, pa.string()), *lengths))
    assert len(found) == lengths[1] - lengths[0] + 1 and all((np.diff(word) >= 0).all() for word, _ in found)
    for number, text in enumerate(words):
        mine = [h for word, hashes in found for h in hashes[word == number].tolist()]
        assert sorted(mine) == sorted(reference_ngrams(text, *lengths))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "ends too early"), (b"x" * 200, "is not a fastText model"), (None, "ends too early")],
)
def test_what_is_no_model_is_refused(small, tmp_path, content, message):
    path = Path(tmp_path / "model.bin")
    path.write_bytes(small.read_bytes()[:1000] if content is None else content)
    with pytest.raises(ValueError, match=message):
        read_model(path)
