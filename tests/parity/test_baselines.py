"""The official baselines, byte for byte: each option of conf/filter against upstream's rule, written out plainly.

The rules are those of the specification, one row after the other, in plain Python, with the libraries that upstream
calls (fastText, gcld3, nltk). Pools are random: several files, ties, captions of many languages and with all that
Unicode can do, uids in upper case.
"""

import functools
import importlib.util
import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.subset import SUBSET
from dcexp.assets import Assets
from dcexp.engines.local import Local
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.captions import WEB
from tests.parity.words import first_synset
from tests.pools import hex_uids, write_parquet
from tests.test_conf import composed

WORDS = ["the", "a", "dog", "dogs", "Dogs,", "und", "der", "chien", "TENCH", "beach", "running", "le", "geese", "2"]
WORDS += ["photo", "of", "walked", "church's", "le-chat", "мир", "possess"]
NEEDS_LANGUAGE = pytest.mark.skipif(importlib.util.find_spec("fasttext") is None, reason="needs dcexp[lang]")
NEEDS_CLD3 = pytest.mark.skipif(importlib.util.find_spec("gcld3") is None, reason="needs gcld3")
PARTS, WIDTH, CENTROIDS = (37, 1, 0, 25, 40), 8, 12
SMALL_MODEL = "filter.of.english.model=lid.176.ftz"


@pytest.fixture(params=range(4))
def pool(request, tmp_path):
    return RandomPool(tmp_path, request.param)


class RandomPool:
    """A pool, its rows as dicts, and what image-based filtering needs, made up from a seed."""

    def __init__(self, root, seed):
        self.root, rng = root, np.random.default_rng(seed)
        self.rows = []
        for number, size in enumerate(PARTS):
            path = root / "pool" / "metadata" / f"{rng.integers(1 << 60):x}_{number}.parquet"
            uids = [uid.upper() if rng.random() < 0.3 else uid for uid in hex_uids(size, seed=1000 * seed + number)]
            columns = {
                "text": [caption(rng) for _ in uids],
                "original_width": rng.integers(0, 900, size),
                "original_height": rng.integers(0, 600, size),
                "clip_l14_similarity_score": rng.integers(0, 30, size) / 30,  # ties
                "clip_b32_similarity_score": (rng.integers(0, 40, size) / 100).astype(np.float32),
                "sha256": [f"{row % 17:064x}" for row in range(size)],
            }
            write_parquet(path, uids, **columns)
            features = rng.normal(size=(size, WIDTH)).astype(np.float16)
            texts = np.roll(features, 1, axis=0)  # nothing more is drawn: what is drawn after it stays as it was
            np.savez(path.with_suffix(".npz"), l14_img=features, l14_txt=texts)
            rows = pq.read_table(path).to_pylist()
            self.rows += [{**row, "l14_img": f} for row, f in zip(rows, features, strict=True)]
        self.centroids = rng.normal(size=(CENTROIDS, WIDTH)).astype(np.float32)
        self.target = rng.normal(size=(7, WIDTH)).astype(np.float32)
        np.save(root / "centroids.npy", self.centroids)
        np.save(root / "target.npy", self.target)

    def file_of(self, *words):
        """The bytes that dcexp writes for the filter of these words of the command line."""
        stage = composed(*words).filter
        step = stage.step(CommonPool(root=str(self.root / "pool")).step())
        stage.check(Local(workers=1), **step.values)
        built = Store(root=str(self.root / "store")).build(step, Local(workers=1))
        return (built.path / SUBSET).read_bytes()

    def wanted(self, keeps):
        """The bytes that upstream writes when ``keeps`` says which rows stay."""
        pairs = [(int(u[:16], 16), int(u[16:], 16)) for row in self.rows if keeps(row) for u in [row["uid"]]]
        assert pairs, "a pool of which nothing is kept tests nothing"
        buffer = io.BytesIO()
        np.save(buffer, np.array(sorted(pairs), dtype="u8,u8"))
        return buffer.getvalue()

    def threshold(self, column, fraction):
        """Upstream's: the score at index int(N * fraction) in descending order."""
        return sorted((row[column] for row in self.rows), reverse=True)[int(len(self.rows) * fraction)]


def caption(rng):
    if rng.random() < 0.4:
        return str(rng.choice(WEB))
    return " ".join(rng.choice(WORDS, size=rng.integers(0, 9)))


