"""Sets of associations: questions about shared images, the same from the repository's files and from the cache."""

import json

import pyarrow as pa
import pytest

from dcexp.artifacts.evalset import AssociationSet
from dcexp.engines.local import Local
from dcexp.tasks.associationsets import AssociationFolder
from tests.tasks.caption_files import (
    ASKED,
    IMAGE,
    Asked,
    arrow_file,
    words,
    write_association_cache,
    write_association_repository,
    write_csv,
    write_stream,
)

ENGINE = Local(workers=1)
CSV = "winogavil/winogavil_dataset.csv"
LAYOUTS = {
    "csv and zip": lambda root: write_association_repository(root / "winogavil"),
    "cache of datasets": write_association_cache,
}


def index(root):
    out = root / "out"
    out.mkdir()
    return AssociationSet(out), AssociationFolder(root=str(root), folder="winogavil").run(out, ENGINE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_ask_the_same_of_the_same_images(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    found, summary = index(tmp_path)
    assert found.samples == summary.counts.total == summary.counts.kept == 2
    assert summary.facts["layout"] == layout
    assert found.cues == [asked.cue for asked in ASKED], "as they are: in capitals too"
    for asked, positions, chosen in zip(ASKED, found.candidates, found.chosen, strict=True):
        assert [found.pictures.encoded(i) for i in positions] == [words()[word] for word in asked.candidates]
        assert [word for word, one in zip(asked.candidates, chosen, strict=True) if one] == [
            word for word in asked.candidates if word in asked.associations
        ]
    found.assert_unchanged()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_of_several_questions_is_one_picture(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    found, _ = index(tmp_path)
    assert [positions.tolist() for positions in found.candidates] == [[0, 1, 2], [2, 3, 4, 0]]
    assert len(found.pictures) == 5


def test_a_moved_cache_is_read_where_it_is_now(tmp_path):
    write_association_cache(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(index(tmp_path / "new")[0].pictures) == 5


def test_another_csv_is_another_key(tmp_path):
    write_association_repository(tmp_path / "winogavil")
    source = AssociationFolder(root=str(tmp_path), folder="winogavil")
    key = source.step().key
    with (tmp_path / CSV).open("a") as file:
        file.write("\n")
    assert key != source.step().key
    assert key != AssociationFolder(root=str(tmp_path), folder="other").step().key


def test_a_missing_set_is_an_error_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"winogavil(.|\n)*csv and zip(.|\n)*cache of datasets(.|\n)*evalsets="):
        AssociationFolder(root=str(tmp_path), folder="winogavil").check(ENGINE)


TWO = ["word 0", "word 1"]
BAD = {
    "no cue": (Asked("  ", TWO, ["word 0"]), "row 1: the cue is empty"),
    "no associations": (Asked("bee", TWO, []), "row 1: no candidate is an association"),
    "strange associations": (Asked("bee", TWO, ["word 2"]), "row 1: no candidate is an association"),
}


@pytest.mark.parametrize("what", BAD)
def test_questions_without_an_answer_are_refused(what, tmp_path):
    asked, message = BAD[what]
    write_association_repository(tmp_path / "csv/winogavil", [asked])
    write_association_cache(tmp_path / "cache", [asked])
    for name in ("csv", "cache"):
        with pytest.raises(ValueError, match=message):
            index(tmp_path / name)


def test_an_association_that_is_no_candidate_is_left_out_as_upstream_does_and_told(tmp_path, caplog):
    write_association_repository(tmp_path / "winogavil", [Asked("bee", TWO, ["word 1", "word 2"])])
    evalset = index(tmp_path)[0]
    assert evalset.chosen[0].tolist() == [False, True]
    assert "row 1: the associations word 2 are not among the candidates" in caplog.text


def test_a_missing_image_is_named_with_its_question(tmp_path):
    asked = [Asked("bee", TWO, ["word 0"]), Asked("wasp", ["word 1", "word 77"], ["word 1"])]
    write_association_repository(tmp_path / "winogavil", asked)
    with pytest.raises(ValueError, match=r"dataset\.csv, row 2: 'word 77\.jpg' is not in .*images\.zip"):
        index(tmp_path)


@pytest.mark.parametrize("field", ["['word 0']", "word 0", "", "null", '{"word 0": 1}', '["word 0", null]'])
def test_lists_that_are_not_json_are_refused(field, tmp_path):
    write_association_repository(tmp_path / "winogavil")
    for fields in ([field, json.dumps(TWO)], [json.dumps(TWO), field]):
        write_csv(tmp_path / CSV, ["candidates", "associations", "cue"], [[*fields, "bee"]])
        with pytest.raises(ValueError, match=r"dataset\.csv, row 1: (candidates|associations): wanted a"):
            AssociationFolder(root=str(tmp_path), folder="winogavil").run(tmp_path, ENGINE)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"bytes": None, "path": "/x.jpg"}], "row 1: 2 candidates and 1 images"),
        ([{"bytes": None, "path": "/x.jpg"}, {"bytes": None, "path": None}], "row 1: candidate_images: wanted a list"),
        ([{"bytes": b"x", "path": "/x.jpg"}, None], "candidate_images holds the images themselves"),
    ],
)
def test_a_cache_of_another_kind_is_refused(images, message, tmp_path):
    columns = {"cue": ["bee"], "candidates": [TWO], "associations": [["word 0"]]}
    table = pa.table({**columns, "candidate_images": pa.array([images], pa.list_(IMAGE))})
    write_stream(arrow_file(tmp_path, "winogavil"), table)
    with pytest.raises(ValueError, match=message):
        index(tmp_path)
