"""Pools in an object store are pools, and tars that go there are those that stay: with a real S3 on loopback."""

import gc
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from random import Random

import fsspec.config
import numpy as np
import pytest

from dcexp.artifacts.cloud import file_system
from dcexp.artifacts.files import DIGESTS
from dcexp.artifacts.pieces import read_pieces
from dcexp.artifacts.place import exists, listed, open_place, whole_place
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.samples import samples_of
from dcexp.artifacts.shards import Shards
from dcexp.artifacts.tar import TarReader
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from dcexp.sources.commonpool import CommonPool
from dcexp.sources.webdataset import WebDataset
from dcexp.training.reading import Losses, NoSamples, shard_list
from dcexp.training.samples import RawSamples
from tests.cli import dcexp_process
from tests.pools import ONE, hex_uids, sample, subset_of, write_parquet, write_pool, write_tar
from tests.reshard.conftest import forget_connections
from tests.reshard.test_copy import files_in, located
from tests.training.small import picture

PARTS = (7, 5)
UIDS = [uid for number, rows in enumerate(PARTS) for uid in hex_uids(rows, seed=number)]
FOUR = {"shard_size": 4}


@pytest.fixture
def near(tmp_path):
    """A pool on disk."""
    write_pool(tmp_path / "near", PARTS, features=False)
    return CommonPool(root=str(tmp_path / "near"))


@pytest.fixture
def far(near, bucket):
    """The same pool with its tars in the bucket."""
    return moved(near, bucket)


def moved(pool, bucket):
    """The pool with its tars in the bucket: on disk are its metadata alone."""
    near, far = Path(pool.root), Path(pool.root).with_name("far")
    shutil.copytree(near / "metadata", far / "metadata")
    for tar in (near / "shards").iterdir():
        bucket.put(f"pool/shards/{tar.name}", tar.read_bytes())
    return CommonPool(root=str(far), shards=f"{bucket.url}/pool/shards/")


def made(source, out, engine=ONE):
    """The pool that ``source`` makes."""
    out.mkdir(exist_ok=True)
    assert source.run(out, engine).counts.add_up
    return Pool(out)


def inputs(source, wanted, out, engine=ONE):
    """What a resharding of ``source`` for the uids ``wanted`` into ``out`` is given."""
    pool = made(source, out.with_name(f"{out.name}-pool"), engine)
    subset = subset_of(out.with_name(f"{out.name}-subset"), wanted)
    return {"pool": pool, "subset": subset, "locations": located(pool, out.with_name(f"{out.name}-locations"), engine)}


def resharded(source, wanted, out, stage, engine=ONE):
    given = inputs(source, wanted, out, engine)
    out.mkdir(exist_ok=True)
    assert stage.run(out, engine, **given).counts.add_up
    return Shards(out)


def drawn(shards, count=30):
    """The first samples that training sees of some shards."""
    losses = Losses()
    stream = RawSamples(shard_list(shards), Random(0), losses)
    found = [s.members for s in islice(stream, count)]
    assert (losses.corrupt, losses.complaints) == (0, [])
    return found


def test_a_copy_of_a_pool_in_the_cloud_is_the_copy_of_that_on_disk(near, far, tmp_path):
    wanted = UIDS[::2] * 2
    of_near = resharded(near, wanted, tmp_path / "one", Copy(**FOUR))
    of_far = resharded(far, wanted, tmp_path / "other", Copy(**FOUR))
    assert len(of_far.sizes) == 3 and files_in(of_far.path) == files_in(of_near.path)
    assert list(made(far, tmp_path / "pool").shards) == [f"{far.shards}0000000{n}.tar" for n in (0, 1)]


