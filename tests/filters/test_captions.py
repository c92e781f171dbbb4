"""Filters by a caption's length and words, and by image size, against slow plain references."""

import functools
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcexp.assets import Assets
from dcexp.engines.local import Local
from dcexp.filters.captions import CaptionLength, TextEntities, fasttext_words, words_above
from dcexp.filters.image_size import ImageSize
from dcexp.filters.language import Language
from dcexp.filters.rows import Rows
from dcexp.filters.wordnet import wordnet
from dcexp.sources.commonpool import CommonPool
from dcexp.stage import Step
from dcexp.store import Store
from tests.filters.captions import SEPARATORS, WEB, anything, kept
from tests.filters.test_language import needs_cld3
from tests.pools import ONE, as_pairs, hex_uids, write_parquet
from tests.test_conf import composed

CODE_POINTS = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
texts = st.lists(anything, max_size=10)


def tokenized(text):
    """fasttext.tokenize, from its C++ source's definition of a word; equal to the real one on all that is below."""
    found, word = [], ""
    for char in text:
        if char in " \n\r\t\v\f\0":
            found += [word] if word else []
            found += ["</s>"] if char == "\n" else []
            word = ""
        else:
            word += char
    return found + ([word] if word else [])


def test_the_reference_tokenizes_as_the_real_fasttext():
    """Made with fasttext-numpy2 0.10.4; of all code points it separates at these seven only."""
    real = {
        "a b\nc": ["a", "b", "</s>", "c"],
        "\n": ["</s>"],
        "": [],
        "a\n\nb": ["a", "</s>", "</s>", "b"],
        " a  b ": ["a", "b"],
        "a\n": ["a", "</s>"],
        "a </s> b": ["a", "</s>", "b"],
        "\0": [],
        "a\0": ["a"],
    }
    assert {text: tokenized(text) for text in real} == real


@pytest.mark.parametrize("form", ["a{}b", "{}", "{}a", "a{}{}"])
def test_words_are_told_apart_at_every_code_point(form):
    each = [form.format(char, char) for char in CODE_POINTS]
    array = pa.array(each)
    for limit in range(4):
        assert words_above(array, limit).tolist() == [len(text.split()) > limit for text in each]
    assert fasttext_words(array).tolist() == [len(tokenized(text)) for text in each]


@settings(max_examples=500, deadline=None)
@given(texts=texts)
@example(texts=WEB)
def test_words_are_counted_as_python_and_fasttext_do(texts):
    array = pa.array(["x", *texts], pa.string())[1:]
    for limit in range(4):
        assert words_above(array, limit).tolist() == [len(text.split()) > limit for text in texts]
    assert fasttext_words(array).tolist() == [len(tokenized(text)) for text in texts]


@settings(max_examples=300, deadline=None)
@given(texts=texts, more_words=st.integers(0, 4), more_chars=st.integers(0, 8), slices=st.integers(1, 3))
def test_caption_length(texts, more_words, more_chars, slices):
    for split, count in (("whitespace", str.split), ("fasttext", tokenized)):
        stage = CaptionLength(words=more_words, chars=more_chars, split=split)
        expected = [len(count(text)) > more_words and len(text) > more_chars for text in texts]
        assert kept(stage, texts, slices=slices) == expected


def test_more_than_two_words_and_five_characters():
    assert kept(CaptionLength(), ["a b c", "a b cd", "ab cdefg", "a b  c"]) == [False, True, False, True]
    assert kept(CaptionLength(split="fasttext", words=1), ["a\nbcde", "abcde\n", "abcdef"]) == [True, True, False]


# Entities


@functools.cache
def published_ids():
    (timm,) = find_spec("timm").submodule_search_locations
    lines = (Path(timm) / "data/_info/imagenet21k_goog_synsets.txt").read_text().splitlines()
    return frozenset(int(line.strip()[1:]) for line in lines)


def names_entity(text, ids, suffixes="repeated"):
    (home,) = Assets().files("wordnet")
    return any(wordnet(home, suffixes)(word) in ids for word in text.split())


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.sampled_from(WEB) | anything | st.text(alphabet="dogscatdes \n", max_size=12), max_size=10))
@example(texts=WEB)
@example(texts=[f"the{s}dog{s}" for s in SEPARATORS])
@example(texts=[])
def test_text_entities(texts):
    ids = published_ids()
    for slices in (1, 3):
        assert kept(TextEntities(), texts, slices=slices) == [names_entity(text, ids) for text in texts]


def test_the_published_list_and_what_it_finds():
    assert len(published_ids()) == 21_843
    found = ["a dog", "tenches", "DOGS", "dog\u3000x", "dog\u200bx", "dog,", "beach with", "of the", ""]
    assert kept(TextEntities(), found) == [True, True, True, True, False, False, True, False, False]


def test_suffixes_are_replaced_again_and_again_or_once():
    assert kept(TextEntities(), ["dogss", "dogs"]) == [True, True]
    assert kept(TextEntities(suffixes="once"), ["dogss", "dogs"]) == [False, True]


