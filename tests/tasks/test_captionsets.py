"""Sets of captioned images: found in any of their layouts, read where they lie, refused where they are not whole."""

import json
import logging
import zipfile

import pytest

from dcexp.artifacts.evalset import CaptionSet
from dcexp.engines.local import Local
from dcexp.tasks.captionsets import CaptionFolder
from tests.tasks.caption_files import (
    TURNED,
    arrow_file,
    captioned,
    write_cache,
    write_csv,
    write_repository,
    write_tars,
    write_zip,
)
from tests.tasks.sets import write_tar

ENGINE = Local(workers=1)
NAME = "flickr_1k_test_image_text_retrieval"
CSV, ZIP = "test_1k_flickr.csv", "images_flickr_1k_test.zip"
SET = captioned()


def source(root):
    return CaptionFolder(root=str(root), folder=NAME)


def index(root, out="out"):
    out = root / out
    out.mkdir()
    return CaptionSet(out), source(root).run(out, ENGINE)


def contents(found):
    return [found.pictures.encoded(i) for i in range(len(found.pictures))]


def assert_same(found, images):
    assert contents(found) == [image.image for image in images]
    assert found.captions == [caption for image in images for caption in image.captions]
    assert found.owners.tolist() == [i for i, image in enumerate(images) for _ in image.captions]
    assert found.samples == len(images)
    found.assert_unchanged()


