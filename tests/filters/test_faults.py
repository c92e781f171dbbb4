"""What is wrong with pools of the real world: said clearly, counted, never skipped in silence."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.pool import DamagedError, Pool
from dcexp.filters.base import Filter
from dcexp.filters.captions import CaptionLength
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.cut import TopFraction
from dcexp.filters.image_size import ImageSize
from dcexp.filters.intersection import Intersection
from dcexp.filters.none import NoFilter
from dcexp.filters.random import RandomFraction
from dcexp.filters.score import Column
from dcexp.filters.sequence import Sequence
from dcexp.filters.uids import UidList
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, as_pairs, hex_uids, indexed, selected, write_npz, write_parquet, write_pool

UIDS = hex_uids(8)


def metadata(root, name="0.parquet", uids=UIDS, **columns):
    return write_parquet(root / "p" / "metadata" / name, uids, **columns)


def pool_of(root, **source):
    (root / "index").mkdir()
    CommonPool(root=str(root / "p"), **source).run(root / "index", ONE)
    return Pool(root / "index")


def built(root, stage, **source):
    """Build a filter as a run does: through the store, from the source on."""
    step = stage.step(CommonPool(root=str(root / "p"), **source).step())
    stage.check(ONE, **step.values)
    return Store(root=str(root / "store")).build(step, ONE)


def test_unpadded_uids_are_the_same_samples_to_every_filter_and_each_says_so_once(tmp_path, caplog):
    uids = ["1", "abc", *UIDS]
    sizes = {"original_width": [300] * 10, "original_height": [300] * 10, "text": ["one two three four"] * 10}
    metadata(tmp_path, uids=uids, **sizes)
    none, basic = (
        built(tmp_path, NoFilter()),
        built(tmp_path, Intersection(of={"a": ImageSize(), "b": CaptionLength()})),
    )
    padded = [uid.zfill(32) for uid in uids]
    assert as_pairs(none.uids()) == as_pairs(basic.uids()) == sorted(as_pairs(padded))
    assert caplog.text.count("2 uids have fewer than 32 digits") == 2


def test_nan_scores_are_counted_and_the_fraction_is_of_all_rows(tmp_path):
    metadata(tmp_path, s=[0.1, np.nan, 0.3, np.nan, 0.5, 0.6, 0.7, None])
    stage = TopFraction(score=Column(column="s"), fraction=0.5, ties="exact")
    subset, summary = selected(stage, pool_of(tmp_path), tmp_path / "out")
    assert as_pairs(subset.uids()) == sorted(as_pairs([UIDS[i] for i in (2, 4, 5, 6)]))
    assert (summary.counts.kept, summary.counts.dropped, summary.counts.missing) == (4, 1, 3)
    assert summary.facts["fraction_of"] == 8


def test_all_scores_nan_is_an_error_that_says_so(tmp_path):
    metadata(tmp_path, s=[np.nan] * 8)
    with pytest.raises(ValueError, match=r"kept 0 of 8 samples \(8 of them lack what it looks at\)"):
        selected(TopFraction(score=Column(column="s"), fraction=0.5), pool_of(tmp_path), tmp_path / "out")


def test_null_captions_are_missing(tmp_path):
    metadata(tmp_path, text=[None, "a caption long enough", *["another caption of words"] * 6])
    _, summary = selected(CaptionLength(), pool_of(tmp_path), tmp_path / "out")
    assert (summary.counts.kept, summary.counts.missing) == (7, 1)


def test_captions_that_are_no_utf8_are_corrupt_and_shown(tmp_path):
    texts = [b"a lone \xed\xa0\x80 surrogate half", b"line\nbreaks are \n fine", *[b"four words of text"] * 6]
    raw = pa.array(texts, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    metadata(tmp_path, text=text)
    subset, summary = selected(CaptionLength(), pool_of(tmp_path), tmp_path / "out")
    assert (summary.counts.kept, summary.counts.corrupt) == (7, 1)
    examples = pq.read_table(subset.path / "examples.parquet").to_pylist()
    assert [e["text"] for e in examples if not e["kept"]] == ["a lone ��� surrogate half"]


def test_a_filter_that_reads_no_text_does_not_care(tmp_path):
    raw = pa.array([b"\xff"] * 8, pa.binary())
    metadata(tmp_path, text=pa.Array.from_buffers(pa.string(), 8, raw.buffers()))
    _, summary = selected(NoFilter(), pool_of(tmp_path), tmp_path / "out")
    assert summary.counts.kept == 8


def test_zero_width_or_height_never_passes(tmp_path, recwarn):
    metadata(tmp_path, original_width=[0, 300, 0, 300, 199, 600, 900, 901], original_height=[300, 0, 0, *[300] * 5])
    subset, _ = selected(ImageSize(), pool_of(tmp_path), tmp_path / "out")
    assert as_pairs(subset.uids()) == sorted(as_pairs([UIDS[i] for i in (3, 5, 6)]))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_an_empty_part_and_stray_files_change_nothing(tmp_path):
    metadata(tmp_path)
    metadata(tmp_path, "1.parquet", uids=[], text=pa.array([], pa.string()))
    (tmp_path / "p" / "metadata" / "README.txt").write_text("hello")
    (tmp_path / "p" / "metadata" / "0.parquet.part").write_bytes(b"half")
    (tmp_path / "p" / "metadata" / ".hidden.parquet").write_bytes(b"?")
    subset = built(tmp_path, NoFilter())
    assert len(subset.uids()) == 8
    pool = Store(root=str(tmp_path / "store")).find(CommonPool(root=str(tmp_path / "p")).step())
    assert pool is not None and pool.summary["ignored_files"] == 3


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path):
    """Damage in the middle, which the end of the file does not show."""
    raw = bytearray(path.read_bytes())
    raw[200:400] = os.urandom(200)
    path.write_bytes(raw)


@pytest.mark.parametrize("harm", [truncated, flipped])
def test_a_corrupt_parquet_file_is_named_or_counted(tmp_path, harm, caplog):
    metadata(tmp_path)
    harm(metadata(tmp_path, "1.parquet", uids=hex_uids(500, seed=5)))
    with pytest.raises(ValueError, match=r"1.parquet .*source.skip_corrupt=true"):
        built(tmp_path, NoFilter())
    subset = built(tmp_path, NoFilter(), skip_corrupt=True)
    assert len(subset.uids()) == 8 and "1.parquet" in caplog.text


def test_damage_found_only_at_selection_is_named_or_counted(tmp_path):
    """The index reads uids alone; here the captions are what is broken."""
    metadata(tmp_path, text=["four words of text"] * 8)
    path = metadata(
        tmp_path, "1.parquet", uids=hex_uids(500, seed=5), text=[f"{i} is one two three" for i in range(500)]
    )
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    raw = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    raw[start : start + column.total_compressed_size] = os.urandom(column.total_compressed_size)
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"1.parquet cannot be read"):
        built(tmp_path, CaptionLength())
    subset = built(tmp_path, CaptionLength(), skip_corrupt=True)
    counts = subset.summary["counts"]
    assert (counts["total"], counts["kept"], counts["corrupt"]) == (508, 8, 500)


def broken_pages(path, name):
    """Make the pages of one column unreadable; the footer stays."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == name)
    raw, start = bytearray(path.read_bytes()), column.dictionary_page_offset or column.data_page_offset
    raw[start : start + column.total_compressed_size] = bytes(255 for _ in range(column.total_compressed_size))
    path.write_bytes(raw)