@functools.cache
def fasttext_model():
    import fasttext

    return fasttext.load_model(str(Assets().files("lid_176_ftz")[0]))


def fasttext_says_english(text):
    return fasttext_model().predict(text.replace("\n", " "))[0][0] == "__label__en"


def names_an_entity(text, ids):
    return any(first_synset(word) in ids for word in text.split())


def imagenet21k_ids():
    (path,) = Assets().files("imagenet21k")
    return {int(line[1:]) for line in path.read_text().split()}


def fasttext_tokens(text):
    """Pieces between blanks, tabs, line ends, form feeds, vertical tabs and NULs; and one for every line feed."""
    pieces = text.translate({ord(c): " " for c in "\t\n\v\f\r\0"}).split(" ")
    return len([piece for piece in pieces if piece]) + text.count("\n")


def nearest(features, centroids):
    return int(np.argmax(centroids @ np.asarray(features, np.float32)))


def passes_image_rule(pool, row, targets):
    text = row["text"]
    weak = fasttext_says_english(text) and fasttext_tokens(text) > 1 and len(text) > 5
    return weak and nearest(row["l14_img"], pool.centroids) in targets


def test_no_filter(pool):
    assert pool.file_of("filter=none") == pool.wanted(lambda row: True)


@pytest.mark.parametrize("arch", ["l14", "b32"])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.75])
def test_clip_score_fraction(pool, arch, fraction):
    column = f"clip_{arch}_similarity_score"
    threshold = pool.threshold(column, fraction)
    words = ["filter=clip_score", f"filter.fraction={fraction}", f"filter.arch={arch}"]
    assert pool.file_of(*words) == pool.wanted(lambda row: row[column] >= threshold)


@pytest.mark.parametrize("arch", ["l14", "b32"])
@pytest.mark.parametrize("threshold", [0.2, 0.28, 0.3])
def test_clip_score_threshold(pool, arch, threshold):
    column = f"clip_{arch}_similarity_score"
    words = ["filter=clip_score_threshold", f"filter.threshold={threshold}", f"filter.arch={arch}"]
    limit = np.float32(threshold) if arch == "b32" else threshold  # a column of floats is compared as floats
    assert pool.file_of(*words) == pool.wanted(lambda row: row[column] >= limit)


@NEEDS_LANGUAGE
def test_basic(pool):
    def keeps(row):
        text, sides = row["text"], (row["original_width"], row["original_height"])
        long_enough = len(text.split()) > 2 and len(text) > 5
        return fasttext_says_english(text) and long_enough and min(sides) >= 200 and max(sides) / min(sides) <= 3.0

    assert pool.file_of("filter=basic", SMALL_MODEL) == pool.wanted(keeps)


@NEEDS_LANGUAGE
def test_text_based(pool):
    ids = imagenet21k_ids()

    def keeps(row):
        return fasttext_says_english(row["text"]) and names_an_entity(row["text"], ids)

    assert pool.file_of("filter=text_based", SMALL_MODEL) == pool.wanted(keeps)


@NEEDS_CLD3
def test_laion2b(pool):
    import gcld3

    model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def keeps(row):
        english = model.FindLanguage(text=row["text"].replace("\n", " ")).language == "en"
        return english and row["clip_b32_similarity_score"] >= np.float32(0.28)

    assert pool.file_of("filter=laion2b") == pool.wanted(keeps)


def image_words(pool, *path):
    given = ".".join(["filter", "of", *path, "in_clusters"])
    return [f"{given}.centroids={pool.root}/centroids.npy", f"{given}.target={pool.root}/target.npy"]


@NEEDS_LANGUAGE
def test_image_based(pool):
    targets = {nearest(f, pool.centroids) for f in pool.target}
    words = ["filter=image_based", SMALL_MODEL, *image_words(pool)]
    assert pool.file_of(*words) == pool.wanted(lambda row: passes_image_rule(pool, row, targets))


@NEEDS_LANGUAGE
def test_image_based_and_clip_score(pool):
    targets = {nearest(f, pool.centroids) for f in pool.target}
    threshold = pool.threshold("clip_l14_similarity_score", 0.3)
    words = ["filter=image_based_and_clip_score", "filter.of.image_based.of.english.model=lid.176.ftz"]
    words += image_words(pool, "image_based", "of")

    def keeps(row):
        return row["clip_l14_similarity_score"] >= threshold and passes_image_rule(pool, row, targets)

    assert pool.file_of(*words) == pool.wanted(keeps)