LAYOUTS = {
    "csv and zip": lambda root: write_repository(root / NAME, SET),
    "tars": lambda root: write_tars(root / NAME, SET),
    "cache of datasets": lambda root: write_cache(root, NAME, SET),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_captions(layout, tmp_path, caplog):
    LAYOUTS[layout](tmp_path)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    with caplog.at_level(logging.INFO):
        found, summary = index(tmp_path)
    assert_same(found, SET)
    assert summary.facts["layout"] == layout and layout in caplog.text
    assert (summary.counts.total, summary.counts.kept) == (len(SET), len(SET))
    made = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert {p.name for p in made} == {"index.json", "place.json", "pictures.parquet", "captions.parquet"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_members_are_read_alike(method, tmp_path):
    write_repository(tmp_path / NAME, SET, method)
    found, _ = index(tmp_path)
    assert_same(found, SET)
    assert set(found.table["deflated"]) == {method == zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_keep_their_mode_and_are_not_turned(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    pictures = index(tmp_path)[0].pictures
    assert [pictures.image(i).mode for i in range(5)] == ["RGB", "RGBA", "CMYK", "P", "L"]
    last = pictures.image(6)
    assert last.getexif()[0x0112] == TURNED
    assert last.size == stored_size(SET[6].image)


def stored_size(content):
    at = content.index(b"\xff\xc0")  # the frame header: length, precision, height, width
    return int.from_bytes(content[at + 7 : at + 9]), int.from_bytes(content[at + 5 : at + 7])


def test_layouts_are_tried_in_order(tmp_path):
    for name in ("tars", "cache of datasets"):
        LAYOUTS[name](tmp_path)
    assert source(tmp_path).found()[0].name == "tars"
    (tmp_path / NAME / "test/1.tar").unlink()
    assert source(tmp_path).found()[0].name == "cache of datasets", "a layout that is not whole is not taken"


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        CaptionFolder(root=str(tmp_path), folder=NAME, hub=f"nlphuji/{NAME}").check(ENGINE)
    for word in (str(tmp_path / NAME), "csv and zip", "tars", f"nlphuji___{NAME}", "dcexp download", "evalsets=DIR"):
        assert word in str(caught.value)
    folder = write_repository(tmp_path / NAME, SET)
    source(tmp_path).check(ENGINE)
    (folder / "second.csv").touch()
    (folder / "dataset_type.txt").write_text("multilabel\n")
    with pytest.raises(FileNotFoundError, match=r"wanted one \.csv.*second\.csv, test_1k_flickr\.csv(.|\n)*multilabel"):
        source(tmp_path).check(ENGINE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_files_are_another_key(layout, tmp_path):
    missing = source(tmp_path).step().key
    LAYOUTS[layout](tmp_path)
    key = source(tmp_path).step().key
    assert key != missing and key == source(f"{tmp_path}/x/..").step().key
    found, _ = index(tmp_path)
    changed = tmp_path / {"csv and zip": f"{NAME}/{CSV}", "tars": f"{NAME}/test/1.tar"}.get(layout, "")
    changed = arrow_file(tmp_path, NAME) if changed == tmp_path else changed
    with changed.open("ab") as file:
        file.write(b"\n")
    assert source(tmp_path).step().key not in (key, missing)
    with pytest.raises(ValueError, match=f"{changed.name} changed"):
        found.assert_unchanged()


def test_rows_of_other_splits_are_counted(tmp_path):
    write_repository(tmp_path / NAME, SET, splits={0: "train", 3: "val"})
    found, summary = index(tmp_path)
    assert_same(found, [SET[i] for i in (1, 2, 4, 5, 6)])
    assert (summary.counts.total, summary.counts.kept, summary.counts.dropped) == (7, 5, 2)


def test_a_set_with_nothing_of_the_test_split_is_refused(tmp_path):
    write_repository(tmp_path / NAME, SET, splits=dict.fromkeys(range(7), "train"))
    with pytest.raises(ValueError, match="nothing of the test split"):
        index(tmp_path)


def rows(*rows, columns=("filename", "raw")):
    def spoil(folder):
        write_csv(folder / CSV, columns, rows)

    return spoil


def text(content):
    return lambda folder: (folder / CSV).write_bytes(content)


def members(*names, method=zipfile.ZIP_STORED):
    return lambda folder: write_zip(folder / ZIP, dict.fromkeys(names, b"x" * 50), method)


def cut_zip(folder):
    (folder / ZIP).write_bytes((folder / ZIP).read_bytes()[:-40])


def encrypted(folder):
    content = bytearray((folder / ZIP).read_bytes())
    at = content.index(b"PK\1\2")
    while at >= 0:
        content[at + 8] |= 1
        at = content.find(b"PK\1\2", at + 1)
    (folder / ZIP).write_bytes(content)


def lost_headers(folder):
    (folder / ZIP).write_bytes((folder / ZIP).read_bytes().replace(b"PK\3\4", b"PK\3\5"))


NAMES = [image.name for image in SET]
BAD = {
    "not JSON": (rows(["im0.jpg", "['a']"]), r"row 1: raw: wanted a JSON list of strings, got \"\['a'\]\""),
    "deep JSON": (rows(["im0.jpg", "[" * 99_999]), "row 1: raw: wanted a JSON list"),
    "no list": (rows(["im0.jpg", "[]"], ["im1.png", ""]), "row 2: raw: wanted a JSON list of strings"),
    "no strings": (rows(["im0.jpg", "[1]"]), r"row 1: raw: wanted a list of strings, got '\[1\]'"),
    "half a character": (rows(["im0.jpg", '["\\ud800"]']), "row 1: raw: not Unicode"),
    "columns": (rows(["a", "b"], columns=("file", "raw")), "wanted the columns filename, raw, found file, raw"),
    "columns twice": (rows(["a", "b", "c"], columns=("raw", "raw", "filename")), "found raw, raw, filename"),
    "empty": (text(b""), "found none"),
    "no rows": (rows(), "nothing of the test split"),
    "fields": (rows(["im0.jpg", "[]"], ["im1.png"]), "row 2: wanted 2 fields as in the header, found 1"),
    "NUL": (text(b"filename,raw\nim0.jpg,[]\nim1.\0png,[]\n"), "line 3: a NUL byte"),
    "Latin-1": (text('filename,raw\nim0.jpg,"[""\xfc""]"\n'.encode("latin-1")), "line 2: not UTF-8"),
    "cut off": (text(b'filename,raw\nim0.jpg,[]\nim1.png,"[""a'), "row 2: not readable as csv"),
    "a pointer": (text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "found version https://git-lfs"),
    "no image": (rows(["im0.jpg", "[]"], ["im99.jpg", "[]"]), "row 2: 'im99.jpg' is not in .*zip"),
    "two images": (members(*NAMES, "other/im3.png"), "row 4: 'im3.png' is in .*more than once: im3.png, other/im3"),
    "bzip2": (members(*NAMES, method=zipfile.ZIP_BZIP2), "im0.jpg: wanted a member that is stored .* got method 12"),
    "encrypted": (encrypted, "im0.jpg: wanted a member .*not encrypted"),
    "cut zip": (cut_zip, f"{ZIP} is truncated, damaged or no zip"),
    "no zip": (lambda folder: (folder / ZIP).write_bytes(b""), f"{ZIP} is truncated, damaged or no zip"),
    "lost headers": (lost_headers, "no header of images_flickr_1k_test/im0.jpg where it should be"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_with_the_place(what, tmp_path):
    spoil, message = BAD[what]
    spoil(write_repository(tmp_path / NAME, SET))
    with pytest.raises(ValueError, match=message) as caught:
        index(tmp_path)
    assert str(tmp_path / NAME) in str(caught.value)


def test_fields_may_be_long_and_the_file_may_begin_with_a_mark(tmp_path):
    folder = write_repository(tmp_path / NAME, SET)
    caption = "many\nwords " * 30_000
    write_csv(folder / CSV, ["filename", "raw"], [["some/folder/im1.png", json.dumps([caption])]])
    (folder / CSV).write_bytes(b"\xef\xbb\xbf" + (folder / CSV).read_bytes())
    assert_same(index(tmp_path)[0], [SET[1]._replace(captions=[caption])])


TAR = {
    "no captions": ([{"png": b"x"}], r"s0000000: wanted an image .* and a \.txt, found \.png"),
    "no image": ([{"png": b"x", "txt": b"a"}, {"txt": b"a"}], r"s0000001: wanted an image .*found \.txt"),
    "Latin-1": ([{"png": b"x", "txt": b"\xfc"}], r"s0000000\.txt: not UTF-8"),
    "NUL": ([{"png": b"x", "txt": b"a\0"}], r"s0000000\.txt: a NUL byte"),
}


@pytest.mark.parametrize("what", TAR)
def test_bad_samples_in_tars_are_refused(what, tmp_path):
    samples, message = TAR[what]
    write_tar(write_tars(tmp_path / NAME, SET) / "test/1.tar", samples)
    with pytest.raises(ValueError, match=rf"1\.tar: {message}"):
        index(tmp_path)


def test_a_truncated_tar_is_refused(tmp_path):
    tar = write_tars(tmp_path / NAME, SET) / "test/1.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"1\.tar is truncated"):
        index(tmp_path)