@pytest.mark.parametrize("column", ["uid", "clip_l14_similarity_score"])
def test_damage_is_counted_by_filters_that_look_at_the_pool_more_than_once(tmp_path, column):
    metadata(tmp_path)
    broken_pages(metadata(tmp_path, "1.parquet", uids=hex_uids(500, seed=5)), column)
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(UIDS[:3]))
    stages: dict[str, Filter] = {"fraction": ClipScoreFraction(fraction=0.9)}
    if column == "uid":
        stages |= {"random": RandomFraction(fraction=0.01), "uids": UidList(path=str(listed))}
        stages["sequence"] = Sequence(first=NoFilter(), then=ClipScoreFraction(fraction=0.5), fraction_of="input")
    for stage in stages.values():
        with pytest.raises(DamagedError, match=r"1.parquet cannot be read"):
            built(tmp_path, stage)
        counts = built(tmp_path, stage, skip_corrupt=True).summary["counts"]
        assert counts["total"] == 508 and 1 <= counts["kept"] <= 8


def test_what_pandas_makes_of_empty_columns_is_missing(tmp_path):
    metadata(tmp_path, text=["four words of text"] * 8, s=[1, 2, 3, 4, 5, 6, 7, 8])
    path = tmp_path / "p" / "metadata" / "1.parquet"
    pq.write_table(pa.table({"uid": hex_uids(3, seed=9), "text": pa.nulls(3), "s": pa.nulls(3)}), path)
    words = pa.array(["five words are in here", None]).dictionary_encode()
    path = tmp_path / "p" / "metadata" / "2.parquet"
    pq.write_table(pa.table({"uid": hex_uids(2, seed=8), "text": words, "s": pa.array([0.5, None])}), path)
    counts = built(tmp_path, CaptionLength()).summary["counts"]
    assert (counts["kept"], counts["missing"]) == (9, 4)
    counts = built(tmp_path, TopFraction(score=Column(column="s"), fraction=1.0)).summary["counts"]
    assert (counts["kept"], counts["missing"]) == (9, 4)


