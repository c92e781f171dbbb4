"""Filters that decide row by row or by one score: upstream's rules, bit for bit, against a slow plain reference."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters.base import ShardFilter
from dcexp.filters.clip_score import ClipScoreFraction, ClipScoreThreshold
from dcexp.filters.cut import Threshold, TopFraction
from dcexp.filters.none import NoFilter
from dcexp.filters.score import Column
from tests.pools import ONE, as_pairs, hex_uids, indexed, selected, write_parquet, write_pool

SCORES = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 1.0, math.nan]) | st.floats(-1, 1, width=32)


@pytest.fixture
def pool(tmp_path):
    write_pool(tmp_path / "pool", parts=(40, 25, 1), features=False)
    return indexed(tmp_path / "pool", tmp_path / "index")


def rows_of(pool, column="uid"):
    """(uid, value) for every row of the pool, as plain Python."""
    table = [row for part in pool.parts for row in pq.read_table(part.parquet).to_pylist()]
    return [(row["uid"], row[column]) for row in table]


def file_of(pairs):
    """The bytes of the subset file that upstream writes for these uids."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array(sorted(pairs), dtype="u8,u8"))
    return buffer.getvalue()


def upstreams_fraction(rows, fraction):
    """Keep what reaches the value at index int(N * f) of the scores in descending order."""
    threshold = sorted((score for _, score in rows), reverse=True)[int(len(rows) * fraction)]
    return [uid for uid, score in rows if score >= threshold]


def test_no_filter_writes_upstreams_file(pool, tmp_path):
    subset, summary = selected(NoFilter(), pool, tmp_path / "out")
    assert (subset.path / SUBSET).read_bytes() == file_of(as_pairs([uid for uid, _ in rows_of(pool)]))
    assert summary.counts.kept == summary.counts.total == 66


@pytest.mark.parametrize("arch", ["l14", "b32"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.99])
def test_clip_score_fraction_writes_upstreams_file(pool, tmp_path, arch, fraction):
    subset, summary = selected(ClipScoreFraction(fraction=fraction, arch=arch), pool, tmp_path / "out")
    wanted = upstreams_fraction(rows_of(pool, f"clip_{arch}_similarity_score"), fraction)
    assert (subset.path / SUBSET).read_bytes() == file_of(as_pairs(wanted))
    assert summary.counts.kept == len(wanted) == int(66 * fraction) + 1
    assert summary.counts.dropped == 66 - len(wanted)


@pytest.mark.parametrize("arch", ["l14", "b32"])
def test_clip_score_threshold_writes_upstreams_file(pool, tmp_path, arch):
    rows = rows_of(pool, f"clip_{arch}_similarity_score")
    threshold = rows[7][1]
    subset, _ = selected(ClipScoreThreshold(threshold=threshold, arch=arch), pool, tmp_path / "out")
    assert (subset.path / SUBSET).read_bytes() == file_of(as_pairs([u for u, s in rows if s >= threshold]))


def test_workers_do_not_change_the_file(pool, tmp_path):
    (tmp_path / "two").mkdir()
    one, _ = selected(ClipScoreFraction(), pool, tmp_path / "one")
    ClipScoreFraction().run(tmp_path / "two", Local(workers=2), pool=pool)
    assert (one.path / SUBSET).read_bytes() == (tmp_path / "two" / SUBSET).read_bytes()


@pytest.mark.parametrize("ties", ["include", "exact"])
def test_everything_can_be_kept(pool, tmp_path, ties):
    _, summary = selected(ClipScoreFraction(fraction=1.0, ties=ties), pool, tmp_path / "out")
    assert summary.counts.kept == 66


@pytest.fixture
def tied(tmp_path):
    """Scores 0.5 in most rows, over two files; two missing."""
    uids = hex_uids(10)
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", uids[:5], score=[0.5, 0.9, None, 0.5, 0.1])
    write_parquet(tmp_path / "p" / "metadata" / "1.parquet", uids[5:], score=[0.5, 0.5, math.nan, 0.2, 0.5])
    return indexed(tmp_path / "p", tmp_path / "index"), uids


