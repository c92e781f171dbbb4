"""Faces are blurred, or told, in exactly the images that have them; what cannot be seen to is left out and counted."""

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dcexp.artifacts.tar import TarReader
from dcexp.engines.local import Local
from dcexp.filters.none import NoFilter
from dcexp.reshard.blur import blurred
from dcexp.reshard.copy import Copy
from dcexp.reshard.faces import _FILES
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, hex_uids, sample, write_parquet, write_tar
from tests.reshard.test_blur import decoded, encoded, noise, plain
from tests.reshard.test_copy import files_in, payload, read, resharded

FACE, SMALL, CORNER = [0.3, 0.25, 0.6, 0.75], [0.1, 0.1, 0.3, 0.2], [0.8, 0.8, 1.0, 1.0]
SAID = ("apply_blur", "inject_blur_metadata", "blur_count")  # in meta.json, as upstream says it
UIDS = hex_uids(6, seed=1)
BOXES = [[FACE], None, [SMALL, CORNER], [], [CORNER], None]
BAD = {
    "in pixels": [12.0, 20.0, 30.0, 44.0],
    "no numbers": [0.1, float("nan"), 0.2, 0.3],
    "three numbers": [0.1, 0.2, 0.3],
    "none": None,
    "half of it": [0.1, 0.2, None, 0.4],
    "beside the image": [1.2, 0.1, 1.4, 0.3],
}


def jpeg(seed, height=48, width=64):
    return encoded(noise(height, width, 3, seed=seed), "JPEG", quality=90)


