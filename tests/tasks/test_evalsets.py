"""Evaluation sets: indexed where they lie, refused with advice where they do not."""

import shutil

import pytest

from dcexp.artifacts.evalset import EvalSet, EvalSetIndex
from dcexp.engines.local import Local
from dcexp.tasks.digits import DigitsTestSet
from dcexp.tasks.evalsets import LocalEvalSet
from tests.tasks.sets import CLASSES, TEMPLATES, samples, write_set

ENGINE = Local(workers=1)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "evalsets" / "wds_zoo_test", [samples(5), samples(3)])


def local(folder):
    return LocalEvalSet(root=str(folder.parent), folder=folder.name)


def indexed(folder, out):
    out.mkdir()
    summary = local(folder).run(out, ENGINE)
    return EvalSet(out), summary


def test_a_folder_is_indexed_and_not_copied(folder, tmp_path):
    evalset, summary = indexed(folder, tmp_path / "out")
    assert [p.name for p in evalset.path.iterdir()] == ["index.json"]
    assert evalset.root == folder and evalset.samples == 8
    assert evalset.classnames == list(CLASSES) and evalset.templates == list(TEMPLATES), "empty lines are no classes"
    assert evalset.tars == [folder / "test/0.tar", folder / "test/1.tar"]
    assert (summary.counts.total, summary.counts.kept) == (8, 8)
    assert summary.facts == {"root": str(folder), "classes": 7, "templates": 3}
    evalset.assert_unchanged()


def test_a_relative_root_is_found_from_anywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    LocalEvalSet(root="evalsets", folder="wds_zoo_test").run(tmp_path / "out", ENGINE)
    monkeypatch.chdir("/")
    assert EvalSet(tmp_path / "out").classnames == list(CLASSES)


def test_a_missing_folder_is_an_error_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        LocalEvalSet(root=str(tmp_path), folder="wds_mnist_test").check(ENGINE)
    said = str(caught.value)
    for words in (str(tmp_path / "wds_mnist_test"), "djghosh/wds_mnist_test", "classnames.txt", "evalsets=DIR"):
        assert words in said


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/1.tar"]
)
def test_any_missing_file_is_named(name, folder):
    local(folder).check(ENGINE)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        local(folder).check(ENGINE)


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5"])
def test_a_senseless_number_of_tars_is_refused(text, folder):
    (folder / "test/nshards.txt").write_text(text)
    with pytest.raises(ValueError, match=r"nshards\.txt: wanted the number of tars"):
        local(folder).check(ENGINE)


def test_a_truncated_tar_is_found_when_indexed(folder, tmp_path):
    tar = folder / "test/1.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"1\.tar is truncated"):
        indexed(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["classnames.txt", "test/0.tar", "test/nshards.txt"])
def test_changes_since_indexing_are_noticed(name, folder, tmp_path):
    evalset, _ = indexed(folder, tmp_path / "out")
    if name == "test/nshards.txt":
        (folder / name).write_text("1")
    else:
        with (folder / name).open("ab") as file:
            file.write(b"more\n")
    with pytest.raises(ValueError, match=f"{name}.* changed .*rebuild=evalset"):
        evalset.assert_unchanged()


def test_an_index_inside_its_set_survives_a_move(folder, tmp_path):
    EvalSetIndex.of(folder, 8, as_root=".").write(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    moved = EvalSet(tmp_path / "elsewhere")
    moved.assert_unchanged()
    assert moved.root == tmp_path / "elsewhere" and len(moved.tars) == 2


def test_the_key_follows_where_and_which(folder):
    keys = {LocalEvalSet(root=r, folder=f).step().key for r in ("a", "b") for f in ("wds_x_test", "wds_y_test")}
    assert len(keys) == 4
    here = local(folder).step()
    assert here.name.startswith("wds_zoo_test-")
    assert here.key == LocalEvalSet(root=f"{folder.parent}/x/..", folder=folder.name).step().key
    (folder / "classnames.txt").write_text("one\ntwo\n")
    assert here.key != local(folder).step().key


def test_the_embedded_set_is_complete_and_always_the_same(tmp_path):
    pytest.importorskip("dcexp.embedded.testset")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        DigitsTestSet().run(tmp_path / name, ENGINE)
    evalset = EvalSet(tmp_path / "a")
    assert evalset.samples == 900 and len(evalset.classnames) == 10 and evalset.root == tmp_path / "a"
    assert evalset.index == EvalSet(tmp_path / "b").index
