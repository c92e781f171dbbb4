"""Places: what is a path and what a URL, what is in a folder, and that a file is there whole or not at all."""

import os
from pathlib import Path

import pytest

from dcexp.artifacts.place import absolute, below, exists, is_url, listed, name_of, open_place, whole_place

URLS = ["s3://bucket/a", "S3://bucket", "gs://b", "memory://x", "file:///tmp", "abfs+x-y.z://c/d", "http2://x"]
PATHS = [
    "/data/pool", "data/pool", "pipe:cat x", "pipe:cat s3://bucket/x", "s3:/bucket", "s3:bucket", "://x", "./s3://x",
    "-://x", "3s://bucket", "a b://x", "C:\\x", "~/s3://x", "",
]  # fmt: skip


@pytest.mark.parametrize("place", URLS)
def test_a_protocol_makes_a_url(place):
    assert is_url(place)


@pytest.mark.parametrize("place", PATHS)
def test_everything_else_is_a_path(place):
    assert not is_url(place)


@pytest.mark.parametrize("spelling", ["s3://bucket/pool", "s3://bucket/pool/", "s3://bucket/pool//"])
def test_a_url_has_one_spelling(spelling):
    assert absolute(spelling) == "s3://bucket/pool"


def test_a_path_has_one_spelling(tmp_path, monkeypatch):
    (tmp_path / "pool").mkdir()
    (tmp_path / "link").symlink_to("pool")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = ["pool", "pool/", "./pool", "x/../pool", "link", "~/pool", f"{tmp_path}//pool"]
    assert {absolute(spelling) for spelling in spellings} == {str(tmp_path / "pool")}
    assert absolute("pipe:cat x") == str(tmp_path / "pipe:cat x")


@pytest.mark.parametrize(
    ("folder", "name", "place"),
    [
        ("/pool", "a.tar", "/pool/a.tar"),
        ("/pool/", "a.tar", "/pool/a.tar"),
        ("/pool", "/other/a.tar", "/other/a.tar"),
        ("/pool", "s3://bucket/a.tar", "s3://bucket/a.tar"),
        ("s3://bucket/pool", "a.tar", "s3://bucket/pool/a.tar"),
        ("s3://bucket", "a b#?%20.tar", "s3://bucket/a b#?%20.tar"),
        ("s3://bucket/pool", "gs://other/a.tar", "gs://other/a.tar"),
    ],
)
def test_below_a_folder_unless_the_name_says_where(folder, name, place):
    assert below(folder, name) == place


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/pool/a.tar", "a.tar"),
        ("a.tar", "a.tar"),
        ("/pool/shards/", "shards"),
        ("s3://bucket/pool/a.tar", "a.tar"),
        ("s3://bucket", "bucket"),
    ],
)
def test_the_name_is_the_last_part(place, name):
    assert name_of(place) == name