def write_pool(root, boxes, samples=None, parts=1, uids=None, kind=None):
    """A pool of pictures with these boxes, in as many metadata files and tars as there shall be ``parts``."""
    uids = uids or hex_uids(len(boxes), seed=1)
    samples = samples or [sample(uid, jpeg(number)) for number, uid in enumerate(uids)]
    for part in range(parts):
        mine = slice(part * len(uids) // parts, (part + 1) * len(uids) // parts)
        column = pa.array(boxes[mine], kind or pa.list_(pa.list_(pa.float64())))
        write_parquet(root / "metadata" / f"{part:04d}.parquet", uids[mine], face_bboxes=column)
        write_tar(root / "shards" / f"{part:08d}.tar", samples[mine])
    return dict(zip(uids, samples, strict=True))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pool"


def by_uid(shards):
    """The samples of some shards: what is in them, by uid. No uid comes twice."""
    found = {s["__key__"].removesuffix("-0"): payload(s) for s in read(shards.places)}
    assert len(found) == shards.samples == sum(shards.sizes.values())
    return found


def meta(shards):
    return json.loads((shards.path / "meta.json").read_text())


def test_only_images_with_faces_are_written_anew(root, tmp_path):
    before = write_pool(root, BOXES)
    shards, summary = resharded(root, UIDS, tmp_path / "out", Copy(blur="apply"))
    after = by_uid(shards)
    assert list(after) == UIDS
    for uid, boxes in zip(UIDS, BOXES, strict=True):
        if boxes:
            assert list(after[uid]) == ["json", "txt", "webp"]
            assert after[uid]["webp"] == blurred(before[uid]["jpg"], boxes)
            assert {suffix: after[uid][suffix] for suffix in ("json", "txt")} == {
                suffix: before[uid][suffix] for suffix in ("json", "txt")
            }
        else:
            assert after[uid] == before[uid]
    assert (summary.facts["faces"], summary.counts.kept, summary.counts.corrupt) == (3, 6, 0)
    assert [meta(shards)[name] for name in SAID] == [True, False, 3]


def test_pixels_out_of_reach_are_what_they_were_and_those_within_are_the_formulas(root, tmp_path):
    before = write_pool(root, BOXES)
    after = by_uid(resharded(root, UIDS, tmp_path / "out", Copy(blur="apply"))[0])
    for uid, boxes in zip(UIDS, BOXES, strict=True):
        if boxes:
            old, new = decoded(before[uid]["jpg"]), decoded(after[uid]["webp"])
            wanted, mask = plain(old, boxes)
            assert np.array_equal(new[mask == 0], old[mask == 0])
            assert np.abs(new - wanted).max() <= 0.51 and (new != old).any()
            assert 0 < np.mean(mask == 0) < 1


def test_boxes_are_told_in_the_json_and_images_stay(root, tmp_path):
    before = write_pool(root, BOXES)
    shards, summary = resharded(root, UIDS, tmp_path / "out", Copy(blur="metadata"))
    after = by_uid(shards)
    for uid, boxes in zip(UIDS, BOXES, strict=True):
        assert list(after[uid]) == ["jpg", "json", "txt"]
        told = json.loads(before[uid]["json"]) | ({"face_bboxes": boxes} if boxes else {})
        assert json.loads(after[uid]["json"]) == told
        same = ("jpg", "txt") if boxes else ("jpg", "txt", "json")
        assert [after[uid][suffix] for suffix in same] == [before[uid][suffix] for suffix in same]
    assert (summary.facts["faces"], summary.counts.kept) == (3, 6)
    assert [meta(shards)[name] for name in SAID] == [False, True, 3]


def test_who_does_not_ask_gets_the_images_as_they_are(root, tmp_path):
    before = write_pool(root, BOXES)
    shards, summary = resharded(root, UIDS, tmp_path / "out", Copy())
    assert by_uid(shards) == before and summary.facts["faces"] == 0
    assert [meta(shards)[name] for name in SAID] == [False, False, 0]


def test_the_manifest_says_what_was_done(root, tmp_path):
    write_pool(root, BOXES)
    pool = CommonPool(root=str(root)).step()
    step = Copy(blur="apply").step(pool, NoFilter().step(pool))
    manifest = Store(root=str(tmp_path / "store")).build(step, ONE).manifest
    assert manifest["summary"]["faces"] == 3
    assert manifest["lineage"]["stage"]["fields"]["blur"] == "apply"
    others = [Copy(blur=blur).step(pool, NoFilter().step(pool)).key for blur in ("none", "metadata")]
    assert len({step.key, *others}) == 3


@pytest.mark.parametrize("blur", ["apply", "metadata"])
def test_every_repeat_of_a_sample_is_seen_to(root, tmp_path, blur):
    before = write_pool(root, BOXES)
    wanted = [UIDS[0], UIDS[0], *UIDS, UIDS[1]]
    shards, summary = resharded(root, wanted, tmp_path / "out", Copy(blur=blur, shard_size=4))
    found = {s["__key__"]: payload(s) for s in read(shards.places)}
    of_first = [found[f"{UIDS[0]}-{copy}"] for copy in range(3)]
    assert len(found) == 9 and of_first[0] == of_first[1] == of_first[2]
    assert ("webp" in of_first[0]) == (blur == "apply") and of_first[0] != before[UIDS[0]]
    assert (summary.facts["faces"], summary.facts["written"], summary.counts.kept) == (5, 9, 6)


def test_two_samples_of_one_uid_are_both_seen_to(root, tmp_path):
    write_pool(root, BOXES)
    write_tar(root / "shards" / "9.tar", [sample(UIDS[0], jpeg(77))])
    shards, summary = resharded(root, UIDS[:2], tmp_path / "out", Copy(blur="apply"))
    images = [s.get("webp", s.get("jpg")) for s in read(shards.places)]
    assert images == [blurred(jpeg(0), [FACE]), jpeg(1), blurred(jpeg(77), [FACE])]
    assert (summary.facts["faces"], summary.counts.kept) == (2, 3)


@pytest.mark.parametrize("bad", BAD)
def test_a_box_that_is_none_costs_its_sample_and_no_other(root, tmp_path, caplog, bad):
    before = write_pool(root, [[FACE], [SMALL, BAD[bad]], None])
    shards, summary = resharded(root, UIDS[:3], tmp_path / "out", Copy(blur="apply"))
    after = by_uid(shards)
    assert list(after) == [UIDS[0], UIDS[2]] and after[UIDS[2]] == before[UIDS[2]]
    assert after[UIDS[0]]["webp"] == blurred(before[UIDS[0]]["jpg"], [FACE])
    counts = summary.counts
    assert (counts.total, counts.kept, counts.corrupt, counts.dropped, counts.missing) == (3, 2, 1, 0, 0)
    assert (summary.facts["faces"], summary.facts["written"]) == (1, 2)
    assert f"{UIDS[1]} is left out: the face box" in caplog.text


@pytest.mark.parametrize("bad", ["no numbers", "three numbers", "none", "half of it"])
def test_a_box_that_cannot_be_told_costs_its_sample(root, tmp_path, caplog, bad):
    write_pool(root, [[FACE], [BAD[bad]], None])
    shards, summary = resharded(root, UIDS[:3], tmp_path / "out", Copy(blur="metadata"))
    assert list(by_uid(shards)) == [UIDS[0], UIDS[2]] and summary.counts.corrupt == 1
    assert f"{UIDS[1]} is left out" in caplog.text


IMAGES = {
    "no picture": ({"jpg": b"no picture"}, "no format that Pillow knows"),
    "cut off": ({"jpg": jpeg(1)[:700]}, "cannot be decoded"),
    "empty": ({"jpg": b""}, "no format that Pillow knows"),
    "not there": ({}, "no image to blur them in"),
    "another kind": ({"gif": encoded(noise(9, 9), "GIF")}, "no image to blur them in"),
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_with_faces_that_cannot_be_blurred_is_left_out_and_counted(root, tmp_path, caplog, image):
    members, reason = IMAGES[image]
    samples = [sample(uid, jpeg(number)) for number, uid in enumerate(UIDS)]
    samples[1] = {**members, "json": samples[1]["json"], "txt": b"x"}
    samples[3] = {**members, "json": samples[3]["json"], "txt": b"has no faces"}
    write_pool(root, [[FACE], [FACE], None, None, [FACE], None], samples)
    wanted = [*UIDS, UIDS[1], UIDS[1], UIDS[4]]
    shards, summary = resharded(root, wanted, tmp_path / "out", Copy(blur="apply", shard_size=3))
    found = [s["__key__"] for s in read(shards.places)]
    assert {key[:32] for key in found} == {*UIDS} - {UIDS[1]} and len(found) == shards.samples == 6
    counts = summary.counts
    assert counts.add_up and (counts.total, counts.kept, counts.corrupt) == (6, 5, 1)  # however often it is wanted
    assert (summary.facts["faces"], summary.facts["written"]) == (3, 6)
    complaints = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(complaints) == 3 and all(f"{UIDS[1]} is left out: " in line and reason in line for line in complaints)


def test_json_that_cannot_be_told_anything_is_left_out(root, tmp_path):
    # The uid is read by a lenient parser, and boxes are put in by the same: what was read can be written.
    samples = [sample(UIDS[0], jpeg(0)), {"jpg": jpeg(1), "json": b'{"uid": "%s", "x": NaN}' % UIDS[1].encode()}]
    write_pool(root, [[FACE], [FACE]], samples)
    after = by_uid(resharded(root, UIDS[:2], tmp_path / "out", Copy(blur="metadata"))[0])
    assert b'"x": NaN' in after[UIDS[1]]["json"] and json.loads(after[UIDS[1]]["json"])["face_bboxes"] == [FACE]


def test_a_shard_of_which_nothing_is_left_is_an_empty_tar(root, tmp_path):
    samples = [sample(uid, b"no picture") for uid in UIDS]
    write_pool(root, [[FACE]] * 3 + [None] * 3, samples)
    shards, summary = resharded(root, UIDS, tmp_path / "out", Copy(blur="apply", shard_size=3))
    assert shards.sizes == {"00000000.tar": 0, "00000001.tar": 3} and summary.counts.kept == 3
    with TarReader(shards.places[0]) as tar:
        assert (list(tar.walk()), tar.damage) == ([], "")
    assert json.loads((shards.path / "00000000_stats.json").read_text()) == {"successes": 0}


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null()), pa.list_(pa.list_(pa.float32()))], ids=str)
@pytest.mark.parametrize("blur", ["apply", "metadata"])
def test_where_nobody_has_a_face_the_tars_are_those_of_a_plain_copy(root, tmp_path, blur, kind):
    write_pool(root, [None] * 6 if kind == pa.null() else [None, [], None, [], [], None], kind=kind)
    shards, summary = resharded(root, UIDS, tmp_path / "out", Copy(blur=blur, shard_size=4))
    whole, _ = resharded(root, UIDS, tmp_path / "plain", Copy(shard_size=4))
    assert summary.facts["faces"] == 0
    one, other = files_in(shards.path), files_in(whole.path)
    assert {name for name in one if one[name] != other[name]} == {"meta.json"} and one.keys() == other.keys()