def test_ones_own_list(tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("n02084071\r\n\n n01440764 \n")
    stage = TextEntities(entities=str(own))
    stage.check(Local())
    assert kept(stage, ["a dog", "two tench", "a cat"]) == [True, True, False]
    own.with_name("verbs.txt").write_text("v01904930")
    assert kept(TextEntities(entities=str(own.with_name("verbs.txt"))), ["walkinged", "dog"]) == [True, False]


def test_ones_own_list_is_known_by_its_content(tmp_path):
    pool = Step(CaptionLength(), {})  # any step will do

    def key(content, name):
        (tmp_path / name).write_bytes(content)
        return TextEntities(entities=str(tmp_path / name)).step(pool).key

    (published,) = Assets().files("imagenet21k")
    assert key(b"n02084071", "a") == key(b"n02084071", "b") != key(b"n01440764", "b")
    assert key(published.read_bytes(), "c") == TextEntities(assets=Assets(cache="/x")).step(pool).key


@pytest.mark.parametrize("line", ["dog", "n0208407", "n020840711", "02084071", "x02084071", "n0208407a", "n٠٢٠٨٤٠٧١"])
def test_a_list_of_something_else(tmp_path, line):
    own = tmp_path / "mine.txt"
    own.write_text(f"n02084071\n{line}\n")
    with pytest.raises(ValueError, match=r"mine\.txt, line 2: wanted a WordNet id like n01440764, got"):
        TextEntities(entities=str(own)).check_machine(Local())


def test_files_that_are_not_there_are_told_before_work():
    with pytest.raises(FileNotFoundError, match=r"filter\.entities=imagenet22k: no such file"):
        TextEntities(entities="imagenet22k").check(Local())
    for name in ("wordnet", "imagenet21k"):
        with pytest.raises(FileNotFoundError, match=f"assets.{name}=/no/such"):
            TextEntities(assets=Assets(**{name: "/no/such"})).check(Local())


# Image size


def large_and_short_enough(width, height, min_side=200, max_aspect=3.0):
    shorter, longer = sorted([width, height])
    return shorter > 0 and shorter >= min_side and longer / shorter <= max_aspect


sides = st.sampled_from([0, 1, 66, 67, 199, 200, 201, 599, 600, 601]) | st.integers(0, 5000)


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.tuples(sides, sides), max_size=20),
    type=st.sampled_from([pa.int64(), pa.int32(), pa.uint16(), pa.float64()]),
    min_side=st.sampled_from([0, 1, 200]),
    max_aspect=st.sampled_from([1.0, 2.3, 3.0, 8.955223880597014]),
)
def test_image_size(sizes, type, min_side, max_aspect):
    sides = zip(*sizes, strict=True) if sizes else ((), ())
    table = pa.table([pa.array(list(values), type) for values in sides], ["original_width", "original_height"])
    rows = Rows(part=None, number=0, table=table, where=np.ones(len(sizes), bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = ImageSize(min_side=min_side, max_aspect=max_aspect).keep(rows)
    assert mask.tolist() == [large_and_short_enough(w, h, min_side, max_aspect) for w, h in sizes]


@pytest.mark.parametrize("wrong", [{"min_side": -1}, {"max_aspect": 0.9}])
def test_a_size_that_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="wanted 0 or more pixels"):
        ImageSize(**wrong)


# The published combinations


@pytest.fixture
def root(tmp_path):
    """A pool of two parts with captions, sizes and scores of all kinds, some captions missing."""
    rng = np.random.default_rng(0)
    for number, count in enumerate((300, 200)):
        columns = {
            "text": [None if rng.random() < 0.05 else WEB[rng.integers(len(WEB))] for _ in range(count)],
            "original_width": rng.choice([0, 199, 200, 450, 700], count),
            "original_height": rng.choice([0, 200, 201, 640], count),
            "clip_b32_similarity_score": rng.choice([0.2, 0.28, 0.3], count),
        }
        write_parquet(tmp_path / "pool" / "metadata" / f"{number}.parquet", hex_uids(count, seed=number), **columns)
    (tmp_path / "pool" / "shards").mkdir()
    return tmp_path / "pool"


@functools.cache
def is_english(model):
    return {text: kept(Language(model=model), [text])[0] for text in WEB}


def is_basic(row):
    long_enough = len(row["text"].split()) > 2 and len(row["text"]) > 5
    large_enough = large_and_short_enough(row["original_width"], row["original_height"])
    return is_english("lid.176.ftz")[row["text"]] and long_enough and large_enough


def is_text_based(row):
    return is_english("lid.176.ftz")[row["text"]] and names_entity(row["text"], published_ids())


def is_laion2b(row):
    return is_english("gcld3")[row["text"]] and row["clip_b32_similarity_score"] >= 0.28


SMALL_MODEL = "filter.of.english.model=lid.176.ftz"


@pytest.mark.parametrize(
    "words, keeps",
    [
        (["filter=basic", SMALL_MODEL], is_basic),
        (["filter=text_based", SMALL_MODEL], is_text_based),
        pytest.param(["filter=laion2b"], is_laion2b, marks=needs_cld3),
    ],
)
def test_a_published_combination_keeps_the_rows_that_pass_every_rule(root, tmp_path, words, keeps):
    files = sorted((root / "metadata").iterdir())
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    expected = [row["uid"] for row in rows if row["text"] is not None and keeps(row)]
    step = composed(*words).filter.step(CommonPool(root=str(root)).step())
    subset = Store(root=str(tmp_path / "store")).build(step, ONE)
    assert as_pairs(subset.uids()) == sorted(as_pairs(expected))
    assert 0 < len(expected) < len(rows) / 2