def test_two_workers_copy_from_cloud_to_cloud_as_one_does_on_disk(near, far, bucket, two_workers, tmp_path):
    there = resharded(near, UIDS, tmp_path / "one", Copy(**FOUR))
    resharded(far, UIDS, tmp_path / "other", Copy(**FOUR, to=f"{bucket.url}/out"), two_workers)
    tars = {name.partition("/")[2]: content for name, content in bucket.contents("out").items() if ".tar" in name}
    assert tars == {Path(tar).name: Path(tar).read_bytes() for tar in there.places}


def test_an_index_of_a_pool_in_the_cloud_gives_training_the_same_samples(near, far, tmp_path):
    wanted = [*UIDS[1:], UIDS[3]]
    of_near = resharded(near, wanted, tmp_path / "one", Index(**FOUR))
    of_far = resharded(far, wanted, tmp_path / "other", Index(**FOUR))
    assert drawn(of_far) == drawn(of_near) == drawn(resharded(near, wanted, tmp_path / "copy", Copy(**FOUR)))


def test_tars_written_to_the_cloud_are_those_of_a_copy_on_disk(near, bucket, tmp_path):
    here = resharded(near, UIDS, tmp_path / "here", Copy(**FOUR))
    there = resharded(near, UIDS, tmp_path / "there", Copy(**FOUR, to=f"{bucket.url}/out/"))
    (folder,) = {key.split("/")[1] for key in bucket.entries("out")}
    assert there.places == [f"{bucket.url}/out/{folder}/{name}" for name in here.sizes]
    written, beside = bucket.contents(f"out/{folder}"), files_in(there.path)
    assert {name for name in beside if name.endswith(".tar")} == set()
    assert beside == {name: content for name, content in written.items() if not name.endswith(".tar")}
    assert json.loads(written.pop("meta.json"))["output_dir"] == f"{bucket.url}/out/{folder}"
    assert written == {name: content for name, content in files_in(here.path).items() if name != "meta.json"}
    digests = json.loads(written["files.json"])
    assert {name: entry["xxh128"] for name, entry in digests.items()} == {
        name: DIGESTS["xxh128"](written[name]).hexdigest() for name in here.sizes
    }


def test_tars_in_the_cloud_are_read_back(near, bucket, tmp_path):
    here = resharded(near, UIDS, tmp_path / "here", Copy(**FOUR))
    there = resharded(near, UIDS, tmp_path / "there", Copy(**FOUR, to=bucket.url))
    assert drawn(there) == drawn(here)
    for one, other in zip(here.places, there.places, strict=True):
        with TarReader(one) as of_here, TarReader(other) as of_there:
            assert [s.key for s in samples_of(of_there.walk())] == [s.key for s in samples_of(of_here.walk())]
            assert of_there.damage == ""


def test_a_second_subset_has_a_folder_of_its_own(near, bucket, tmp_path):
    first = resharded(near, UIDS, tmp_path / "first", Copy(**FOUR, to=bucket.url))
    before = bucket.entries()
    second = resharded(near, UIDS[:4], tmp_path / "second", Copy(**FOUR, to=bucket.url))
    after = bucket.entries()
    assert {key: after[key] for key in before} == before
    folders = {Path(shards.places[0]).parent.name: len(shards.sizes) for shards in (first, second)}
    assert folders == {folder: sum(key.startswith(f"{folder}/0") and key.endswith(".tar") for key in after)
                       for folder in {key.partition("/")[0] for key in after}}  # fmt: skip
    again = resharded(near, UIDS, tmp_path / "again", Copy(**FOUR, to=bucket.url))
    assert again.places == first.places


