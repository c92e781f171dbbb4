"""Resharding copies exactly the chosen samples, whatever the workers, the interruptions and the damage."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.locations import Locations
from dcexp.artifacts.shards import Shards
from dcexp.artifacts.uid import format_uid, parse_uids, sort_uids
from dcexp.engines.local import Local
from dcexp.filters.uids import UidList
from dcexp.reshard.copy import Copy
from dcexp.reshard.locate import Locate
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, hex_uids, indexed, sample, subset_of, write_parquet, write_pool, write_tar


@pytest.fixture
def root(tmp_path):
    write_pool(tmp_path / "pool", parts=(7, 5), features=False)
    return tmp_path / "pool"


@pytest.fixture
def uids():
    return [uid for number, rows in enumerate((7, 5)) for uid in hex_uids(rows, seed=number)]


def resharded(root, wanted, out, stage=None, engine=ONE):
    """Reshard the pool in ``root`` for the uids ``wanted`` into ``out``: the shards, and the summary."""
    pool = indexed(root, out.with_name(f"{out.name}-index"))
    subset = subset_of(out.with_name(f"{out.name}-subset"), wanted)
    locations = located(pool, out.with_name(f"{out.name}-locations"), engine)
    out.mkdir(exist_ok=True)
    summary = (stage or Copy(shard_size=4)).run(out, engine, pool=pool, subset=subset, locations=locations)
    assert summary.counts.add_up
    return Shards(out), summary


def located(pool, out, engine=ONE):
    """Where the samples of ``pool`` lie."""
    out.mkdir(exist_ok=True)
    assert Locate().run(out, engine, pool=pool).counts.add_up
    return Locations(out)


def files_in(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(tars):
    """All samples of some tars as webdataset reads them, in order."""
    import webdataset as wds

    return [s for tar in tars for s in wds.WebDataset(str(tar), shardshuffle=False, empty_check=False)]


def payload(found):
    return {suffix: content for suffix, content in found.items() if not suffix.startswith("__")}


def test_the_chosen_samples_arrive_byte_for_byte_and_in_order(root, uids, tmp_path):
    wanted = [uids[i] for i in (0, 2, 3, 6, 8, 9, 11)]
    shards, summary = resharded(root, wanted, tmp_path / "out")
    before = {json.loads(s["json"])["uid"]: s for s in read(sorted((root / "shards").iterdir()))}
    after = read(shards.places)
    assert [s["__key__"] for s in after] == [f"{uid}-0" for uid in wanted]
    assert [payload(s) for s in after] == [payload(before[uid]) for uid in wanted]
    assert shards.sizes == {"00000000.tar": 4, "00000001.tar": 3} and shards.samples == 7
    assert (summary.counts.total, summary.counts.kept, summary.counts.dropped) == (12, 7, 5)


def test_the_side_files_are_upstreams(root, uids, tmp_path):
    shards, summary = resharded(root, uids[:5], tmp_path / "out")
    assert sorted(files_in(shards.path)) == [
        "00000000.tar", "00000000_stats.json", "00000001.tar", "00000001_stats.json",
        "files.json", "meta.json", "sample_ids.npy", "sizes.json", "tars.json",
    ]  # fmt: skip
    assert json.loads((shards.path / "00000001_stats.json").read_text()) == {"successes": 1}
    meta = json.loads((shards.path / "meta.json").read_text())
    assert (meta["processed_count"], meta["output_count"], meta["output_shard_count"]) == (12, 5, 2)
    ids = np.load(shards.path / "sample_ids.npy", allow_pickle=False)
    assert ids.dtype == np.dtype("u8,u8") and [format_uid(uid) for uid in ids] == sorted(uids[:5])
    facts = {name: summary.facts[name] for name in ("wanted", "written", "shards", "duplicates", "damaged")}
    assert facts == {"wanted": 5, "written": 5, "shards": 2, "duplicates": 0, "damaged": 0}
    assert summary.facts["bytes"] == sum(Path(tar).stat().st_size for tar in shards.places)


def test_repeats_are_numbered_spread_and_may_span_shards(root, uids, tmp_path):
    wanted = [uids[1]] * 4 + [uids[4], uids[9], uids[9]]
    shards, summary = resharded(root, wanted, tmp_path / "out")
    found = read(shards.places)
    assert sorted(s["__key__"] for s in found) == sorted(
        [f"{uids[1]}-{j}" for j in range(4)] + [f"{uids[4]}-0", f"{uids[9]}-0", f"{uids[9]}-1"]
    )
    in_order = [s["__key__"][:32] for s in found]
    assert all(one != other for one, other in pairwise(in_order))
    assert list(shards.sizes.values()) == [4, 3]
    assert len({s["jpg"] for s in found if s["__key__"].startswith(uids[1])}) == 1
    assert (summary.counts.kept, summary.facts["written"], summary.facts["wanted_distinct"]) == (3, 7, 3)
    ids = np.load(shards.path / "sample_ids.npy", allow_pickle=False)
    assert [format_uid(uid) for uid in ids] == sorted(wanted)


def test_workers_and_runs_do_not_change_a_byte(root, uids, tmp_path):
    os.utime(root / "shards" / "00000000.tar", (1, 1))
    one, _ = resharded(root, uids[::2] * 2, tmp_path / "one")
    two, _ = resharded(root, uids[::2] * 2, tmp_path / "two", engine=Local(workers=2))
    assert files_in(one.path) == files_in(two.path)
    with tarfile.open(one.places[0]) as tar:
        members = tar.getmembers()
    for info in members:
        assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)


def test_gaps_in_numbering_and_odd_names_lose_nothing(root, uids, tmp_path):
    (root / "shards" / "00000001.tar").rename(root / "shards" / "part-7000.tar")
    shards, _ = resharded(root, uids, tmp_path / "out")
    assert shards.samples == 12


def test_every_suffix_is_copied(tmp_path):
    uid = hex_uids(1)[0]
    members = {"jpg": b"a", "json": json.dumps({"uid": uid.upper()}).encode(), "seg.png": b"", "x" * 90: b"long"}
    write_tar(tmp_path / "p" / "shards" / "0.tar", [("deep.dir/key", members)])
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", [uid])
    shards, _ = resharded(tmp_path / "p", [uid], tmp_path / "out")
    (found,) = read(shards.places)
    assert found["__key__"] == f"{uid}-0" and payload(found) == members


def test_an_image_that_is_not_chosen_is_not_read(root, uids, tmp_path, monkeypatch):
    big = write_tar(root / "shards" / "00000002.tar", [sample(uid, bytes(10**6)) for uid in hex_uids(9, seed=5)])
    got, pread = [], os.pread

    def counting(file, size, offset):
        got.append(len(content := pread(file, size, offset)))
        return content

    monkeypatch.setattr(os, "pread", counting)
    resharded(root, uids[:1], tmp_path / "out")
    assert sum(got) < big.stat().st_size / 10  # of which half is the index, which looks into the tars too


def test_a_truncated_tar_gives_what_is_before_the_damage(root, uids, tmp_path, caplog):
    tar = root / "shards" / "00000000.tar"
    with tarfile.open(tar) as opened:
        place = opened.getmember("000000004.jpg").offset_data
    tar.write_bytes(tar.read_bytes()[: place + 100])
    shards, summary = resharded(root, uids, tmp_path / "out", Copy(max_missing=0.3))
    assert [s["__key__"][:32] for s in read(shards.places)] == uids[:4] + uids[7:]
    counts = summary.counts
    assert (counts.total, counts.kept, counts.missing, counts.corrupt) == (13, 9, 3, 1)
    assert summary.facts["damaged"] == 1 and "cut off at byte" in summary.facts["damaged_tars"]["00000000.tar"]
    assert "00000000.tar: cut off" in caplog.text
    listed = pq.read_table(tmp_path / "out" / "missing.parquet")["uid"].to_pylist()
    assert listed == sorted(uids[4:7])


@pytest.mark.parametrize("damage", ["empty", "gone", "bad header", "no end marker"])
def test_other_damage_is_reported(root, uids, tmp_path, damage):
    tar = root / "shards" / "00000001.tar"
    content = bytearray(tar.read_bytes())
    pool = indexed(root, tmp_path / "index")
    if damage == "gone":
        tar.unlink()
    elif damage == "empty":
        tar.write_bytes(b"")
    elif damage == "bad header":
        content[100] ^= 0xFF
        tar.write_bytes(content)
    else:
        tar.write_bytes(content.rstrip(b"\0")[:-1] + bytes(-len(content.rstrip(b"\0")[:-1]) % 512))
    (tmp_path / "out").mkdir()
    locations = located(pool, tmp_path / "locations")
    subset = subset_of(tmp_path / "subset", uids)
    summary = Copy(max_missing=0.5).run(tmp_path / "out", ONE, pool=pool, subset=subset, locations=locations)
    assert damage in summary.facts["damaged_tars"]["00000001.tar"] and summary.counts.corrupt == 1
    assert summary.counts.missing == (0 if damage == "no end marker" else 5)


def test_samples_whose_json_says_nothing_are_corrupt(root, uids, tmp_path):
    bad = [{"json": b"{truncated"}, {"json": b"\xff"}, {"json": b"[1]"}, {"json": b"{}"}, {"jpg": b"alone"}]
    bad += [{"json": b'{"uid": "xyz"}'}, {"json": b"[" * 100000}, {"json": b'{"uid": 12}'}]
    write_tar(root / "shards" / "00000002.tar", [*bad, sample(hex_uids(1, seed=9)[0])])
    _, summary = resharded(root, uids, tmp_path / "out")
    counts = summary.counts
    assert (counts.total, counts.kept, counts.dropped, counts.corrupt) == (21, 12, 1, 8)


def test_too_much_missing_is_refused_with_both_remedies(root, uids, tmp_path):
    wanted = uids + hex_uids(4, seed=66)
    with pytest.raises(ValueError, match=r"4 of 16 wanted uids \(25.0%\) are in none of the 2 shards") as error:
        resharded(root, wanted, tmp_path / "out")
    assert "complete the pool" in str(error.value) and "reshard.max_missing=0.25" in str(error.value)
    _, summary = resharded(root, wanted, tmp_path / "out", Copy(shard_size=4, max_missing=0.25))
    assert (summary.counts.missing, summary.counts.total) == (4, 16)


def test_a_subset_of_another_pool_and_an_empty_one_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to train on: .*Do they belong to the same pool"):
        resharded(root, hex_uids(3, seed=66), tmp_path / "out", Copy(max_missing=1.0))
    with pytest.raises(ValueError, match="holds no uids, so there is nothing to train on"):
        resharded(root, [], tmp_path / "out")


def test_a_pool_without_shards_is_refused(tmp_path):
    write_parquet(tmp_path / "p" / "metadata" / "0.parquet", hex_uids(3))
    with pytest.raises(ValueError, match=r"has metadata but no shards, .*until=subset"):
        resharded(tmp_path / "p", hex_uids(3), tmp_path / "out")


@pytest.mark.parametrize(
    "fields", [{"shard_size": 0}, {"shard_bytes": 0}, {"seed": -1}, {"max_missing": 1.5}, {"max_missing": -0.1}]
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"wanted a shard_size and shard_bytes of 1 or more, .*from 0 to 1"):
        Copy(**fields)


def test_a_uid_that_two_samples_have_is_copied_twice_and_counted(root, uids, tmp_path):
    write_tar(root / "shards" / "00000002.tar", [sample(uids[0], b"again")])
    shards, summary = resharded(root, uids[:2], tmp_path / "out")
    assert [s["__key__"] for s in read(shards.places)] == [f"{uids[0]}-0", f"{uids[1]}-0", f"{uids[0]}-1"]
    assert summary.facts["duplicates"] == 1 and summary.counts.kept == 3


@dataclass(frozen=True, kw_only=True)
class Dying(Local):
    """An engine whose process is killed after ``items`` items."""

    items: int

    def map(self, fn, items, what=""):
        for i, item in enumerate(items):
            if not what and i == self.items:  # the writing, which has a progress bar of its own
                os.kill(os.getpid(), signal.SIGKILL)
            yield fn(item)


def run_and_be_killed(root, wanted, out, shard_size="4"):
    code = "import sys; from tests.reshard.test_copy import *; r, o, s, *u = sys.argv[1:]; "
    code += "resharded(Path(r), u, Path(o), Copy(shard_size=int(s)), Dying(workers=1, items=2))"
    done = subprocess.run([sys.executable, "-c", code, root, out, shard_size, *wanted], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    return {path.name: path.stat().st_ino for path in out.glob("*.tar")}


def test_after_a_kill_finished_shards_are_kept_and_the_rest_is_the_same(root, uids, tmp_path):
    left = run_and_be_killed(root, uids, tmp_path / "out")
    assert sorted(left) == ["00000000.tar", "00000001.tar"]
    (tmp_path / "out" / "00000002.tar.1.tmp").write_bytes(b"unfinished")
    again, _ = resharded(root, uids, tmp_path / "out")
    assert {name: (again.path / name).stat().st_ino for name in left} == left
    (again.path / "00000002.tar.1.tmp").unlink()
    assert files_in(again.path) == files_in(resharded(root, uids, tmp_path / "whole")[0].path)


def test_a_shard_that_lost_its_end_is_noticed_before_training(root, uids, tmp_path):
    shards, _ = resharded(root, uids, tmp_path / "out")
    shards.check()
    tar = Path(shards.places[1])
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"00000001.tar has 19,968 bytes, 20,480 were written.*rebuild=shards"):
        shards.check()
    tar.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        Shards(shards.path).check()


def test_shards_are_bounded_in_bytes_too(root, uids, tmp_path):
    shards, _ = resharded(root, uids, tmp_path / "out", Copy(shard_size=10, shard_bytes=9000))
    assert all(Path(tar).stat().st_size <= 9000 + 10240 for tar in shards.places)
    assert shards.samples == 12 and max(shards.sizes.values()) < 10
    one_each, _ = resharded(root, uids, tmp_path / "each", Copy(shard_bytes=1))
    assert set(one_each.sizes.values()) == {1} and len(one_each.sizes) == 12


def test_shuffling_goes_across_tars_and_is_the_seeds(root, uids, tmp_path):
    keys = {}
    for seed in (0, 1):
        shards, _ = resharded(root, uids, tmp_path / str(seed), Copy(shard_size=4, shuffle=True, seed=seed))
        keys[seed] = [s["__key__"] for s in read(shards.places)]
    again, _ = resharded(root, uids, tmp_path / "again", Copy(shard_size=4, shuffle=True, seed=1))
    assert [s["__key__"] for s in read(again.places)] == keys[1] != keys[0]
    assert sorted(keys[0]) == sorted(keys[1]) == sorted(f"{uid}-0" for uid in uids)
    assert keys[0] != [f"{uid}-0" for uid in uids]
    mixed = {uid[:32] in uids[:7] for uid in keys[1][:4]}
    assert mixed == {True, False}  # samples of both tars are in one shard


def test_the_account_of_every_tar_adds_up(root, uids, tmp_path):
    (root / "shards" / "00000001_stats.json").write_text('{"successes": 9}')
    shards, summary = resharded(root, uids[:3] + uids[8:], tmp_path / "out", Copy(max_missing=0.5))
    first, second = json.loads((shards.path / "tars.json").read_text())
    assert first == {
        "tar": "00000000.tar", "total": 7, "kept": 3, "dropped": 4, "missing": 0, "corrupt": 0, "damage": "",
    }  # fmt: skip
    assert second["damage"] == "5 samples, but its _stats.json says 9"
    assert (second["total"], second["kept"], second["dropped"], second["missing"]) == (9, 4, 1, 4)
    assert summary.counts.kept == 7


def test_one_reading_of_the_pool_serves_every_subset(root, uids, tmp_path):
    pool = indexed(root, tmp_path / "index")
    locations = located(pool, tmp_path / "locations")
    for name, wanted in (("a", uids[:5]), ("b", uids[3:])):
        (tmp_path / name).mkdir()
        subset = subset_of(tmp_path / f"{name}-subset", wanted)
        summary = Copy().run(tmp_path / name, ONE, pool=pool, subset=subset, locations=locations)
        assert summary.counts.kept == len(wanted)


def test_two_samples_of_one_uid_side_by_side_have_two_names(root, uids, tmp_path):
    write_tar(root / "shards" / "00000000.tar", [sample(uids[0]), sample(uids[0], b"again"), sample(uids[1])])
    shards, summary = resharded(root, [uids[0], uids[0], uids[1]], tmp_path / "out", Copy())
    names = [s["__key__"] for s in read(shards.places)]
    assert sorted(names) == sorted([*(f"{uids[0]}-{j}" for j in range(4)), f"{uids[1]}-0"])
    assert summary.facts["duplicates"] == 1


def test_locations_that_are_found_anew_are_used_at_once(root, uids, tmp_path):
    store, pool = Store(root=str(tmp_path / "store")), CommonPool(root=str(root)).step()
    np.save(tmp_path / "all.npy", sort_uids(parse_uids(uids)))
    step = Copy().step(pool, UidList(path=str(tmp_path / "all.npy")).step(pool))
    before = store.build(step, ONE)
    tar = root / "shards" / "00000001.tar"
    write_tar(tar, [sample(uid, b"other") for uid in uids[7:]])
    with pytest.raises(ValueError, match=r"00000001.tar has changed .*rebuild=locations"):
        Store(root=store.root).build(step, ONE, frozenset({"shards"}))
    after = Store(root=store.root).build(step, ONE, frozenset({"locations"}))
    assert before.path == after.path
    assert [s["jpg"] for s in read(Shards(after.path).places)][7:] == [b"other"] * 5


def test_a_shard_that_was_noted_and_lost_its_end_is_written_again(root, uids, tmp_path):
    run_and_be_killed(root, uids, tmp_path / "out")
    tar = tmp_path / "out" / "00000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])  # as a crash of the machine may leave it
    again, _ = resharded(root, uids, tmp_path / "out")
    assert files_in(again.path) == files_in(resharded(root, uids, tmp_path / "whole")[0].path)