def test_parts_with_numbers_of_different_types_are_cut_as_one(tmp_path):
    metadata(tmp_path, uids=UIDS[:3], s=pa.array([1, 2, 3], pa.uint32()))
    metadata(tmp_path, "1.parquet", uids=UIDS[3:6], s=pa.array([0.5, 0.25, None]))
    subset = built(tmp_path, TopFraction(score=Column(column="s"), fraction=0.5, ties="exact"))
    assert as_pairs(subset.uids()) == sorted(as_pairs(UIDS[:3]))


@pytest.mark.parametrize("harm", [truncated, flipped])
def test_a_corrupt_npz_file_is_named_or_counted(tmp_path, harm):
    from dcexp.filters.base import ShardFilter

    class Positive(ShardFilter):
        features = ("l14_img",)

        def keep(self, rows, **extra):
            return rows.features("l14_img")[:, 0] >= 0

    for number in range(2):
        uids = hex_uids(40, seed=number)
        path = metadata(tmp_path, f"{number}.parquet", uids=uids)
        write_npz(path.with_suffix(".npz"), 40)
    harm(path.with_suffix(".npz"))
    with pytest.raises(DamagedError, match=r"1.npz .*source.skip_corrupt=true"):
        built(tmp_path, Positive())
    subset = built(tmp_path, Positive(), skip_corrupt=True)
    everything = subset.summary["counts"]["total"]
    assert len(subset.uids()) == 40 and everything in (40, 80)  # 40 where the index has left it out already


def test_a_killed_worker_fails_the_selection_at_once(tmp_path):
    write_pool(tmp_path / "p", parts=(30, 30, 30), features=False)
    program = f"""
import os, signal
from dataclasses import dataclass
from dcexp.engines.local import Local
from dcexp.filters.base import ShardFilter
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store

class Dies(ShardFilter):
    def keep(self, rows, **extra):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    step = Dies().step(CommonPool(root={str(tmp_path / "p")!r}).step())
    Store(root={str(tmp_path / "store")!r}).build(step, Local(workers=2))
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "a worker process died" in done.stderr


def test_a_text_column_cannot_be_cut(tmp_path):
    metadata(tmp_path)
    with pytest.raises(ValueError, match="column 'text' holds string, not numbers"):
        selected(TopFraction(score=Column(column="text"), fraction=0.5), pool_of(tmp_path), tmp_path / "out")


def test_a_fraction_of_one_keeps_everything(tmp_path):
    write_pool(tmp_path / "p", parts=(7, 5), features=False)
    pool = indexed(tmp_path / "p", tmp_path / "i")
    assert selected(ClipScoreFraction(fraction=1.0), pool, tmp_path / "out")[1].counts.kept == 12


@pytest.mark.parametrize(
    ("stage", "columns", "message"),
    [
        (CaptionLength(), {"text": list(range(8))}, "0.parquet: column 'text' holds int64, not text"),
        (
            ImageSize(),
            {"original_width": ["wide"] * 8, "original_height": [9] * 8},
            "0.parquet: column 'original_width' holds string, not numbers",
        ),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, stage, columns, message):
    metadata(tmp_path, **columns)
    with pytest.raises(ValueError, match=message):
        selected(stage, pool_of(tmp_path), tmp_path / "out")