@pytest.fixture(params=["a path", "memory", "file"])
def folder(request, tmp_path):
    """A folder that is not there yet: a path, a URL that is no file of this machine, a URL that is."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}/pool"
    return f"file://{tmp_path}" if request.param == "file" else str(tmp_path / "pool")


def put(place, content=b"content"):
    with whole_place(place) as file:
        file.write(content)


def test_a_listing_has_the_files_directly_in_a_folder_in_name_order(folder):
    for name, size in {"b.tar": 2, "a.tar": 1, ".hidden.tar": 1, "a.txt": 1, "tar": 1, "c.tar.tmp": 1}.items():
        put(below(folder, name), bytes(size))
    for inner in ("sub", "sub.tar"):
        if not is_url(folder) or folder.startswith("file"):
            Path(folder.removeprefix("file://"), inner).mkdir()
        put(below(folder, f"{inner}/d.tar"))
    assert list(listed(folder, ".tar").items()) == [("a.tar", 1), ("b.tar", 2)]
    assert listed(folder, ".parquet") == {}


def test_links_to_files_are_listed_and_links_to_nothing_are_not(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"123")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.tar").symlink_to("../elsewhere/x")
    (tmp_path / "pool" / "b.tar").symlink_to("../gone")
    (tmp_path / "pool" / "c.tar").symlink_to("../elsewhere")
    assert listed(str(tmp_path / "pool"), ".tar") == {"a.tar": 3}


def test_what_is_no_folder_is_empty(folder):
    assert listed(f"{folder}/none", ".tar") == {}
    put(below(folder, "a.tar"))
    assert listed(below(folder, "a.tar"), ".tar") == {}


def test_files_are_there_and_folders_are_no_files(folder):
    assert not exists(below(folder, "a.tar"))
    put(below(folder, "a.tar"))
    assert exists(below(folder, "a.tar"))
    assert not exists(folder)


def test_what_is_written_is_read(folder):
    place, content = below(folder, "a.tar"), os.urandom(100_000)
    put(place, content)
    file = open_place(place)
    assert (file.place, file.size) == (place, 100_000)
    assert file.read(0, 200_000) == content and file.read(99_990, 20) == content[-10:]
    assert file.read(100_000, 5) == b"" and file.read(7, 0) == b""
    buffer = bytearray(b"." * 50)
    assert file.fill(memoryview(buffer), 99_970) == 30 and bytes(buffer) == content[-30:] + b"." * 20
    file.close()


def test_a_file_descriptor_is_for_files_of_this_machine(tmp_path):
    put(str(tmp_path / "a"), b"abc")
    put(f"memory://{tmp_path.name}/a", b"abc")
    file = open_place(str(tmp_path / "a"))
    assert os.pread(file.fileno(), 2, 1) == b"bc"
    file.close()
    with pytest.raises(OSError, match="no local file"):
        open_place(f"memory://{tmp_path.name}/a").fileno()


def test_what_is_not_there_and_what_is_a_folder_cannot_be_opened(folder):
    with pytest.raises(FileNotFoundError):
        open_place(below(folder, "a.tar"))
    put(below(folder, "a.tar"))
    if is_url(folder):
        with pytest.raises(IsADirectoryError, match=f"^{folder} is a folder; wanted a file$"):
            open_place(folder)


@pytest.mark.parametrize("change", ["another length", "another time"])
def test_another_content_is_another_state(tmp_path, change):
    place = str(tmp_path / "a")
    put(place)
    before = open_place(place).state
    assert open_place(place).state == before
    if change == "another length":
        put(place, b"more content")
        os.utime(place, ns=(before[1], before[1]))
    else:
        os.utime(place, ns=(before[1], before[1] + 1))
    assert open_place(place).state != before


def everything(folder):
    """All that is in a folder, hidden and unfinished files too."""
    if not folder.startswith("memory://"):
        return sorted(path.name for path in Path(folder.removeprefix("file://")).iterdir())
    from dcexp.artifacts.cloud import file_system

    files, path = file_system(folder)
    return sorted(map(name_of, files.find(path)))


@pytest.mark.parametrize("error", [KeyError("broken off"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_of_what_breaks_off_nothing_is_left(folder, error):
    put(below(folder, "other.tar"))
    with pytest.raises(type(error)), whole_place(below(folder, "a.tar")) as file:
        file.write(b"begun")
        raise error
    assert everything(folder) == ["other.tar"]
    assert listed(folder, ".tar") == {"other.tar": 7} and not exists(below(folder, "a.tar"))


def test_a_file_of_this_machine_is_not_there_before_it_is_whole_and_the_old_one_stays_until_then(tmp_path):
    place = str(tmp_path / "new folder" / "a.tar")
    with whole_place(place) as file:
        file.write(b"first")
        assert listed(str(tmp_path / "new folder"), ".tar") == {}
    with pytest.raises(KeyError), whole_place(place) as file:
        file.write(b"second")
        raise KeyError
    assert everything(str(tmp_path / "new folder")) == ["a.tar"] and Path(place).read_bytes() == b"first"
    put(place, b"third")
    assert Path(place).read_bytes() == b"third"