def run_and_be_killed(pool, to, out):
    code = "import sys; from tests.reshard.test_cloud import *; from tests.reshard.test_copy import Dying;"
    code += "root, shards, to, out = sys.argv[1:];"
    code += "stage, engine = Copy(**FOUR, to=to), Dying(workers=1, items=2);"
    code += "resharded(CommonPool(root=root, shards=shards), UIDS, Path(out), stage, engine)"
    done = subprocess.run([sys.executable, "-c", code, pool.root, pool.shards, to, out], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL


def test_after_a_kill_finished_tars_in_the_cloud_are_not_written_again(far, bucket, tmp_path):
    run_and_be_killed(far, f"{bucket.url}/out", tmp_path / "out")
    kept, lost = (key for key in bucket.entries("out") if key.endswith(".tar"))
    assert kept.endswith("00000000.tar") and lost.endswith("00000001.tar")
    before = bucket.entries(kept)
    bucket.delete(lost)  # nobody's fault, but it has to be noticed
    bucket.watched.requests.clear()
    shards = resharded(far, UIDS, tmp_path / "out", Copy(**FOUR, to=f"{bucket.url}/out"))
    assert [Path(put.path).name for put in bucket.watched.of_tars("PUT")] == ["00000001.tar", "00000002.tar"]
    assert bucket.entries(kept) == before
    whole = resharded(far, UIDS, tmp_path / "whole", Copy(**FOUR))
    assert drawn(shards) == drawn(whole)
    assert json.loads((shards.path / "files.json").read_text()) == json.loads((whole.path / "files.json").read_text())


def test_a_folder_of_tars_in_the_cloud_is_a_source(bucket, tmp_path):
    samples = [sample(UIDS[0], width=30, height=20), {"png": b"picture", "txt": b"no uid"}, {"jpg": b"", "txt": b""}]
    for name in ("a.tar", "b.tar"):
        bucket.put(f"my tars/{name}", write_tar(tmp_path / "my tars" / name, samples).read_bytes())
    sources = WebDataset(root=str(tmp_path / "my tars")), WebDataset(root=f"{bucket.url}/my tars")
    pools = [made(source, tmp_path / name) for source, name in zip(sources, ("near", "far"), strict=True)]
    tables = [[part.table(["uid", "text", "original_width"]).to_pylist() for part in pool.parts] for pool in pools]
    assert tables[0] == tables[1] and len(tables[1]) == 2
    wanted = {row["uid"] for table in tables[0] for row in table}
    one, other = (
        resharded(source, wanted, tmp_path / f"{name}-out", Copy(**FOUR))
        for source, name in zip(sources, ("near", "far"), strict=True)
    )
    assert one.samples == 6 and files_in(one.path) == files_in(other.path)


def with_faces(root):
    """A pool of pictures with a face, and two samples that are small: one is a json alone, one has empty members."""
    uids, rng = hex_uids(5, seed=8), np.random.default_rng(0)
    samples = [sample(uid, picture(rng)) for uid in uids]
    samples[1] = {"json": samples[1]["json"]}
    samples[2] = {"jpg": b"", "txt": b"", "json": samples[2]["json"]}
    write_tar(root / "shards" / "0.tar", samples)
    boxes = [[[0.2, 0.2, 0.6, 0.6]], [[0.1, 0.1, 0.2, 0.2]], [], None, [[0, 0, 1, 1]]]
    write_parquet(root / "metadata" / "0.parquet", uids, face_bboxes=boxes)
    return CommonPool(root=str(root)), uids


@pytest.mark.parametrize("blur", ["apply", "metadata"])
def test_faces_are_seen_to_in_the_cloud_too(bucket, tmp_path, blur):
    near, uids = with_faces(tmp_path / "near")
    stage = Copy(shard_size=1, blur=blur)
    one, other = (resharded(s, uids, tmp_path / n, stage) for s, n in ((near, "one"), (moved(near, bucket), "other")))
    assert one.samples == (4 if blur == "apply" else 5)
    assert files_in(one.path) == files_in(other.path)


def test_other_boxes_are_another_folder(bucket, tmp_path):
    pool, uids = with_faces(tmp_path / "pool")
    one = resharded(pool, uids, tmp_path / "one", Copy(blur="apply", to=bucket.url))
    write_parquet(tmp_path / "pool" / "metadata" / "0.parquet", uids, face_bboxes=[[[0.5, 0.5, 0.9, 0.9]], *[None] * 4])
    other = resharded(pool, uids, tmp_path / "other", Copy(blur="apply", to=bucket.url))
    assert not set(one.places) & set(other.places)


def test_what_is_empty_is_not_asked_for(bucket, tmp_path):
    pool, uids = with_faces(tmp_path / "near")
    shards = resharded(moved(pool, bucket), uids[2:3], tmp_path / "out", Index())
    bucket.watched.requests.clear()
    assert drawn(shards, 3) == [{"jpg": b"", "txt": b""}] * 3
    assert bucket.watched.of_tars("GET") == []


def scattered(root, count):
    """A pool whose samples lie far apart: each has 70 kB that training does not want."""
    uids = hex_uids(count, seed=3)
    rng = np.random.default_rng(0)
    samples = [{"jpg": rng.bytes(900), "txt": b"t", "json": sample(u)["json"], "npy": bytes(70_000)} for u in uids]
    write_tar(root / "shards" / "0.tar", samples)
    write_parquet(root / "metadata" / "0.parquet", uids)
    return CommonPool(root=str(root)), uids


def test_an_index_asks_for_what_training_wants_of_64_samples_at_once(bucket, tmp_path):
    near, uids = scattered(tmp_path / "near", 128)
    shards = resharded(moved(near, bucket), uids, tmp_path / "out", Index())
    expected = drawn(resharded(near, uids, tmp_path / "copy", Copy()), 128)
    bucket.watched.requests.clear()
    bucket.watched.barrier = threading.Barrier(64)
    assert drawn(shards, 64) == expected[:64]
    assert not bucket.watched.barrier.broken, "they were asked for one after the other"
    read = bucket.watched.of_tars("GET")
    assert len(read) == 64 and len(bucket.watched.of_tars("HEAD")) == 1
    assert sum(request.bytes for request in read) <= 64 * (900 + 4 * 512)  # with the headers between jpg and txt


def test_samples_side_by_side_take_one_request(far, bucket, tmp_path):
    shards = resharded(far, UIDS, tmp_path / "out", Index())
    whole = resharded(far, UIDS, tmp_path / "copy", Copy())
    bucket.watched.requests.clear()
    assert drawn(shards, 12) == drawn(whole, 12)
    assert len(bucket.watched.of_tars("GET")) == len(PARTS)


def test_what_is_merged_into_one_request_has_a_bound(bucket, tmp_path):
    uids = hex_uids(8, seed=4)
    tar = write_tar(tmp_path / "near" / "shards" / "0.tar", [sample(uid, bytes(600_000)) for uid in uids])
    write_parquet(tmp_path / "near" / "metadata" / "0.parquet", uids)
    shards = resharded(moved(CommonPool(root=str(tmp_path / "near")), bucket), uids, tmp_path / "out", Index())
    bucket.watched.requests.clear()
    assert len(drawn(shards, 8)) == 8
    read = [request.bytes for request in bucket.watched.of_tars("GET")]
    assert len(read) < 8 and max(read) < 2 << 20 and sum(read) <= tar.stat().st_size


def test_a_read_asks_for_what_it_reads_alone(bucket):
    content = np.random.default_rng(0).bytes(100_000)
    bucket.put("x.tar", content)
    file = open_place(f"{bucket.url}/x.tar")
    bucket.watched.requests.clear()
    assert [file.read(10, 20), file.read(99_990, 50), file.read(100_000, 5)] == [content[10:30], content[-10:], b""]
    assert [request.bytes for request in bucket.watched.of_tars("GET")] == [20, 10]


def test_pieces_in_any_order_arrive(bucket):
    content = np.random.default_rng(0).bytes(300_000)
    bucket.put("x.bin", content)
    file = open_place(f"{bucket.url}/x.bin")
    rng = np.random.default_rng(1)
    wanted = [(int(start), memoryview(bytearray(int(size)))) for start, size in rng.integers(0, 99_000, (50, 2))]
    read_pieces({0: file}, [(0, wanted[:20]), (0, []), (0, sorted(wanted[20:], key=lambda piece: piece[0]))])
    assert all(view == content[start : start + len(view)] for start, view in wanted)


def test_an_object_that_is_gone_is_named(far, bucket, tmp_path):
    shards = resharded(far, UIDS, tmp_path / "index", Index(**FOUR))
    given = inputs(far, UIDS, tmp_path / "out")
    bucket.delete("pool/shards/00000001.tar")
    url = f"{bucket.url}/pool/shards/00000001.tar"
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"^{url} is gone\. Put it back, .*: rebuild=locations$"):
        Copy().run(tmp_path / "out", ONE, **given)
    losses = Losses()
    stream = RawSamples(shard_list(shards), Random(0), losses)
    while not losses.complaints:
        next(stream)
    assert f"{url} is gone" in losses.complaints[0]