def test_a_pool_that_says_nothing_of_faces_is_refused_before_anything_is_done(root, tmp_path):
    write_parquet(root / "metadata" / "0.parquet", UIDS)
    write_tar(root / "shards" / "0.tar", [sample(uid, jpeg(0)) for uid in UIDS])
    with pytest.raises(
        ValueError, match=r"reshard\.blur needs the column face_bboxes, .* do not have; they have: uid, "
    ):
        resharded(root, UIDS, tmp_path / "out", Copy(blur="apply"))
    assert files_in(tmp_path / "out") == {}


def test_a_part_that_says_nothing_of_faces_is_refused(root, tmp_path):
    write_pool(root, BOXES)
    write_parquet(root / "metadata" / "1.parquet", hex_uids(2, seed=9))
    with pytest.raises(ValueError, match=r"reshard\.blur needs the column face_bboxes"):
        resharded(root, UIDS, tmp_path / "out", Copy(blur="metadata"))


NUMBER = pa.float64()
WRONG = [
    (pa.string(), "[[0.1, 0.2, 0.3, 0.4]]"),
    (pa.list_(NUMBER), [0.1, 0.2, 0.3, 0.4]),
    (pa.list_(pa.list_(pa.string())), [["0.1", "0.2", "0.3", "0.4"]]),
    (pa.list_(pa.list_(pa.bool_())), [[True, False, True, True]]),
    (pa.list_(pa.list_(pa.list_(NUMBER))), [[[0.1, 0.2], [0.3, 0.4]]]),
    (pa.list_(pa.struct({"x": NUMBER, "y": NUMBER})), [{"x": 0.1, "y": 0.2}]),
    (pa.struct({"boxes": pa.list_(NUMBER)}), {"boxes": [0.1, 0.2, 0.3, 0.4]}),
    (pa.int64(), 3),
    (pa.bool_(), True),
]


