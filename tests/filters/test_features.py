"""Files of features: every format that is read, and every file that is refused, with its name and a reason."""

import pickle

import numpy as np
import pytest
import torch

from dcexp.assets import Assets
from dcexp.filters.feature_files import CENTROIDS, TARGETS, FeatureFiles
from dcexp.filters.features import read_features
from dcexp.published import ASSETS, Asset, File, file_digest

ROWS = np.random.default_rng(0).random((6, 3)).astype(np.float32)


class Foreign:
    """Would run code when it is read."""

    def __reduce__(self):
        return print, ("this ran",)


def save_numpy(path, **arrays):
    np.savez(path, **arrays) if path.suffix == ".npz" else np.save(path, **arrays)
    return path


def save(path, value, **how):
    torch.save(value, path, **how)
    return path


WRITERS = {
    "npy": lambda p: save_numpy(p / "a.npy", arr=ROWS),
    "npz": lambda p: save_numpy(p / "a.npz", mine=ROWS),
    "npz of several": lambda p: save_numpy(p / "a.npz", image_features=ROWS, ids=np.arange(6)),
    "tensor": lambda p: save(p / "a.pt", torch.tensor(ROWS)),
    "upstream's target": lambda p: save(p / "a.pt", {"image_features": torch.tensor(ROWS), "names": ["a"]}),
    "upstream's centroids": lambda p: save(p / "a.pt", ROWS, pickle_protocol=4),
    "centroids, protocol 2": lambda p: save(p / "a.pt", ROWS),
    "centroids, protocol 5": lambda p: save(p / "a.pt", ROWS, pickle_protocol=5),
    "before torch 1.6": lambda p: save(p / "a.pt", torch.tensor(ROWS), _use_new_zipfile_serialization=False),
    "bfloat16": lambda p: save(p / "a.pt", torch.tensor(ROWS).bfloat16()),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_format_is_read(writer, tmp_path, recwarn):
    read = read_features(writer(tmp_path))
    assert read.dtype == np.float32 and np.allclose(read, ROWS, atol=1e-2 if read[0, 0] != ROWS[0, 0] else 0)
    assert not [w for w in recwarn if "pickle" in str(w.message)]


def test_half_precision_stays_as_it_is(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.astype(np.float16))
    assert read_features(tmp_path / "a.npy").dtype == np.float16


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("value", [Foreign(), {"image_features": ROWS, "extra": Foreign()}, [ROWS, Foreign()]])
def test_pickled_objects_are_refused_and_nothing_runs(value, protocol, tmp_path, capsys):
    path = save(tmp_path / "a.pt", value, pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"a.pt is no .pt file of tensors and numpy arrays alone.*refused"):
        read_features(path)
    assert "this ran" not in capsys.readouterr().out


def test_pickles_in_numpy_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Foreign()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", image_features=np.array([[None]], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=rf"{name} is not a readable .np. file of plain numbers"):
            read_features(tmp_path / name)


NAN = np.where(np.arange(6)[:, None] == 4, np.nan, ROWS)
REFUSED = {
    "one row without a second axis": (ROWS[0], r"wanted features of shape \(rows, width\).*got shape \(3,\)"),
    "three axes": (ROWS[None], r"got shape \(1, 6, 3\)"),
    "no rows": (ROWS[:0], r"got shape \(0, 3\)"),
    "whole numbers": (ROWS.astype(np.int32), r"in a floating type.*int32"),
    "NaN": (NAN, r"row 4 holds NaN or infinity; leave such rows out"),
    "infinity": (np.where(np.isnan(NAN), np.inf, NAN).astype(np.float16), "row 4 holds NaN or infinity"),
    "text": (np.array([["a"]]), r"in a floating type"),
}


@pytest.mark.parametrize("array, reason", REFUSED.values(), ids=REFUSED)
def test_arrays_that_are_no_features_are_refused(array, reason, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=rf"a\.npy: .*{reason}"):
        read_features(tmp_path / "a.npy")


def test_files_that_are_no_features_are_refused(tmp_path):
    for name in ("a.npy", "a.npz", "a.pt"):
        for content in (b"", b"no such thing", b"PK\x03\x04 cut off", pickle.dumps(ROWS)[:50]):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                read_features(tmp_path / name)
    (tmp_path / "a.txt").write_text("0.1 0.2")
    with pytest.raises(ValueError, match=r"a.txt: wanted features in a file of .npy, .npz or .pt"):
        read_features(tmp_path / "a.txt")
    save(tmp_path / "a.pt", {"one": torch.tensor(ROWS), "two": torch.tensor(ROWS)})
    with pytest.raises(ValueError, match="wanted one array, or one of the name image_features; it has: one, two"):
        read_features(tmp_path / "a.pt")
    save(tmp_path / "a.pt", ["a list"])
    with pytest.raises(ValueError, match="wanted an array, got list"):
        read_features(tmp_path / "a.pt")


def test_a_file_that_changed_is_read_anew(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    read_features(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", ROWS[:2])
    assert len(read_features(tmp_path / "a.npy")) == 2


def given(word, published=TARGETS, **assets):
    return FeatureFiles(option="target", given=str(word), published=published, assets=Assets(**assets))


def test_a_published_name_is_known_without_its_files():
    digests = given("imagenet_l14").digests()
    assert digests == [file.sha256 for file in ASSETS["imagenet_l14"].files] and len(digests) == 5
    assert given("medium", CENTROIDS).digests() == [ASSETS["centroids_medium"].files[0].sha256]


def test_ones_own_file_is_known_by_its_content(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS)
    assert given(tmp_path / "a.npy").digests() == given(tmp_path / "b.npy").digests()
    assert (given(tmp_path / "a.npy").label, given("imagenet_l14").label) == ("own", "imagenet_l14")
    (tmp_path / "notes.txt").write_text("not a feature")
    assert [path.name for path in given(tmp_path).files()] == ["a.npy", "b.npy"]
    digests = given(tmp_path).digests()
    np.save(tmp_path / "b.npy", ROWS[:3])
    assert given(tmp_path).digests() != digests
    with pytest.raises(ValueError, match="was changed while the run was going; give the same command again"):
        given(tmp_path).files(digests)


def test_a_copy_of_a_published_file_is_the_published_one(tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", ROWS)
    file = File(url="https://example.org/tiny.npy", sha256=file_digest(tmp_path / "mine.npy"))
    monkeypatch.setitem(ASSETS, "centroids_small", Asset(what="centres", files=(file,)))
    own, published = given(tmp_path / "mine.npy", CENTROIDS), given("small", CENTROIDS)
    assert (own.label, own.digests()) == (published.label, published.digests())
    (tmp_path / "tiny.npy").write_bytes((tmp_path / "mine.npy").read_bytes())
    assert given("small", CENTROIDS, cache=str(tmp_path)).files() == (tmp_path / "tiny.npy",)


def test_a_missing_file_is_refused_with_what_exists(tmp_path):
    for word in ("tiny", tmp_path / "none.npy", tmp_path):
        assert given(word, CENTROIDS).digests() == ["missing"]
        with pytest.raises(
            FileNotFoundError, match=r"filter.target=.*no such file.*Wanted small, medium, large, xlarge"
        ):
            given(word, CENTROIDS).check()
    with pytest.raises(FileNotFoundError, match=r"assets.imagenet_l14=/nowhere: no such file"):
        given("imagenet_l14", imagenet_l14="/nowhere").check()
