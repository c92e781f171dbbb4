"""Copies of images and captions, against a dict of lists."""

import hashlib
import math
import unicodedata
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.pool import Part
from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters.copies import Copies, CopyPlace
from dcexp.filters.random import RandomFraction
from dcexp.filters.rows import Rows
from dcexp.filters.sequence import Sequence
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images
from tests.pools import ONE, hex_uids

QUALITY = "clip_l14_similarity_score"
SIZES = (50, 0, 1, 49)


def plain(text):
    """A caption without what does not count."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def best(uids, values, quality, most, same=plain):
    """Which rows stay: of those that have the same, the ``most`` of the highest quality, then of the lowest uids."""
    groups, kept = defaultdict(list), np.zeros(len(uids), int)
    for i, value in enumerate(values):
        if value is not None and quality[i] is not None and not math.isnan(quality[i]):
            groups[same(value)].append(i)
    for rows in groups.values():
        kept[sorted(rows, key=lambda i: (-quality[i], uids[i]))[:most]] = 1
    return kept


def images(root, sizes=SIZES, **columns):
    """A pool whose features do not matter."""
    total = sum(sizes)
    columns.setdefault(QUALITY, np.random.default_rng(total).integers(0, 5, total).astype(float).tolist())
    named = columns.pop("named", ())
    parts = np.split(np.ones((total, 2), np.float16), np.cumsum(sizes)[:-1])
    return Images(root, parts, named=named, **columns), columns[QUALITY]


def captions(seed, total=100):
    words = [
        "a dog",
        "A  Dog",
        "a dog ",
        "ａ dog",
        "a\tdog",
        "a\x0bdog",
        "a\u2028dog",
        "cat",
        "",
        " ",
        "🐶",
        "🐶 ",
        "é",
        "e\u0301",
    ]
    return [words[i] for i in np.random.default_rng(seed).integers(0, len(words), total)]


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_the_best_of_each_caption_stay(seed, normalise, most, tmp_path):
    texts = captions(seed)
    pool, quality = images(tmp_path, text=texts)
    expected = best(pool.uids, texts, quality, most, plain if normalise else str)
    kept = pool.counts(Copies(column="text", most=most, normalise=normalise))
    assert kept.tolist() == expected.tolist()
    assert len({plain(t) if normalise else t for t in texts}) == (5 if normalise else 14)


def test_the_best_of_each_image_stays(tmp_path):
    digests = [hashlib.sha256(bytes([i % 17])).hexdigest() for i in range(100)]
    pool, quality = images(tmp_path, sha256=digests)
    assert pool.counts(Copies(column="sha256", most=1)).tolist() == best(pool.uids, digests, quality, 1).tolist()
    subset = pool.build(Copies(column="sha256", most=1))
    assert (subset.summary["counts"]["kept"], subset.summary["counts"]["dropped"]) == (17, 83)


def test_without_a_quality_the_lowest_uids_stay(tmp_path):
    texts = captions(3)
    pool, _ = images(tmp_path, text=texts)
    kept = pool.counts(Copies(column="text", most=2, quality=""))
    assert kept.tolist() == best(pool.uids, texts, [0] * 100, 2).tolist()


def test_a_quality_of_whole_numbers(tmp_path):
    quality = np.random.default_rng(0).integers(-3, 3, 100).tolist()
    pool, _ = images(tmp_path, text=["same"] * 100, width=quality)
    kept = pool.counts(Copies(column="text", most=7, quality="width"))
    assert kept.tolist() == best(pool.uids, ["same"] * 100, quality, 7).tolist()


@pytest.mark.parametrize("most, kept", [(1, 1), (40, 40), (99, 99), (100, 100), (1000, 100)])
def test_a_caption_that_every_row_has(most, kept, tmp_path):
    pool, quality = images(tmp_path, text=["the same"] * 100)
    found = pool.counts(Copies(column="text", most=most))
    assert found.sum() == kept and found.tolist() == best(pool.uids, ["the same"] * 100, quality, most).tolist()


letters = "aAàÀéßẞΣσıİǅﬁ①２\u0301\u00a0\u2003\u2028\u3000\u200b\x0b\x1f\x85\t\n 🐶👩\u200d🔬中"


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(letters, max_size=4), min_size=1, max_size=60))
def test_case_compatible_forms_and_white_space_do_not_count(texts, tmp_path_factory):
    """Two are the same where Python says so, but for two letters that Arrow makes small whatever is around them."""
    table = pa.table({"uid": hex_uids(len(texts)), "text": texts})
    part = Part(parquet="0.parquet", npz="", rows=len(texts))
    rows = Rows(part=part, number=0, table=table, where=np.ones(len(texts), dtype=bool))
    keys = CopyPlace(column="text", quality="").members(rows).keys.tolist()
    forms = [plain(text.replace("İ", "i").replace("Σ", "σ")) for text in texts]
    assert len(set(zip(keys, forms, strict=True))) == len(set(keys)) == len(set(forms))


def test_a_uid_in_two_rows_is_two_copies_and_kept_once(tmp_path):
    named = hex_uids(100)
    named[60], named[70] = named[3], named[4]
    texts = ["first", *[f"other {i}" for i in range(1, 100)]]
    texts[3] = texts[60] = "two rows"
    texts[4], texts[70] = "one", "another"
    pool, quality = images(tmp_path, named=named, text=texts, **{QUALITY: [i / 100 for i in range(100)]})
    subset = pool.build(Copies(column="text", most=1))
    counts = subset.summary["counts"]
    assert subset.summary["repeats"] == {"1": 98} and (counts["kept"], counts["dropped"]) == (98, 2)
    assert best(named, texts, quality, 1)[[3, 60, 4, 70]].tolist() == [0, 1, 1, 1]


def test_rows_without_caption_or_quality_are_missing(tmp_path):
    texts, quality = captions(5), np.random.default_rng(5).random(100).tolist()
    for i in (3, 50, 70):
        texts[i] = None
    quality[4], quality[5], quality[70] = None, math.nan, None
    pool, _ = images(tmp_path, text=texts, **{QUALITY: quality})
    kept = pool.counts(Copies(column="text", most=1))
    assert kept.tolist() == best(pool.uids, texts, quality, 1).tolist() and not kept[[3, 4, 5, 50, 70]].any()
    assert pool.build(Copies(column="text", most=1)).summary["counts"]["missing"] == 5
    without = pool.build(Copies(column="text", most=1, quality=""))
    assert without.summary["counts"]["missing"] == 3


KINDS = {
    "string": pa.string(),
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
    "large dictionary": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("normalise", [True, False])
def test_how_text_is_stored_does_not_matter(normalise, tmp_path):
    texts = captions(6)
    pool, quality = images(tmp_path, (20, 20, 20, 20, 20), text=texts)
    for number, kind in enumerate(KINDS.values()):
        path = tmp_path / "pool" / "metadata" / f"{number:04d}.parquet"
        table = pq.read_table(path)
        column = pa.array(table["text"].to_pylist(), pa.string()).cast(kind)
        pq.write_table(table.set_column(table.column_names.index("text"), "text", column), path, row_group_size=7)
    pool.source = CommonPool(root=str(tmp_path / "pool")).step()
    kept = pool.counts(Copies(column="text", most=1, normalise=normalise))
    assert kept.tolist() == best(pool.uids, texts, quality, 1, plain if normalise else str).tolist()


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(2), pa.int32(), pa.float32(), pa.bool_(), pa.timestamp("s")])
def test_bytes_and_numbers_have_copies_too(kind, tmp_path):
    numbers = [0 if i % 7 == 0 else 1 for i in range(100)] if pa.types.is_boolean(kind) else [i % 7 for i in range(100)]
    values = [bytes([n, 255]) for n in numbers] if "binary" in str(kind) else pa.array(numbers, pa.int64()).cast(kind)
    pool, quality = images(tmp_path, digest=pa.array(values, kind))
    kept = pool.counts(Copies(column="digest", most=1))
    assert kept.tolist() == best(pool.uids, numbers, quality, 1, same=int).tolist()


def test_a_column_without_a_plain_value_is_refused(tmp_path):
    pool, _ = images(tmp_path, boxes=[[0.1, 0.2]] * 100)
    with pytest.raises(ValueError, match=r"0000\.parquet: column 'boxes' holds list.*; wanted text, bytes or numbers"):
        pool.build(Copies(column="boxes", most=1))


def test_columns_that_are_not_there_or_hold_no_numbers_are_refused(tmp_path):
    pool, _ = images(tmp_path, text=captions(7))
    with pytest.raises(ValueError, match="CopyPlace needs the column 'sha256'"):
        pool.build(Copies(column="sha256", most=1))
    with pytest.raises(ValueError, match="column 'text' holds string, not numbers"):
        pool.build(Copies(column="text", quality="text", most=1))
    with pytest.raises(ValueError, match=r"filter\.most=0: wanted 1 or more"):
        Copies(column="text", most=0)


def test_workers_and_the_names_of_files_do_not_change_the_outcome(tmp_path):
    texts, quality, uids = captions(8), np.random.default_rng(8).integers(0, 3, 100).astype(float), hex_uids(100)
    pool, _ = images(tmp_path, named=uids, text=texts, **{QUALITY: quality.tolist()})
    stage, turned = Copies(column="text", most=2), np.roll(np.arange(100), 37)
    other, _ = images(
        tmp_path / "turned", (10, 30, 60), named=[uids[i] for i in turned], text=[texts[i] for i in turned],
        **{QUALITY: quality[turned].tolist()},
    )  # fmt: skip
    made = [pool.build(stage), pool.build(stage, engine=Local(workers=2), store="two"), other.build(stage)]
    assert len({(subset.path / SUBSET).read_bytes() for subset in made}) == 1


def test_places_are_made_once_for_all_caps(tmp_path):
    pool, _ = images(tmp_path, text=captions(9))
    kept = [set(pool.taken(Copies(column="text", most=most))) for most in (1, 2, 5)]
    assert kept[0] < kept[1] < kept[2] and len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1
    scores = Store(root=str(tmp_path / "store")).build(CopyPlace(column="text").step(pool.source), ONE)
    assert scores.summary["highest"] == 0 and np.array_equal(scores.of_part(0), np.round(scores.of_part(0)))
    stages = [{}, {"column": "uid"}, {"quality": ""}, {"normalise": False}]
    keys = {Copies(**{"column": "text", "most": 1, **f}).step(pool.source).steps["scores"].key for f in stages}
    assert len(keys) == len(stages)


def test_after_another_filter_only_its_survivors_are_compared(tmp_path):
    texts = captions(10)
    pool, quality = images(tmp_path, text=texts)
    first = RandomFraction(fraction=0.5)
    left = pool.counts(first)
    expected = best(pool.uids, [t if stays else None for t, stays in zip(texts, left, strict=True)], quality, 1)
    assert pool.counts(Sequence(first=first, then=Copies(column="text", most=1))).tolist() == expected.tolist()
    assert (expected & ~pool.counts(Copies(column="text", most=1))).any()