@pytest.mark.parametrize(("kind", "value"), WRONG, ids=lambda kind: str(kind)[:30])
def test_boxes_of_another_type_are_refused(root, tmp_path, kind, value):
    write_pool(root, [value, None], kind=kind)
    with pytest.raises(
        ValueError, match=r"0000\.parquet: face_bboxes holds .*; wanted lists of boxes of four"
    ) as error:
        resharded(root, UIDS[:2], tmp_path / "out", Copy(blur="apply"))
    assert str(kind).replace("item", "element") in str(error.value) and not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.large_list(NUMBER)),
        pa.list_(pa.list_(NUMBER, 4)),
        pa.list_(pa.list_(pa.int32())),
    ],
    ids=str,
)
def test_all_spellings_of_boxes_are_read(root, tmp_path, kind):
    one, other = [0, 0, 1, 1], [-1, 0, 1, 2]
    before = write_pool(root, [[one], None, [other, one]], kind=kind)
    after = by_uid(resharded(root, UIDS[:3], tmp_path / "out", Copy(blur="apply"))[0])
    assert after[UIDS[0]]["webp"] == blurred(before[UIDS[0]]["jpg"], [one])
    assert after[UIDS[2]]["webp"] == blurred(before[UIDS[2]]["jpg"], [other, one])
    assert after[UIDS[1]] == before[UIDS[1]]


def test_uids_without_their_leading_zeros_are_the_same(root, tmp_path):
    uids = [f"{number:032x}" for number in (7, 0xABC, 1 << 90)]
    before = write_pool(root, [[FACE], None, [SMALL]], uids=uids)
    column = pa.array([[FACE], None, [SMALL]], pa.list_(pa.list_(NUMBER)))
    write_parquet(root / "metadata" / "0000.parquet", [uid.lstrip("0") for uid in uids], face_bboxes=column)
    after = by_uid(resharded(root, uids, tmp_path / "out", Copy(blur="apply"))[0])
    assert after[uids[0]]["webp"] == blurred(before[uids[0]]["jpg"], [FACE])
    assert after[uids[1]] == before[uids[1]] and "webp" in after[uids[2]]


