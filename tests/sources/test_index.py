"""Indexing a pool finds everything that upstream would misread or die of, and says so in one message."""

import re
from pathlib import Path

import numpy as np
import pytest

from dcexp.engines.local import Local
from dcexp.filters.none import NoFilter
from dcexp.sources.commonpool import CommonPool
from tests.pools import ONE, hex_uids, indexed, selected, write_npz, write_parquet, write_pool


@pytest.fixture
def root(tmp_path):
    write_pool(tmp_path / "pool")
    return tmp_path / "pool"


def test_the_index_says_what_there_is(root, tmp_path):
    pool = indexed(root, tmp_path / "out")
    assert pool.rows == 12 and pool.root == root.resolve()
    assert [(Path(p.parquet).name, Path(p.npz).name, p.rows) for p in pool.parts] == [
        ("0000.parquet", "0000.npz", 7), ("0001.parquet", "0001.npz", 5)
    ]  # fmt: skip
    assert pool.columns == ("uid", "text", "clip_l14_similarity_score", "clip_b32_similarity_score")
    assert pool.features == {"l14_img": 4, "b32_img": 2}
    assert [Path(tar).name for tar in pool.shards] == ["00000000.tar", "00000001.tar"]
    assert Path(pool.shards[0]).is_file()
    assert pool.parts[0].features("l14_img").shape == (7, 4)


def test_the_index_does_not_depend_on_workers(root, tmp_path):
    one, two = indexed(root, tmp_path / "one"), indexed(root, tmp_path / "two", Local(workers=2))
    assert one.index == two.index


def test_the_digest_follows_uids_and_scores(root, tmp_path):
    uids, before = hex_uids(5, seed=1), indexed(root, tmp_path / "a").index["metadata_digest"]
    write_parquet(root / "metadata" / "0001.parquet", uids)
    assert indexed(root, tmp_path / "b").index["metadata_digest"] == before
    write_parquet(root / "metadata" / "0001.parquet", uids, clip_l14_similarity_score=[0.1, 0.2, 0.3, 0.4, 0.6])
    assert indexed(root, tmp_path / "d").index["metadata_digest"] != before
    write_parquet(root / "metadata" / "0001.parquet", hex_uids(5, seed=9))
    assert indexed(root, tmp_path / "c").index["metadata_digest"] != before


def test_columns_and_features_are_those_of_all_files(root, tmp_path):
    write_parquet(root / "metadata" / "0002.parquet", hex_uids(3), clip_b32_similarity_score=None, extra=[1, 2, 3])
    pool = indexed(root, tmp_path / "out")
    assert pool.columns == ("uid", "text", "clip_l14_similarity_score") and pool.features == {}
    with pytest.raises(FileNotFoundError, match=r"0002.parquet has no .npz beside it"):
        pool.parts[2].features("l14_img")
    with pytest.raises(ValueError, match="no features 'dedup'; it has: l14_img, b32_img"):
        pool.parts[0].features("dedup")


def test_stray_files_are_ignored_and_counted(root, tmp_path):
    for name in ("readme.txt", ".hidden.parquet", "other.npz", "a.parquet.tmp"):
        (root / "metadata" / name).write_text("stray")
    (root / "metadata" / "folder.parquet").mkdir()
    (tmp_path / "out").mkdir()
    summary = CommonPool(root=str(root)).run(tmp_path / "out", ONE)
    assert summary.facts["ignored_files"] == 4 and summary.facts["metadata_files"] == 2


def no_uid(folder):
    write_parquet(
        folder / "0002.parquet", ["a"], uid=None, clip_l14_similarity_score=None, clip_b32_similarity_score=None
    )


def no_hex_uid(folder):
    write_parquet(folder / "0002.parquet", ["0" * 32, "xyz"])


def uid_of_numbers(folder):
    write_parquet(folder / "0002.parquet", [1, 2])


def null_uid(folder):
    write_parquet(folder / "0002.parquet", ["0" * 32, None])


