"""What can go wrong with ``score``: samples, tars, checkpoints, the folder it writes to; each is counted or said."""

import io
import json
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dcexp.artifacts.base import Counts
from dcexp.model import load_model
from dcexp.scoring import shard
from dcexp.scoring.encoder import Encoder
from dcexp.scoring.request import score
from dcexp.sources.webdataset import WebDataset
from tests.cli import dcexp, dcexp_process
from tests.disks import mounted, remount
from tests.pools import ONE, write_parquet, write_tar
from tests.scoring.scored import UIDS, arrays, contents, pictures, request, table
from tests.tasks.sets import MODEL, encoded


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    write_tar(root / "a.tar", pictures(7))
    write_tar(root / "b.tar", pictures(5, seed=1))
    return root


def test_what_is_missing_or_broken_is_counted_and_has_no_score(weights, tmp_path):
    good = pictures(1)[0]
    captionless, pictureless = ({k: v for k, v in good.items() if k != name} for name in ("txt", "jpg"))
    content = [
        good,
        captionless,
        pictureless,
        {**good, "jpg": b"\xff\xd8 no picture"},
        {**good, "jpg": good["jpg"][: len(good["jpg"]) // 2]},
        {**good, "json": b"{broken"},
        {**good, "txt": b"\xff"},
        {**captionless, "json": json.dumps({"caption": "from the json"}).encode()},
    ]
    write_tar(tmp_path / "tars" / "a.tar", content)
    whole = write_tar(tmp_path / "tars" / "b.tar", [good, good]).read_bytes()
    (tmp_path / "tars" / "b.tar").write_bytes(whole[: len(whole) // 3])
    write_tar(tmp_path / "tars" / "c.tar", [])
    summary = score(request(weights, tmp_path / "tars", tmp_path / "out"))
    found, columns = arrays(tmp_path / "out", "a"), table(tmp_path / "out", "a")
    pictured, captioned = (np.isfinite(found[f"l14_{tower}"]).all(axis=1).tolist() for tower in ("img", "txt"))
    assert pictured == [True, True, False, False, False, True]
    assert captioned == [True, False, True, True, True, True]
    scores = columns["clip_l14_similarity_score"].to_pylist()
    assert [value is None for value in scores] == [False, True, True, True, True, False]
    in_b = len(arrays(tmp_path / "out", "b")["l14_img"])
    assert summary.counts == Counts(total=9 + in_b, kept=2 + in_b, missing=2, corrupt=5) and summary.counts.add_up
    assert summary.facts == {"tars": 3, "damaged": 1}
    assert arrays(tmp_path / "out", "c")["l14_txt"].shape == (0, 64)


def test_mistakes_are_said(weights, tars, tmp_path):
    with pytest.raises(ValueError, match="feature='a-b': wanted letters"):
        request(weights, tars, tmp_path, feature="a-b")
    with pytest.raises(ValueError, match="batch=0: wanted 1 or more"):
        request(weights, tars, tmp_path, batch=0)
    with pytest.raises(FileNotFoundError, match=r"no \.tar files directly in"):
        score(request(weights, tmp_path, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="no such file, and no pretrained tag"):
        score(request(tmp_path / "none.pt", tars, tmp_path / "out"))
    write_tar(tmp_path / "tars" / "z.tar", [{"txt": b"no picture"}])
    score(request(weights, tars, tmp_path / "scored"))
    with pytest.raises(ValueError, match=r"holds 4 files that are of other tars, or .* \(a.npz, a.parquet, b.npz\)"):
        score(request(weights, tmp_path / "tars", tmp_path / "scored"))
    with pytest.raises(ValueError, match=r"none of the 1 samples in .* could be scored: 1 in = 0 kept \+ 1 missing"):
        score(request(weights, tmp_path / "tars", tmp_path / "out"))


def test_a_checkpoint_of_another_architecture_or_with_nan_is_said(weights, tars, tmp_path):
    state = torch.load(weights, weights_only=True)
    cut = {name: value[:-1] if name == "visual.proj" else value for name, value in state["state_dict"].items()}
    torch.save({"state_dict": cut}, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"cut\.pt is not a checkpoint of ViT-tiny-8: .*size mismatch"):
        score(request(tmp_path / "cut.pt", tars, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"is not a checkpoint of RN50: .*width"):
        load_model(weights, "RN50")
    state["state_dict"]["text_projection"][:] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"nan\.pt \(ViT-tiny-8\): its features of texts are not finite numbers"):
        score(request(tmp_path / "nan.pt", tars, tmp_path / "out"))
    assert not list(Path(tmp_path / "out").glob("metadata/*"))


def test_what_json_can_say_and_a_column_cannot_hold(weights, tmp_path):
    """Half a surrogate pair is no text, and an image is not 10**30 pixels wide; source=webdataset has the same rows."""
    image = {"jpg": pictures(1)[0]["jpg"]}
    infos = [
        b'{"caption": "half a pair: \\ud800"}',
        b'{"caption": "a whole pair: \\ud83d\\ude00", "url": "\\udc00", "sha256": "ab"}',
        b'{"caption": "x", "n": NaN, "original_width": 1000000000000000000000000000000, "height": 9223372036854775807}',
    ]
    write_tar(tmp_path / "tars" / "a.tar", [{**image, "json": info} for info in infos])
    summary = score(request(weights, tmp_path / "tars", tmp_path / "out"))
    assert summary.counts == Counts(total=3, kept=2, corrupt=1)
    rows = table(tmp_path / "out", "a").to_pydict()
    assert rows["text"] == ["a whole pair: \U0001f600", "x"] and rows["sha256"] == ["ab", None] and "url" not in rows
    assert rows["original_width"] == [None, None] and rows["original_height"] == [None, 2**63 - 1]
    assert WebDataset(root=str(tmp_path / "tars")).run(tmp_path / "plain", ONE).counts == summary.counts
    plain = pq.read_table(tmp_path / "plain" / "metadata" / "a.parquet")
    assert table(tmp_path / "out", "a").select(plain.column_names) == plain


def png(width, height):
    """A black picture of two colours, a few kB however large."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj(1)
    lines = b"".join(packer.compress(bytes(1 + -(-width // 8))) for _ in range(height)) + packer.flush()
    chunks = [(b"IHDR", header), (b"IDAT", lines), (b"IEND", b"")]
    packed = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_pillow_remarks_on_no_image_and_a_bomb_is_corrupt(weights, tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    seethrough = Image.new("P", (40, 30))
    seethrough.info["transparency"] = bytes([128])
    samples = [
        {"png": encoded(seethrough, "png"), "txt": b"bytes for the transparency of a palette"},
        {"png": png(150, 100), "txt": b"more pixels than Pillow likes"},
        {"png": png(200, 101), "txt": b"more than it opens"},
        {"png": png(1, 20), "txt": b"when 32 high and wide at least, more than it likes"},
        {"png": png(1, 19), "txt": b"and just not"},
    ]
    write_tar(tmp_path / "tars" / "a.tar", samples)
    summary = score(request(weights, tmp_path / "tars", tmp_path / "out"))
    assert summary.counts == Counts(total=5, kept=3, corrupt=2) and not recwarn.list
    found = np.isfinite(arrays(tmp_path / "out", "a")["l14_img"]).all(axis=1)
    assert found.tolist() == [True, True, False, False, True]
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(samples[1]["png"])):
        pass  # it does remark on it
    with pytest.warns(UserWarning, match="Transparency"), Image.open(io.BytesIO(samples[0]["png"])) as image:
        image.convert("RGB")


def test_a_process_loads_the_model_once_for_all_its_tars(weights, tars, tmp_path, monkeypatch):
    made = []

    class Counted(Encoder):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(shard, "Encoder", Counted)
    shard._encoder.cache_clear()
    score(request(weights, tars, tmp_path))
    shard._encoder.cache_clear()
    assert len(made) == 1


def test_a_gpu_that_is_too_small_is_said(weights, tars, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Encoder, "encode", full)
    with pytest.raises(ValueError, match=r"batch=4096: there is too little memory on the GPU .* Give a smaller batch"):
        score(request(weights, tars, tmp_path, batch=4096))


def test_features_of_a_name_are_of_one_model(weights, other_weights, tars, tmp_path):
    """Also where only some tars have them: they would be one pool of two models' features."""
    score(request(weights, tars, tmp_path))
    (tmp_path / "metadata/a.npz").unlink()
    before = contents(tmp_path)
    for asked in (request(other_weights, tars, tmp_path), request(weights, tars, tmp_path, half=True)):
        with pytest.raises(ValueError, match=r"feature=l14: .* were made otherwise \((sha256|half): .*feature=…, or"):
            score(asked)
    assert contents(tmp_path) == before
    assert score(request(other_weights, tars, tmp_path, feature="dfn")).counts.kept == 12


def test_a_pool_of_other_features_has_another_key(weights, other_weights, tars, tmp_path):
    """Though files have the names and sizes they had."""
    source, keys, sizes = WebDataset(root=str(tars), scored=str(tmp_path / "out")), [], []
    for file in (weights, other_weights):
        score(request(file, tars, tmp_path / "out"))
        keys.append(source.step().key)
        sizes.append([path.stat().st_size for path in sorted(tmp_path.glob("out/metadata/*"))])
        assert source.step().key == keys[-1]
        (tmp_path / "out").rename(tmp_path / f"out{len(keys)}")
    assert sizes[0] == sizes[1] and keys[0] != keys[1]


@pytest.mark.parametrize("name", ["a.parquet", "a.npz"])
def test_metadata_that_score_has_not_made_are_not_lost(name, weights, tars, tmp_path):
    write_parquet(tmp_path / "metadata" / name, UIDS[:7], precious=range(7))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"holds 1 files that .* were not made by score \({name}\)"):
        score(request(weights, tars, tmp_path))
    assert contents(tmp_path) == before


DAMAGES = {
    "an npz cut short": lambda out: os.truncate(out / "metadata/a.npz", 500),
    "an empty npz": lambda out: os.truncate(out / "metadata/a.npz", 0),
    "other arrays": lambda out: np.savez(out / "metadata/a.npz", x=np.zeros(3)),
    "fewer rows": lambda out: np.savez(out / "metadata/a.npz", l14_img=np.zeros((3, 64)), l14_txt=np.zeros((3, 64))),
    "a parquet cut short": lambda out: os.truncate(out / "metadata/a.parquet", 500),
    "another parquet": lambda out: write_parquet(out / "metadata/a.parquet", UIDS[:7], clip_l14_similarity_score=None),
    "a note cut short": lambda out: os.truncate(out / "scored/a.json", 50),
    "another json": lambda out: (out / "scored/a.json").write_text("[]"),
}


@pytest.mark.parametrize("feature", ["l14", "dfn"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_as_they_were_written_are_said_and_not_used(damage, feature, weights, tars, tmp_path):
    """Neither do they count as done, nor are they handed on beside other features."""
    score(request(weights, tars, tmp_path))
    whole = contents(tmp_path)
    DAMAGES[damage](tmp_path)
    before = contents(tmp_path)
    said = (
        r"the files of a\.tar in .* are not as score wrote them: .* Remove metadata/a\.parquet, metadata/a\.npz and sc"
    )
    with pytest.raises(ValueError, match=said):
        score(request(weights, tars, tmp_path, feature=feature))
    assert contents(tmp_path) == before
    for name in ("metadata/a.parquet", "metadata/a.npz", "scored/a.json"):
        (tmp_path / name).unlink()
    score(request(weights, tars, tmp_path))
    assert contents(tmp_path) == whole


def test_an_array_with_a_wrong_byte_is_not_handed_on(weights, tars, tmp_path):
    score(request(weights, tars, tmp_path))
    content = bytearray((tmp_path / "metadata/a.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "metadata/a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not as score wrote them: a\.npz or a\.parquet cannot be read"):
        score(request(weights, tars, tmp_path, feature="dfn"))


@pytest.mark.slow
def test_two_at_once_wait_for_each_other(weights, other_weights, tars, tmp_path):
    """Two models for one folder: whoever comes second adds its features to those of the first."""
    folder = tmp_path / "both"
    words = "score checkpoint={} model=ViT-tiny-8 shards={} out={} feature={} engine.workers=1"
    asked = [words.format(file, tars, folder, feature) for file, feature in ((weights, "l14"), (other_weights, "dfn"))]
    done = []
    threads = [threading.Thread(target=lambda w=w: done.append(dcexp_process(w, tmp_path))) for w in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    for file, feature in ((weights, "l14"), (other_weights, "dfn")):
        score(request(file, tars, tmp_path / "turns", feature=feature))
    assert contents(folder) == contents(tmp_path / "turns")


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", "64k") as path:
        yield path


def test_a_full_disk_is_said_wherever_it_gets_full_and_gone_on_from(disk, weights, tmp_path):
    for name in "abc":
        write_tar(tmp_path / "tars" / f"{name}.tar", pictures(50))
    score(request(weights, tmp_path / "tars", tmp_path / "calm"))
    stops = 0
    for kilobytes in range(4, 400, 8):
        remount(disk, f"size={kilobytes}k")
        try:
            score(request(weights, tmp_path / "tars", disk / "out"))
            break
        except OSError as error:
            assert f"no space left for features in {disk}/out: free some, and give the same" in str(error)
            stops += 1
    assert stops > 5 and contents(disk / "out") == contents(tmp_path / "calm")


def said_by(words, monkeypatch, capsys):
    """The one message that ``score`` with these words ends in."""
    outcome = dcexp(monkeypatch, capsys, f"score model={MODEL} feature=l14 engine.workers=1 {words}")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    message = outcome.err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message.removeprefix("error: ")


def test_a_folder_that_cannot_be_written_is_one_message(disk, weights, tars, tmp_path, monkeypatch, capsys):
    words = f"checkpoint={weights} shards={tars}"
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert said_by(f"{words} out={out}", monkeypatch, capsys).startswith(f"out={out} cannot be written: ")
    remount(disk, "size=4k")
    assert said_by(f"{words} out={disk}/out", monkeypatch, capsys).startswith(f"no space left for features in {disk}/o")
    for place in (disk / "new", disk):
        remount(disk, "ro")
        message = said_by(f"{words} out={place}", monkeypatch, capsys)
        assert message.startswith(f"out={place} cannot be written: [Errno 30] Read-only file system")


def test_a_checkpoint_or_tars_that_are_no_such_thing_are_one_message(weights, tars, tmp_path, monkeypatch, capsys):
    state = torch.load(weights, weights_only=True)
    state["state_dict"]["visual.proj"][:] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    for name, wanted in {
        "nan.pt": "its features of images are not finite numbers",
        "other.pt": "is not a checkpoint of ViT-tiny-8",
        "text.pt": "is no checkpoint",
        "empty.pt": "is not a checkpoint of ViT-tiny-8",
        "text.safetensors": "is not a checkpoint of ViT-tiny-8",
        "absent.pt": "no such file, and no pretrained tag that open_clip has for ViT-tiny-8",
    }.items():
        message = said_by(f"checkpoint={tmp_path}/{name} shards={tars} out={tmp_path}/out", monkeypatch, capsys)
        assert wanted in message and name in message
    assert not list(tmp_path.glob("out/metadata/*"))
    for shards in (tmp_path, tmp_path / "nowhere"):
        words = f"checkpoint={weights} shards={shards} out={tmp_path}/new"
        assert said_by(words, monkeypatch, capsys) == (f"shards={shards}: there are no .tar files directly in {shards}")
    assert not (tmp_path / "new").exists()
