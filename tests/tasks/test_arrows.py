"""The cache that datasets leaves of a set of captioned images: read after a move, refused when it is another thing."""

import shutil

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts.evalset import CaptionSet
from dcexp.engines.local import Local
from dcexp.tasks.captionsets import CaptionFolder
from tests.tasks.caption_files import IMAGE, arrow_file, captioned, write_cache, write_stream

NAME = "mscoco_2014_5k_test_image_text_retrieval"
SET = captioned()


def index(root):
    out = root / "out"
    out.mkdir()
    CaptionFolder(root=str(root), folder=NAME).run(out, Local(workers=1))
    return CaptionSet(out)


def assert_whole(found):
    assert [found.pictures.encoded(i) for i in range(found.samples)] == [image.image for image in SET]
    assert found.captions == [caption for image in SET for caption in image.captions]


def test_a_moved_cache_is_read_where_it_is_now(tmp_path):
    write_cache(tmp_path / "old", NAME, SET)
    (tmp_path / "old").rename(tmp_path / "new")
    found = index(tmp_path / "new")
    assert_whole(found)
    assert not any(file.startswith("/") for file in found.table["file"]), "relative to the root"


def test_a_cache_may_point_elsewhere(tmp_path):
    write_cache(tmp_path / "old", NAME, SET)
    shutil.copytree(tmp_path / f"old/hf_cache/nlphuji___{NAME}", tmp_path / f"new/hf_cache/nlphuji___{NAME}")
    assert_whole(index(tmp_path / "new"))


def test_a_cache_without_its_images_is_refused(tmp_path):
    write_cache(tmp_path, NAME, SET)
    gone = next(tmp_path.rglob("im2.jpg"))
    gone.unlink()
    with pytest.raises(ValueError, match=rf"test\.arrow, row 3: its image is not there: neither {gone} nor"):
        index(tmp_path)


def one_row(**columns):
    given = {"image": pa.array([{"bytes": None, "path": "/x"}], IMAGE), "caption": [["a"]], "split": ["test"]}
    given.update(columns)
    return pa.table({name: values for name, values in given.items() if values is not None})


ARROW = {
    "embedded": (one_row(image=pa.array([{"bytes": b"x", "path": "/x"}], IMAGE)), "image holds the images themselves"),
    "type": (one_row(image=["/x"]), "image is string: wanted images"),
    "columns": (one_row(caption=None), "lacks the columns caption; it has image, split"),
    "no image": (one_row(image=pa.array([None], IMAGE)), r"row 1: image: wanted a list of strings, got '\[None\]'"),
    "no captions": (one_row(caption=pa.array([None], pa.list_(pa.string()))), "row 1: caption: wanted a list"),
    "no caption": (one_row(caption=[["a", None]]), "row 1: caption: wanted a list of strings"),
}


@pytest.mark.parametrize("what", ARROW)
def test_a_cache_of_another_kind_is_refused(what, tmp_path):
    table, message = ARROW[what]
    path = write_stream(arrow_file(tmp_path, NAME), table)
    with pytest.raises(ValueError, match=message) as caught:
        index(tmp_path)
    assert str(path) in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_cache_is_a_clear_error_or_still_readable(tmp_path_factory, at, value, cut):
    root = tmp_path_factory.mktemp("cache")
    path = write_cache(root, NAME, SET)
    content = bytearray(path.read_bytes())
    at %= len(content)
    content = content[:at] if cut else content[:at] + bytes([value]) + content[at + 1 :]
    path.write_bytes(content)
    try:
        index(root)
    except ValueError as error:
        assert str(path) in str(error)
    shutil.rmtree(root)