def test_every_kind_of_image_is_blurred_and_no_second_one_stays(root, tmp_path):
    pictures = {kind: encoded(noise(40, 40, 3, seed=5), kind) for kind in ("PNG", "WEBP", "JPEG")}
    samples = [sample(uid) for uid in UIDS]
    images = [
        {"png": pictures["PNG"]},
        {"webp": pictures["WEBP"]},
        {"jpeg": pictures["JPEG"]},
        {"webp": pictures["WEBP"], "png": pictures["PNG"], "jpg": pictures["JPEG"]},
        {"JPG": pictures["JPEG"], "seg.png": b"no picture of a face", "npy": b"1"},
        {"webp": pictures["WEBP"], "png": pictures["PNG"]},
    ]
    samples = [{**image, "json": s["json"], "txt": s["txt"]} for image, s in zip(images, samples, strict=True)]
    write_pool(root, [[FACE]] * 5 + [None], samples)
    after = by_uid(resharded(root, UIDS, tmp_path / "out", Copy(blur="apply"))[0])
    first = ["PNG", "WEBP", "JPEG", "JPEG", "JPEG"]  # of several, what training would look at
    assert [after[uid]["webp"] for uid in UIDS[:5]] == [blurred(pictures[kind], [FACE]) for kind in first]
    assert [sorted(after[uid]) for uid in UIDS[:4]] == [["json", "txt", "webp"]] * 4
    assert after[UIDS[4]]["seg.png"] == b"no picture of a face" and "npy" in after[UIDS[4]]
    assert after[UIDS[5]] == samples[5]


@pytest.fixture
def large(root):
    """A pool of many small pictures: shards larger than what is in memory together, in two parts and tars."""
    count = 300
    uids = hex_uids(count, seed=6)
    boxes = [[FACE] if number % 3 == 0 else [[9.0] * 4] if number % 50 == 1 else None for number in range(count)]
    samples = [sample(uid, jpeg(number, 8, 8)) for number, uid in enumerate(uids)]
    write_pool(root, boxes, samples, parts=2, uids=uids)
    return uids, boxes, samples


def test_large_shards_are_seen_to_piece_by_piece(root, large, tmp_path):
    uids, boxes, samples = large
    shards, summary = resharded(root, uids, tmp_path / "out", Copy(blur="apply", shard_size=280))
    after = by_uid(shards)
    for uid, box, before in zip(uids, boxes, samples, strict=True):
        if box == [FACE]:
            assert after[uid]["webp"] == blurred(before["jpg"], box)
        else:
            assert after.get(uid) == (None if box else before)
    lost = sum(box == [[9.0] * 4] for box in boxes)
    assert (summary.counts.corrupt, summary.facts["faces"]) == (lost, sum(box == [FACE] for box in boxes)) and lost
    assert summary.facts["bytes"] == sum(Path(tar).stat().st_size for tar in shards.places)


def test_workers_and_interruptions_do_not_change_a_byte(root, large, tmp_path):
    uids = large[0]
    stage = Copy(blur="apply", shard_size=70, shuffle=True)
    one, of_one = resharded(root, uids, tmp_path / "one", stage)
    two, of_two = resharded(root, uids, tmp_path / "two", stage, Local(workers=2))
    left = killed(root, uids, tmp_path / "again")
    assert len(left) == 2
    again, of_again = resharded(root, uids, tmp_path / "again", stage)
    assert {name: (again.path / name).stat().st_ino for name in left} == left
    assert files_in(one.path) == files_in(two.path) == files_in(again.path)
    assert of_one == of_two == of_again and of_one.counts.corrupt > 0


def killed(root, uids, out):
    """What a resharding that is killed after two shards leaves: the inodes of its tars."""
    code = "import sys; from tests.reshard.test_faces import *; from tests.reshard.test_copy import Dying;"
    code += "root, out, *uids = sys.argv[1:]; stage = Copy(blur='apply', shard_size=70, shuffle=True);"
    code += "resharded(Path(root), uids, Path(out), stage, Dying(workers=1, items=2))"
    done = subprocess.run([sys.executable, "-c", code, root, out, *uids], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    return {path.name: path.stat().st_ino for path in out.glob("*.tar")}


@pytest.mark.parametrize("written", [1, 2, 3])
def test_boxes_that_were_half_written_are_collected_again(root, tmp_path, written):
    write_pool(root, BOXES)
    whole, _ = resharded(root, UIDS, tmp_path / "whole", Copy(blur="apply"))
    folder = tmp_path / "out" / "plan" / "faces"
    folder.mkdir(parents=True)
    for name in _FILES[: written - 1]:  # as an attempt that was killed leaves them
        (folder / f"{name}.npy").write_bytes(b"of the first attempt")
    (folder / f"{_FILES[written - 1]}.npy.17.tmp").write_bytes(b"")
    shards, _ = resharded(root, UIDS, tmp_path / "out", Copy(blur="apply"))
    assert files_in(shards.path) == files_in(whole.path)