def truncated_parquet(folder):
    (folder / "0001.parquet").write_bytes((folder / "0001.parquet").read_bytes()[:-100])


def empty_parquet(folder):
    (folder / "0001.parquet").write_bytes(b"")


def damaged_pages(folder):
    content = bytearray((folder / "0001.parquet").read_bytes())
    content[4:60] = bytes(56)
    (folder / "0001.parquet").write_bytes(content)


def more_features(folder):
    write_npz(folder / "0001.npz", 6)


def other_width(folder):
    write_npz(folder / "0001.npz", 5, width=8)


def pickled_features(folder):
    np.savez(folder / "0001.npz", l14_img=np.array([{}] * 5, dtype=object))


def truncated_npz(folder):
    (folder / "0001.npz").write_bytes((folder / "0001.npz").read_bytes()[:-60])


def strange_npz(folder):
    import zipfile

    with zipfile.ZipFile(folder / "0001.npz", "w") as archive:
        archive.writestr("l14_img.npy", b"nonsense")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (uid_of_numbers, r"0002.parquet: a uid is 32 hexadecimal digits of text; this column holds int64"),
        (no_uid, r"0002.parquet has no column 'uid'; it has: text"),
        (truncated_parquet, r"0001.parquet is not a readable parquet file"),
        (empty_parquet, r"0001.parquet is not a readable parquet file"),
        (more_features, r"0001.npz: array 'l14_img' has shape \(6, 4\), but 0001.parquet has 5 rows"),
        (other_width, r"0001.npz: 'l14_img' is 8 wide, but in .*0000.npz it is 4"),
        (pickled_features, r"0001.npz: array 'l14_img.npy' holds pickled objects, which could run code; refused"),
        (truncated_npz, r"0001.npz is not a readable npz file"),
        (strange_npz, r"0001.npz is not a readable npz file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(root, tmp_path, harm, message):
    harm(root / "metadata")
    with pytest.raises(ValueError, match=message):
        indexed(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_hex_uid, r"0002.parquet: a uid is 32 hexadecimal digits; row 1 holds 'xyz'"),
        (null_uid, r"0002.parquet: a uid is 32 hexadecimal digits; row 1 holds None"),
        (damaged_pages, r"0001.parquet cannot be read"),
    ],
)
def test_bad_rows_are_named_when_they_are_first_read(root, tmp_path, harm, message):
    harm(root / "metadata")
    pool = indexed(root, tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        selected(NoFilter(), pool, tmp_path / "out")


def test_a_pool_without_samples_is_refused(tmp_path):
    write_parquet(tmp_path / "pool" / "metadata" / "0.parquet", [])
    with pytest.raises(ValueError, match="hold no samples: the pool is empty"):
        indexed(tmp_path / "pool", tmp_path / "out")


def test_no_pool_says_where_and_what_and_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = CommonPool(root="nowhere")
    with pytest.raises(FileNotFoundError) as error:
        source.check(ONE, **source.step().values)
    for word in (str(tmp_path.resolve() / "nowhere"), "metadata", "shards", "download_upstream.py", "source.root="):
        assert word in str(error.value)
    (tmp_path / "nowhere" / "metadata").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=re.escape("has no .parquet files in metadata/")):
        source.check(ONE)


def test_a_pool_without_shards_can_be_indexed(tmp_path):
    write_parquet(tmp_path / "pool" / "metadata" / "0.parquet", hex_uids(3))
    assert indexed(tmp_path / "pool", tmp_path / "out").shards == ()


def test_two_spellings_of_a_path_are_one_pool_and_added_files_make_another(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    key = CommonPool(root=str(root)).step().key
    assert CommonPool(root="pool").step().key == CommonPool(root="./pool/../pool/").step().key == key
    write_npz(root / "metadata" / "other.npz", 3)
    added = CommonPool(root="pool").step().key
    assert added != key
    (root / "shards" / "00000002.tar").touch()
    assert CommonPool(root="pool").step().key not in {key, added}
    assert CommonPool(root="nowhere").step().values["listing"] == "missing"