def test_ties_are_all_kept_or_taken_in_the_order_of_the_pool(tied, tmp_path):
    pool, uids = tied
    subset, summary = selected(TopFraction(score=Column(column="score"), fraction=0.3), pool, tmp_path / "a")
    assert as_pairs(subset.uids()) == sorted(as_pairs([uids[i] for i in (0, 1, 3, 5, 6, 9)]))
    assert (summary.counts.missing, summary.facts["threshold"]) == (2, 0.5)
    subset, summary = selected(
        TopFraction(score=Column(column="score"), fraction=0.4, ties="exact"), pool, tmp_path / "b"
    )
    assert as_pairs(subset.uids()) == sorted(as_pairs([uids[i] for i in (0, 1, 3, 5)]))
    assert (summary.counts.kept, summary.counts.dropped, summary.counts.missing) == (4, 4, 2)


def test_missing_scores_never_pass_and_are_counted(tied, tmp_path):
    pool, _ = tied
    for number, stage in enumerate(
        (Threshold(score=Column(column="score"), threshold=-9.0), TopFraction(score=Column(column="score"), fraction=1))
    ):
        _, summary = selected(stage, pool, tmp_path / str(number))
        assert (summary.counts.kept, summary.counts.dropped, summary.counts.missing) == (8, 0, 2)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match=r"filter.fraction=.*: wanted more than 0 and at most 1"):
        ClipScoreFraction(fraction=fraction)


def test_a_column_the_pool_lacks_is_named_with_those_it_has(tmp_path):
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", hex_uids(2), clip_l14_similarity_score=None)
    pool = indexed(tmp_path / "p", tmp_path / "index")
    for stage in (ClipScoreFraction(), ClipScoreThreshold(threshold=0.3, arch="l14")):
        with pytest.raises(ValueError, match=r"needs the column 'clip_l14_similarity_score'.*they all have: uid, text"):
            selected(stage, pool, tmp_path / "out")
    with pytest.raises(ValueError, match="column 'text' holds string, not numbers"):
        selected(Threshold(score=Column(column="text"), threshold=0), pool, tmp_path / "out")


def test_a_subset_of_nothing_is_refused(pool, tmp_path):
    with pytest.raises(ValueError, match=r"threshold_9.0-arch_l14 kept 0 of 66 samples; 66 dropped by .*; loosen"):
        selected(ClipScoreThreshold(threshold=9.0, arch="l14"), pool, tmp_path / "out")


def test_metadata_that_changed_after_indexing_are_noticed(pool, tmp_path):
    write_parquet(tmp_path / "pool" / "metadata" / "0001.parquet", hex_uids(3))
    with pytest.raises(ValueError, match=r"0001.parquet has 3 rows; it had 25 when the pool was indexed"):
        selected(NoFilter(), pool, tmp_path / "out")


def test_a_uid_in_two_rows_is_one_sample_and_that_is_said(tmp_path, caplog):
    uids = hex_uids(3)
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", [*uids, uids[1]])
    write_parquet(tmp_path / "p" / "metadata" / "1.parquet", [uids[0]])
    subset, summary = selected(NoFilter(), indexed(tmp_path / "p", tmp_path / "index"), tmp_path / "out")
    assert as_pairs(subset.uids()) == sorted(as_pairs(uids))
    assert (summary.counts.total, summary.counts.kept, summary.counts.dropped) == (5, 3, 2)
    assert summary.facts["funnel"] == {"uid in an earlier row": 2} and "2 of the kept rows repeat" in caplog.text


@dataclass(frozen=True, kw_only=True)
class LongCaption(ShardFilter):
    """A filter as a user would write it: captions of more than ``length`` characters and a positive feature."""

    columns = ("text",)
    features = ("l14_img",)
    length: int

    def keep(self, rows):
        long = np.array([len(text) > self.length for text in rows.table["text"].to_pylist()])
        return long & (rows.features("l14_img")[:, 0] > 0)


def test_a_filter_of_ones_own_meets_no_nulls(tmp_path):
    uids = hex_uids(4)
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", uids, text=["a", None, "long enough", "long too"])
    np.savez(tmp_path / "p" / "metadata" / "0.npz", l14_img=np.array([[1], [1], [0], [1]], np.float16))
    pool = indexed(tmp_path / "p", tmp_path / "index")
    subset, summary = selected(LongCaption(length=4), pool, tmp_path / "out")
    assert as_pairs(subset.uids()) == as_pairs([uids[3]])
    assert (summary.counts.missing, summary.counts.dropped) == (1, 2)


def test_a_feature_the_pool_lacks_is_named(pool, tmp_path):
    bare = r"3 of its 3 files have no \.npz beside them, as 0000\.parquet; .* dcexp score"
    with pytest.raises(ValueError, match=rf"LongCaption needs the feature 'l14_img'.*they all have: none\. {bare}"):
        LongCaption(length=1).run(tmp_path, ONE, pool=pool)