def test_an_object_that_goes_while_it_is_read_is_named(bucket):
    bucket.put("x.tar", bytes(5000))
    file = open_place(f"{bucket.url}/x.tar")
    bucket.put("x.tar", bytes(50))
    with pytest.raises(OSError, match=rf"^{file.place} (has changed while it was read|cannot be read: )"):
        read_pieces({0: file}, [(0, [(40, memoryview(bytearray(20)))])])
    bucket.delete("x.tar")
    with pytest.raises(OSError, match=rf"^{file.place} cannot be read: FileNotFoundError"):
        read_pieces({0: file}, [(0, [(40, memoryview(bytearray(20)))])])
    with pytest.raises(FileNotFoundError, match=f"^{file.place} is not there$"):
        file.read(0, 10)


def test_an_object_that_has_changed_is_not_read(far, bucket, tmp_path):
    shards = resharded(far, UIDS, tmp_path / "index", Index())
    given = inputs(far, UIDS, tmp_path / "out")
    tar = bucket.contents("pool/shards")["00000000.tar"]
    bucket.put("pool/shards/00000000.tar", tar[:-1] + b"\1")  # as long as it was
    (tmp_path / "out").mkdir()
    message = rf"^{bucket.url}/pool/shards/00000000\.tar has changed since .* find them anew: rebuild=locations$"
    with pytest.raises(ValueError, match=message):
        Copy().run(tmp_path / "out", ONE, **given)
    with pytest.raises(NoSamples, match=message):
        list(islice(RawSamples(shard_list(shards), Random(0), Losses()), 30))
    assert drawn(resharded(far, UIDS, tmp_path / "anew", Index()))


