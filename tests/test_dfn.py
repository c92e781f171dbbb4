"""A data filtering network (arXiv:2309.17425) by the command line: a CLIP that was trained here scores and filters."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.uid import format_uid
from dcexp.embedded.dirt import drafts
from dcexp.embedded.scans import CLASS_NAMES, scans
from tests.cli import dcexp_process

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # three trainings of 400 steps
MODEL, COLUMN, STORE = "ViT-tiny-8", "clip_dfn_similarity_score", "outputs/store"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder in which a network was trained on the clean part of the pool, and has scored all of its tars."""
    folder = tmp_path_factory.mktemp("house")
    done(folder, "filter=clip_score until=checkpoint")
    weights, shards = only(folder, "checkpoint/*/epoch_latest.pt"), only(folder, "pool/*/shards")
    done(folder, f"score checkpoint={weights} model={MODEL} shards={shards} out=scored feature=dfn", "")
    return folder


def done(folder, words, rest="tracker=none"):
    """What ``python -m dcexp words`` says when it ends well."""
    ended = dcexp_process(f"{words} {rest}", folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def only(folder, pattern):
    (found,) = folder.glob(f"{STORE}/{pattern}")
    return found


def accuracy(folder, words):
    """Zero-shot accuracy on digits after training on what a filter keeps of the pool's own tars."""
    shards = only(folder, "pool/digits-*/shards")
    done(folder, f"source=webdataset source.root={shards} source.scored=scored {words}")
    runs = sorted(folder.glob("outputs/runs/*/*/eval_results.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(runs[-1].read_text())["metrics"]["acc1"]


@pytest.fixture(scope="module")
def accuracies(house):
    """With the network's best 30 % of the pool, and with all of it."""
    filters = (f"top_fraction filter.score.column={COLUMN} filter.fraction=0.3", "none")
    return [accuracy(house, f"filter={words}") for words in filters]


def test_what_the_network_chooses_trains_a_better_model_than_all_there_is(accuracies):
    """Seeds 0 to 2 gave 77, 72 and 79 percent with the filter, 51, 39 and 24 without.

    On one machine a seed gives the same again; on another it is a seed like another, and differences of seeds are
    38 points with a deviation of about 14.
    """
    chosen, everything = accuracies
    assert chosen > 0.6 and chosen > everything + 0.05


def test_nearly_all_that_it_chooses_says_what_is_there_and_half_of_the_pool_does(house, accuracies):
    """It was 97 and 52 percent. What is chosen is the best by its own scores."""
    parts = house.glob(f"{STORE}/pool/digits-*/metadata/*.parquet")
    pool = {row["uid"]: says(row) for part in parts for row in pq.read_table(part).to_pylist()}
    scores = pa.concat_tables(pq.read_table(part) for part in sorted(house.glob("scored/metadata/*.parquet")))
    order = np.argsort(-scores[COLUMN].to_numpy())[: int(0.3 * len(scores)) + 1]
    chosen = {format_uid(uid) for uid in np.load(only(house, "subset/top_fraction-*/subset.npy"))}
    assert chosen == {scores["uid"][int(row)].as_py() for row in order}
    assert np.mean([pool[uid] for uid in chosen]) > 0.9 and np.mean(list(pool.values())) < 0.6


def says(row):
    """Whether the caption names the digit in the picture. Nothing in the pool says it; a url ends in its number."""
    digit = int(scans("pool").digits[pool_drafts()[int(Path(row["url"]).stem)].scan])
    return bool({CLASS_NAMES[digit], str(digit)} & set(re.findall(r"\w+", row["text"].lower())))


@cache
def pool_drafts():
    return drafts(scans("pool"), size=12_800, seed=0)
