"""A disk that is really full: nothing unfinished counts as done, and what is there is gone on from."""

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcexp.engines.local import Local
from dcexp.filters.none import NoFilter
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store, is_payload
from tests.disks import mounted, remount
from tests.pools import ONE, hex_uids, sample, write_parquet, write_pool, write_tar
from tests.reshard.test_copy import files_in

PAGE = 4096  # what a tmpfs gives at once


@dataclass
class Disk:
    """A file system of its own, small enough to be filled."""

    path: Path

    @property
    def store(self):
        return Store(root=str(self.path / "store"))

    def leave(self, pages):
        """Fill it up to the last ``pages``."""
        self.clear()
        if (rest := os.statvfs(self.path).f_bavail - pages) > 0:
            with (self.path / "ballast").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, rest * PAGE)

    def clear(self):
        (self.path / "ballast").unlink(missing_ok=True)

    def resize(self, size):
        remount(self.path, f"size={size}")


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", "2m") as path:
        yield Disk(path)


@pytest.fixture
def calm(tmp_path):
    """A store on a disk with room."""
    return Store(root=str(tmp_path / "calm"))


def steps(root, stage):
    """The step that applies ``stage`` to all of the pool in ``root``."""
    pool = CommonPool(root=str(root)).step()
    return stage.step(pool, NoFilter().step(pool))


def large_pool(root):
    """3.6 MB in 4 tars."""
    for number in range(4):
        uids = hex_uids(10, seed=number)
        write_parquet(root / "metadata" / f"{number}.parquet", uids)
        write_tar(root / "shards" / f"{number}.tar", [sample(uid, os.urandom(90_000)) for uid in uids])
    return root


def payload(artifact):
    return {name: content for name, content in files_in(artifact.path).items() if is_payload(name)}


def assert_same(artifact, other):
    assert payload(artifact) == payload(other)
    assert artifact.manifest["digest"] == other.manifest["digest"]
    assert artifact.manifest["files"] == other.manifest["files"]
    assert artifact.summary == other.summary


@pytest.mark.parametrize("engine", [ONE, Local(workers=2)], ids=["one worker", "two workers"])
def test_shards_that_do_not_fit_say_so_and_go_on_where_there_is_room(disk, calm, tmp_path, engine):
    step = steps(large_pool(tmp_path / "pool"), Copy(shard_size=6))
    whole = calm.build(step, ONE)
    with pytest.raises(OSError, match=rf"no space left for shards/copy-shard_size_6-\w+ below {disk.path}/") as error:
        disk.store.build(step, engine)
    assert error.value.errno == errno.ENOSPC and "give the same command again" in str(error.value)
    assert disk.store.find(step) is None and not disk.store.path(step).exists()
    partial = disk.store.path(step).with_name(f"{step.name}.partial")
    tars = {tar.name: tar.stat().st_ino for tar in partial.glob("*.tar")}
    assert 0 < len(tars) < 7
    assert engine is not ONE or not list(partial.rglob("*.tmp"))  # another worker may be at it still
    assert all((partial / name).read_bytes() == (whole.path / name).read_bytes() for name in tars)

    disk.resize("8m")
    made = disk.store.build(step, engine)
    assert_same(made, whole)
    assert {name: (made.path / name).stat().st_ino for name in tars} == tars
    assert [path.name for path in made.path.parent.iterdir()] == [step.name]


@pytest.mark.parametrize(
    ("kind", "stage", "stride"),
    [("locations", Index(), 1), ("shards", Index(shard_size=4), 3), ("shards", Copy(shard_size=4), 7)],
    ids=["locations", "an index", "a copy"],
)
def test_wherever_it_gets_full_nothing_is_finished_and_the_rest_is_the_same(disk, calm, tmp_path, kind, stage, stride):
    write_pool(tmp_path / "pool", (7, 5, 9), features=False)
    step = steps(tmp_path / "pool", stage)
    step = step if kind == "shards" else step.steps[kind]
    whole = calm.build(step, ONE)
    for source in step.steps.values():
        disk.store.build(source, ONE)
    disk.resize("4m")
    stops = 0
    for pages in range(0, 500, stride):
        disk.leave(pages)
        try:
            disk.store.build(step, ONE)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC and f"no space left for {kind}/{step.name} " in str(error)
        stops += 1
        assert disk.store.find(step) is None
        disk.clear()
        assert_same(disk.store.build(step, ONE), whole)
        shutil.rmtree(disk.store.path(step).parent)
    assert stops > 5
    assert_same(disk.store.find(step), whole)


def test_locations_that_do_not_fit_say_so_and_go_on_where_there_is_room(disk, calm, tmp_path):
    write_pool(tmp_path / "pool", (3,) * 12, features=False)
    step = steps(tmp_path / "pool", Index()).steps["locations"]
    disk.store.build(step.steps["pool"], ONE)
    disk.leave(10)
    with pytest.raises(OSError, match=r"no space left for locations/locate-\w+ below"):
        disk.store.build(step, ONE)
    partial = disk.store.path(step).with_name(f"{step.name}.partial")
    located = {path.name: path.stat().st_ino for path in partial.glob("*.npz")}
    assert 0 < len(located) < 12 and not list(partial.rglob("*.tmp"))
    disk.clear()
    made = disk.store.build(step, ONE)
    assert_same(made, calm.build(step, ONE))
    noted = sorted(located)[:-1]  # of the last one the note may be missing
    assert {name: (made.path / name).stat().st_ino for name in noted} == {name: located[name] for name in noted}


def test_another_disk_for_the_tars_is_the_one_that_is_full(disk, calm, tmp_path):
    step = steps(large_pool(tmp_path / "pool"), Copy(shard_size=6, to=str(disk.path / "tars")))
    message = rf"^no space left for {disk.path}/tars/\w+/0000000\d\.tar: free some, or choose another reshard\.to, "
    with pytest.raises(OSError, match=message) as error:
        calm.build(step, ONE)
    assert not re.search(r"store\.root|\n", str(error.value)) and calm.find(step) is None
    assert not list(disk.path.rglob("*.tmp"))
    disk.resize("8m")
    made = calm.build(step, ONE)
    whole = calm.build(steps(tmp_path / "pool", Copy(shard_size=6)), ONE)
    assert [Path(tar).read_bytes() for tar in made.places] == [Path(tar).read_bytes() for tar in whole.places]