def test_a_change_within_a_second_and_of_the_same_length_is_one(bucket):
    states = []
    for content in (b"one", b"two", b"one"):
        bucket.put("x.tar", content)
        states.append(open_place(f"{bucket.url}/x.tar").state)
    assert states == [[3, f'"{hashlib.md5(content).hexdigest()}"'] for content in (b"one", b"two", b"one")]


def test_a_bucket_that_is_not_there_is_named(near, far, tmp_path):
    nowhere = CommonPool(root=far.root, shards="s3://no-such-bucket/shards")
    with pytest.raises(FileNotFoundError, match=r"no \.tar files directly in s3://no-such-bucket/shards;"):
        made(nowhere, tmp_path / "pool")
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket/tars has no \.tar files directly in it"):
        made(WebDataset(root="s3://no-such-bucket/tars"), tmp_path / "pool")
    with pytest.raises(FileNotFoundError, match=r"^s3://no-such-bucket/out/\w{12}/00000000\.tar is not there$"):
        resharded(near, UIDS, tmp_path / "out", Copy(to="s3://no-such-bucket/out"))


@pytest.mark.parametrize("shards", ["pipe:touch {mark}", "pipe:touch {mark}; cat /dev/null ://", "| touch {mark}"])
def test_nothing_in_the_name_of_a_place_is_run(near, tmp_path, shards):
    mark = tmp_path / "mark"
    with pytest.raises(FileNotFoundError, match=r"no \.tar files directly in /.*touch"):
        made(CommonPool(root=near.root, shards=shards.format(mark=mark)), tmp_path / "pool")
    assert not mark.exists()


