"""Evaluation sets: indexed where they lie, refused with advice where they do not."""

import io
import shutil

import numpy as np
import pytest

from dcexp.artifacts.evalset import ClassSet
from dcexp.engines.local import Local
from dcexp.tasks.digits import DigitsTestSet
from dcexp.tasks.evalsets import ClassFolder
from tests.tasks.sets import CLASSES, TEMPLATES, samples, write_set

ENGINE = Local(workers=1)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "evalsets" / "wds_zoo_test", [samples(5), samples(3)])


def local(folder):
    return ClassFolder(root=str(folder.parent), folder=folder.name)


def indexed(folder, out):
    out.mkdir()
    summary = local(folder).run(out, ENGINE)
    return ClassSet(out), summary


def test_a_folder_is_indexed_and_not_copied(folder, tmp_path):
    evalset, summary = indexed(folder, tmp_path / "out")
    assert sorted(p.name for p in evalset.path.iterdir()) == ["index.json", "pictures.parquet", "place.json"]
    assert evalset.root == folder and evalset.samples == 8
    assert evalset.classnames == list(CLASSES) and evalset.templates == list(TEMPLATES), "empty lines are no classes"
    wanted = [next(v for k, v in s.items() if k != "cls") for s in [*samples(5), *samples(3)]]
    assert [evalset.pictures.encoded(i) for i in range(8)] == wanted
    assert evalset.labels.tolist() == [int(s["cls"]) for s in [*samples(5), *samples(3)]]
    assert (summary.counts.total, summary.counts.kept) == (8, 8)
    assert summary.facts == {"root": str(folder), "classes": 7, "templates": 3}
    evalset.assert_unchanged()


def test_a_relative_root_is_found_from_anywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    ClassFolder(root="evalsets", folder="wds_zoo_test").run(tmp_path / "out", ENGINE)
    monkeypatch.chdir("/")
    assert ClassSet(tmp_path / "out").classnames == list(CLASSES)


def test_a_missing_folder_is_an_error_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        ClassFolder(root=str(tmp_path), folder="wds_mnist_test", hub="me/wds_mnist_test").check(ENGINE)
    said = str(caught.value)
    download = f"python -m dcexp download evalsets={tmp_path} tasks="
    hub = "hf download me/wds_mnist_test --repo-type dataset --local-dir"
    for words in (str(tmp_path / "wds_mnist_test"), download, hub, "classnames.txt", "evalsets=DIR"):
        assert words in said


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/1.tar"]
)
def test_any_missing_file_is_named(name, folder):
    local(folder).check(ENGINE)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        local(folder).check(ENGINE)


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5", "9" * 9])
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


def test_an_index_inside_its_set_survives_a_move(tmp_path):
    (tmp_path / "here").mkdir()
    DigitsTestSet().run(tmp_path / "here", ENGINE)
    shutil.move(tmp_path / "here", tmp_path / "elsewhere")
    moved = ClassSet(tmp_path / "elsewhere")
    moved.assert_unchanged()
    assert moved.root == tmp_path / "elsewhere" and moved.pictures.image(899).mode in ("RGB", "L")


def with_integers(n, width, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for sample in samples(n, seed=seed):
        buffer = io.BytesIO()
        np.save(buffer, rng.integers(0, 5, width))
        found.append({**sample, "npy": buffer.getvalue()})
    return found


def test_integers_beside_the_images_are_read_where_they_are_wanted(tmp_path):
    shards = [with_integers(4, 3), with_integers(2, 3, seed=1)]
    root = write_set(tmp_path / "wds_zoo_test", shards)
    wanted = [np.load(io.BytesIO(sample["npy"])).tolist() for shard in shards for sample in shard]
    for reads in (["cls", "npy"], ["npy"]):
        out = tmp_path / "-".join(reads)
        out.mkdir()
        ClassFolder(root=str(tmp_path), folder=root.name, reads=reads).run(out, ENGINE)
        assert ClassSet(out).metadata.tolist() == wanted and ("label" in ClassSet(out).table) == ("cls" in reads)


def test_vectors_of_different_lengths_and_labels_beyond_the_classes_are_refused(tmp_path):
    root = write_set(tmp_path / "wds_a_test", [with_integers(4, 3), with_integers(2, 4)])
    source = ClassFolder(root=str(tmp_path), folder=root.name, reads=["cls", "npy"])
    with pytest.raises(ValueError, match=r"1\.tar: s0000004\.npy holds 4 integers, others 3"):
        source.run(tmp_path, ENGINE)
    root = write_set(tmp_path / "wds_b_test", [[*samples(2), {"png": b"x", "cls": b"7"}]])
    with pytest.raises(ValueError, match=r"s0000002\.cls: wanted the position of a class, 0 to 6, .*; got 7"):
        local(root).run(tmp_path, ENGINE)


def test_workers_change_nothing(tmp_path):
    root = write_set(tmp_path / "wds_zoo_test", [samples(3, seed=i) for i in range(5)])
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        out.mkdir()
        local(root).run(out, Local(workers=workers))
        found.append((out / "pictures.parquet").read_bytes())
    assert found[0] == found[1]


def test_text_files_of_windows_are_read_as_they_are_meant(tmp_path):
    root = write_set(tmp_path / "wds_zoo_test", [samples(2)])
    (root / "classnames.txt").write_bytes(b"\xef\xbb\xbfcat\r\n\r\nd\xe2\x80\xa8og\r\n" + b"x\r\n" * 5)
    (tmp_path / "out").mkdir()
    local(root).run(tmp_path / "out", ENGINE)
    assert ClassSet(tmp_path / "out").classnames == ["cat", "d\u2028og", *"xxxxx"]


@pytest.mark.parametrize("name", ["classnames.txt", "test/nshards.txt", "zeroshot_classification_templates.txt"])
def test_text_that_is_not_utf_8_is_named(name, folder, tmp_path):
    (folder / name).write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}: wanted text in UTF-8"):
        local(folder).run(tmp_path, ENGINE)


def test_the_key_follows_where_and_which(folder):
    keys = {ClassFolder(root=r, folder=f).step().key for r in ("a", "b") for f in ("wds_x_test", "wds_y_test")}
    assert len(keys) == 4
    here = local(folder).step()
    assert here.name.startswith("wds_zoo_test-")
    assert here.key == ClassFolder(root=f"{folder.parent}/x/..", folder=folder.name).step().key
    (folder / "classnames.txt").write_text("one\ntwo\n")
    assert here.key != local(folder).step().key


def test_the_embedded_set_is_complete_and_always_the_same(tmp_path):
    pytest.importorskip("dcexp.embedded.testset")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        DigitsTestSet().run(tmp_path / name, ENGINE)
    evalset = ClassSet(tmp_path / "a")
    assert evalset.samples == 900 and len(evalset.classnames) == 10 and evalset.root == tmp_path / "a"
    assert evalset.index == ClassSet(tmp_path / "b").index
