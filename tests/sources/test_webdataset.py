"""A folder of tars becomes a pool, and resharding finds its samples under the same uids."""

import json

import pytest

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.uid import format_uid
from dcexp.engines.local import Local
from dcexp.filters.none import NoFilter
from dcexp.reshard.copy import Copy
from dcexp.sources.webdataset import WebDataset
from dcexp.store import Store
from tests.pools import ONE, hex_uids, sample, write_parquet, write_tar

UIDS = hex_uids(2)


@pytest.fixture
def root(tmp_path):
    """Two tars with the same keys: with uid and sizes, without json, with a broken json, with a json without uid."""
    samples = [
        sample(UIDS[0], width=30, height=20, original_width=300, original_height=200),
        {"png": b"picture", "txt": "dé".encode()},
        {"jpg": b"picture", "json": b"{broken"},
        {"jpg": b"picture", "json": json.dumps({"caption": "from the json", "width": 9}).encode()},
    ]
    write_tar(tmp_path / "data" / "a.tar", samples)
    write_tar(tmp_path / "data" / "b.tar", [{"png": b"other", "txt": b"\xff"}, *samples[1:2]])
    return tmp_path / "data"


def indexed(root, out, engine=ONE):
    out.mkdir(exist_ok=True)
    summary = WebDataset(root=str(root)).run(out, engine)
    return Pool(out), summary


def test_metadata_are_made_from_the_tars(root, tmp_path):
    pool, summary = indexed(root, tmp_path / "out")
    table = pool.parts[0].table(["uid", "text", "original_width", "original_height"]).to_pylist()
    assert table[0] == {
        "uid": UIDS[0],
        "text": f"a picture of {UIDS[0][:6]}",
        "original_width": 300,
        "original_height": 200,
    }
    assert [row["text"] for row in table[1:]] == ["dé", "from the json"]
    assert (table[2]["original_width"], table[2]["original_height"]) == (9, None)
    assert summary.counts.kept == 4 and summary.counts.corrupt == 2 and summary.counts.add_up
    assert list(pool.shards) == [str(root / "a.tar"), str(root / "b.tar")]


def test_uids_are_stable_and_differ_between_tars(root, tmp_path):
    pool, _ = indexed(root, tmp_path / "one")
    root.rename(root.with_name("moved"))
    again, _ = indexed(root.with_name("moved"), tmp_path / "two", Local(workers=2))
    uids = [format_uid(uid) for part in pool.parts for uid in part.uids()]
    assert uids == [format_uid(uid) for part in again.parts for uid in part.uids()]
    assert len(set(uids)) == 4


def test_resharding_finds_every_sample(root, tmp_path):
    pool = WebDataset(root=str(root)).step()
    shards = Store(root=str(tmp_path / "store")).build(Copy().step(pool, NoFilter().step(pool)), ONE)
    assert shards.summary["counts"] == {"total": 6, "kept": 4, "dropped": 1, "missing": 0, "corrupt": 1}


def test_damage_is_counted(root, tmp_path):
    (root / "b.tar").write_bytes((root / "b.tar").read_bytes()[:700])
    (root / "c.tar").touch()
    pool, summary = indexed(root, tmp_path / "out")
    assert set(summary.facts["damaged_tars"]) == {"b.tar", "c.tar"} and summary.counts.corrupt == 3
    assert pool.rows == 3


def test_where_metadata_exist_commonpool_is_the_source(tmp_path):
    write_parquet(tmp_path / "pool" / "metadata" / "0.parquet", UIDS)
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(UIDS[0])])
    for root in (tmp_path / "pool", tmp_path / "pool" / "shards"):
        with pytest.raises(ValueError, match=r"source=commonpool source.root=.*pool$"):
            WebDataset(root=str(root)).check(ONE)


def test_no_tars_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no such directory; wanted a folder of webdataset tars"):
        WebDataset(root=str(tmp_path / "nowhere")).check(ONE)
    with pytest.raises(FileNotFoundError, match=r"has no .tar files directly in it"):
        WebDataset(root=str(tmp_path)).check(ONE)


def test_a_changed_tar_is_another_pool(root):
    key = WebDataset(root=str(root)).step().key
    write_tar(root / "c.tar", [sample(UIDS[1])])
    assert WebDataset(root=str(root)).step().key != key