def test_protocols_that_nobody_knows_are_refused(near, tmp_path):
    with pytest.raises(ValueError, match=r"^foo://… cannot be read: Protocol not known: foo\. For s3:// install s3fs"):
        CommonPool(root=near.root, shards="foo://bucket/shards").step()
    with pytest.raises(ValueError, match=r"^foo://… cannot be read"):
        resharded(near, UIDS, tmp_path / "out", Copy(to="foo://bucket"))


def test_wrong_keys_are_a_sentence_with_the_url(near, far, bucket, tmp_path):
    of_far, of_near = (inputs(source, UIDS, tmp_path / name) for source, name in ((far, "far-out"), (near, "near-out")))
    (tmp_path / "out").mkdir()
    with bucket.cloud.locked():
        with pytest.raises(OSError, match=rf"^{bucket.url}/pool/shards cannot be reached: .*Access Key Id") as error:
            far.step()
        assert "\n" not in str(error.value)
        with pytest.raises(OSError, match=rf"^{bucket.url}/pool/shards/00000000\.tar cannot be reached: Permission"):
            Copy().run(tmp_path / "out", ONE, **of_far)
        with pytest.raises(OSError, match=rf"^{bucket.url}/out/\w+/00000000\.tar cannot be reached: Permission"):
            Copy(to=f"{bucket.url}/out").run(tmp_path / "out", ONE, **of_near)


def test_no_keys_at_all_are_a_sentence_with_the_url(far, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_connections()
    with pytest.raises(OSError, match=rf"^{bucket.url}/pool/shards cannot be reached: .*Unable to locate credentials$"):
        far.step()


@pytest.fixture
def nobody_listens(bucket, monkeypatch):
    """The URL of a bucket whose endpoint is a port that is closed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    forget_connections()
    return bucket.url


def test_an_endpoint_that_does_not_answer_is_a_sentence_and_soon(near, nobody_listens, tmp_path):
    root, started = Path(near.root), time.monotonic()
    words = f"plan source=commonpool source.root={root} source.shards={nobody_listens}/shards scale=tiny"
    done = dcexp_process(words, tmp_path)
    message = done.stderr.partition("error: ")[2]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message.startswith(f"{nobody_listens}/shards cannot be reached: EndpointConnectionError: Could not connect")
    assert message.strip().count("\n") == 0 and time.monotonic() - started < 60


def test_an_endpoint_that_does_not_answer_is_no_object_that_is_not_there(nobody_listens, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for ask in (exists, open_place, lambda url: listed(url, ".tar"), write_something):
        with pytest.raises(OSError, match=rf"^{nobody_listens}/x\.tar cannot be reached: EndpointConnectionError"):
            ask(f"{nobody_listens}/x.tar")


def write_something(place, size=100, then=None):
    content = memoryview(np.random.default_rng(0).bytes(size))
    with whole_place(place) as file:
        for start in range(0, size, 4 << 20):
            file.write(content[start : start + (4 << 20)])
        if then:
            raise then


@pytest.fixture
def five_megabytes(monkeypatch):
    """What fsspec's own settings say of S3: pieces of 5 MiB, the smallest there are, and a time of one's own."""
    settings = {"default_block_size": 5 << 20, "config_kwargs": {"read_timeout": 77}}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    forget_connections()


def test_a_large_object_is_written_in_pieces_and_is_there_whole(bucket, five_megabytes):
    write_something(f"{bucket.url}/large.tar", 12 << 20)
    assert bucket.entries()["large.tar"]["ETag"].endswith('-2"')  # of pieces
    assert bucket.contents()["large.tar"] == np.random.default_rng(0).bytes(12 << 20)


@pytest.mark.parametrize("size", [100, 12 << 20])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_of_what_breaks_off_nothing_is_left_and_nothing_is_said(bucket, five_megabytes, size):
    write_something(f"{bucket.url}/there.tar", 10)
    before = bucket.entries()
    with pytest.raises(KeyError, match="broken off"):
        write_something(f"{bucket.url}/there.tar", size, then=KeyError("broken off"))
    with pytest.raises(KeyboardInterrupt):
        write_something(f"{bucket.url}/new.tar", size, then=KeyboardInterrupt())
    gc.collect()  # a file that is collected would write itself
    assert bucket.entries() == before
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_a_piece_that_cannot_be_written_names_the_object(bucket, five_megabytes):
    with whole_place(f"{bucket.url}/first.tar") as file:  # the connection is there before the door is shut
        file.write(b"x")
    with (
        bucket.cloud.locked(),
        pytest.raises(OSError, match=rf"^{bucket.url}/large\.tar cannot be reached: Permission"),
        whole_place(f"{bucket.url}/large.tar") as file,
    ):
        file.write(bytes(6 << 20))


def test_the_users_settings_and_ours_go_together(bucket, five_megabytes):
    files, _ = file_system(bucket.url)
    assert files.config_kwargs == {"max_pool_connections": 64, "read_timeout": 77}
    assert files.default_block_size == 5 << 20


def test_more_than_a_thousand_objects_are_all_listed(bucket):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    names = [f"{number:08d}.tar" for number in range(1234)]
    for key in [*names, ".hidden.tar", "notes.txt", "folder.tar/inside.tar"]:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket.name, f"many/{key}", b"x")
    bucket.put("many/", b"")  # what consoles write for an empty folder
    assert listed(f"{bucket.url}/many", ".tar") == dict.fromkeys(names, 1)
    assert listed(f"{bucket.url}/many/00000000.tar", ".tar") == {}  # is no folder
    assert listed(f"{bucket.url}/none", ".tar") == {}


def test_names_with_odd_characters_are_what_they_are(bucket, tmp_path):
    folder = "a b/ü%20+#&=/x"
    for name in ("1 2.tar", "%41?.tar"):
        bucket.put(f"{folder}/{name}", write_tar(tmp_path / "x.tar", [sample(UIDS[0])]).read_bytes())
    size = (tmp_path / "x.tar").stat().st_size
    assert listed(f"{bucket.url}/{folder}", ".tar") == {"%41?.tar": size, "1 2.tar": size}
    shards = resharded(WebDataset(root=f"{bucket.url}/{folder}"), UIDS[:1], tmp_path / "out", Index())
    assert drawn(shards, 1)[0]["jpg"] == sample(UIDS[0])["jpg"]


@pytest.mark.timeout(60)  # what is wrong here stands still
def test_workers_forked_from_a_process_that_has_read_can_read(near, bucket, tmp_path):
    import torch

    from dcexp.training.data import Interval

    uids, rng = hex_uids(9), np.random.default_rng(0)
    write_tar(tmp_path / "pictures" / "shards" / "0.tar", [sample(uid, picture(rng), text="a") for uid in uids])
    write_parquet(tmp_path / "pictures" / "metadata" / "0.parquet", uids)
    shards = resharded(moved(CommonPool(root=str(tmp_path / "pictures")), bucket), uids, tmp_path / "out", Index())
    assert drawn(shards)  # this process has read, and its connections are open
    interval = Interval(
        shards=shard_list(shards),
        crop=lambda image: np.array(image.size),
        tokenize=lambda caption: torch.tensor([[len(caption)]]),
        batch_size=3, batches=6, seed=1, index=0, workers=2,
    )  # fmt: skip
    batches = list(interval.loader(pin_memory=False))
    assert [batch.images.tolist() for batch in batches] == [[[40, 36]] * 3] * 6
    assert [(batch.texts.tolist(), batch.corrupt) for batch in batches] == [([[1]] * 3, 0)] * 6
    assert drawn(shards)  # and so has it now
