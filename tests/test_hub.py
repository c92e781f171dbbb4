"""Fetching from the Hugging Face Hub, against a hub on the loopback."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcexp.artifacts.base import Summary
from dcexp.download import Request, download, origins
from dcexp.engines.base import Engine
from dcexp.hub import Origin, Unavailable, fetch_origin
from dcexp.tasks.base import EvalSource, Task
from tests.hub_server import Hub, commit_name, serving

REPO = "djghosh/wds_cats_test"
BIG = bytes(range(256)) * 8_000
DATA = {"classnames.txt": b"cat\ndog\n", "test/nshards.txt": b"1\n", "test/0.tar": BIG}
ABOUT = {".gitattributes": b"*.tar lfs", "README.md": b"#", "wds_cats.py": b"raise SystemExit", "test/Other.PY": b"!"}
LOOPBACK = "127.0.0.1,localhost"
FETCH = "import sys; from pathlib import Path; from dcexp.hub import *; "
FETCH += "print(fetch_origin(Origin(repo=sys.argv[1], folder=Path(sys.argv[2]))).came)"


@pytest.fixture
def at(monkeypatch):
    """Makes huggingface_hub, which looks at HF_ENDPOINT when it is imported, ask an address."""
    from huggingface_hub import constants

    def use(url):
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)

    monkeypatch.setenv("no_proxy", LOOPBACK)
    monkeypatch.setenv("HF_TOKEN", "")
    return use


@pytest.fixture
def hub(at):
    with serving(Hub(repos={REPO: [{"classnames.txt": b"cat\n"}, {**DATA, **ABOUT}]})) as hub:
        at(hub.url)
        yield hub


@pytest.fixture
def origin(tmp_path):
    return Origin(repo=REPO, folder=tmp_path / "sets" / "wds_cats_test")


def command(origin, **environment):
    """A process that fetches ``origin``, with nothing of the machine's own settings for the hub."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env = {**plain, "no_proxy": LOOPBACK, "HF_HOME": str(origin.folder.parent / "hf"), **environment}
    words = [sys.executable, "-c", FETCH, origin.repo, str(origin.folder)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def there(folder):
    """The files of a folder, but for what is in its ``.cache``."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if ".cache" not in name.split("/")}


def halves(folder):
    return list(Path(folder).rglob("*.incomplete"))


def test_everything_comes_but_code_and_what_is_about_the_repository(hub, origin):
    fetched = fetch_origin(origin)
    assert there(origin.folder) == DATA and not halves(origin.folder)
    size = sum(map(len, DATA.values()))
    assert fetched.commit == commit_name(1, REPO) and (fetched.files, fetched.bytes, fetched.came) == (3, size, 3)
    assert sorted(name for name, _ in hub.sent) == sorted(DATA)


def test_what_is_there_is_not_fetched_again(hub, origin):
    fetch_origin(origin)
    hub.sent.clear()
    assert fetch_origin(origin).came == 0 and hub.sent == []


def test_what_others_have_put_there_is_checked_and_used(hub, origin):
    (origin.folder / "test").mkdir(parents=True)
    (origin.folder / "test" / "0.tar").write_bytes(BIG)
    (origin.folder / "classnames.txt").write_bytes(b"cat\ndog")
    (origin.folder / "mine.txt").write_bytes(b"mine")
    assert fetch_origin(origin).came == 2
    assert there(origin.folder) == {**DATA, "classnames.txt.wrong": b"cat\ndog", "mine.txt": b"mine"}


@pytest.mark.parametrize("name", ["classnames.txt", "test/0.tar"])
@pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: old[:-1] + b"!"], ids=["cut off", "changed"])
def test_another_file_is_set_aside_and_fetched_anew(hub, origin, name, change, caplog):
    fetch_origin(origin)
    hub.sent.clear()
    (origin.folder / name).write_bytes(change(DATA[name]))
    assert fetch_origin(origin).came == 1
    assert there(origin.folder) == {**DATA, f"{name}.wrong": change(DATA[name])}
    assert hub.sent == [(name, "")] and f"{name} has" in caplog.text


@pytest.mark.parametrize("name", ["classnames.txt", "test/0.tar"])
def test_wrong_bytes_are_fetched_once_more_then_named(hub, origin, name):
    hub.wrong = {name: 1}
    assert fetch_origin(origin).came == 3 and there(origin.folder) == DATA
    (origin.folder / name).unlink()
    hub.wrong = {name: 9}
    with pytest.raises(Unavailable, match=rf"{REPO}: {name}: what comes has sha\S+ \w+, not \w+\n") as error:
        fetch_origin(origin)
    assert f"hf download {REPO} --repo-type dataset --local-dir {origin.folder} --revision " in str(error.value)
    assert there(origin.folder) == {other: DATA[other] for other in DATA if other != name} and not halves(origin.folder)


def test_a_broken_connection_is_continued(hub, origin):
    long = bytes(range(256)) * 48_000  # huggingface_hub writes pieces of ten MiB; less than one is fetched again
    hub.repos[REPO] = [{"test/0.tar": long}]
    hub.cut = 11 << 20
    fetch_origin(origin)
    assert there(origin.folder) == {"test/0.tar": long}
    assert hub.sent == [("test/0.tar", ""), ("test/0.tar", f"bytes={10 << 20}-")]


def test_a_killed_download_ends_in_the_same_files(hub, origin):
    """What was whole stays; of what was half nothing is used, and after a while nothing is left."""
    hub.repos[REPO] = [{**DATA, "test/1.tar": BIG * 6}]
    hub.pause = 0.02
    killed = command(origin, HF_ENDPOINT=hub.url)
    while ("test/1.tar", "") not in hub.sent:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    hub.pause = 0
    (left,) = halves(origin.folder)
    assert there(origin.folder) == DATA
    again = command(origin, HF_ENDPOINT=hub.url)
    assert again.communicate()[0] == "1\n"
    assert there(origin.folder) == hub.repos[REPO][0]
    os.utime(left, (1, 1))
    assert fetch_origin(origin).came == 0 and not halves(origin.folder)


def test_many_at_once_fetch_each_file_once(hub, origin):
    hub.pause = 0.001
    with ThreadPoolExecutor(4) as pool:
        came = [f.came for f in pool.map(fetch_origin, [origin] * 4)]
    assert sorted(came) == [0, 0, 0, 3] and len(hub.sent) == 3 and there(origin.folder) == DATA


# revisions


@pytest.mark.parametrize("digits", [7, 12, 40])
@pytest.mark.parametrize("number", [0, 1])
def test_a_revision_is_a_commit_or_its_beginning(hub, origin, number, digits):
    hub.repos[REPO].append({"newer.txt": b""})
    commit = commit_name(number, REPO)
    assert fetch_origin(dataclasses.replace(origin, revision=commit[:digits])).commit == commit
    assert there(origin.folder) == [{"classnames.txt": b"cat\n"}, DATA][number]


def test_an_unknown_revision(hub, origin):
    with pytest.raises(Unavailable, match=f"0 of its 2 commits begin with 1234567: .*{commit_name(0, REPO)}"):
        fetch_origin(dataclasses.replace(origin, revision="1234567"))
    with pytest.raises(Unavailable, match=r"has no such commit of it\n(?s:.*)--revision 12340000"):
        fetch_origin(dataclasses.replace(origin, revision="1234" + "0" * 36))
    with pytest.raises(ValueError, match=f"revision 'main' of {REPO}: wanted 7 to 40 digits"):
        dataclasses.replace(origin, revision="main")
    assert not origin.folder.exists()


# a hub that will not


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "a\\..\\evil.txt", ".cache/x", "a//b"]
)
def test_names_that_lead_out_of_the_folder_are_refused(hub, origin, name):
    hub.repos[REPO] = [{**DATA, name: b"evil"}]
    with pytest.raises(Unavailable, match="not the name of a file within a folder; nothing was fetched"):
        fetch_origin(origin)
    assert hub.sent == [] and not origin.folder.exists()


def test_no_such_repository(hub, origin):
    with pytest.raises(Unavailable, match=f"nobody/nothing: {hub.url} has no such dataset, or it is private"):
        fetch_origin(dataclasses.replace(origin, repo="nobody/nothing"))
    with pytest.raises(Unavailable, match="Repo id must"):
        fetch_origin(dataclasses.replace(origin, repo="no/such/name"))


def test_a_gated_repository(hub, origin):
    hub.gated = True
    with pytest.raises(Unavailable, match="its owner wants to be asked first"):
        fetch_origin(origin)


def test_a_token_opens_a_private_one_and_goes_to_the_hub_alone(hub, origin, monkeypatch):
    hub.token = "hf_mine"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(Unavailable, match=r"HF_TOKEN does not open it \(.*Invalid credentials"):
        fetch_origin(origin)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch_origin(origin).came == 3
    assert {token for path, token in hub.tokens if path == "/cdn"} == {""}


def test_no_hub_at_all(origin, at):
    at("http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        Unavailable, match=r"no connection to http://127.0.0.1:9 \(ConnectError: .*HTTPS_PROXY"
    ) as error:
        fetch_origin(dataclasses.replace(origin, revision="1234567"))
    assert str(error.value).endswith(f"--local-dir {origin.folder}  # wanted: commit 1234567")
    assert not error.value.answered and time.monotonic() - began < 5 and not origin.folder.exists()


def test_the_environment_says_how_to_reach_the_hub(hub, origin):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        deaf = command(origin, HF_ENDPOINT=url, HF_HUB_DOWNLOAD_TIMEOUT="1")
        offline = command(origin, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
        proxied = command(origin, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="http://127.0.0.1:9")
        assert f"no connection to {url} (ReadTimeout" in deaf.communicate(timeout=60)[1]
        assert f"{REPO}: HF_HUB_OFFLINE forbids asking for it: unset it" in offline.communicate(timeout=60)[1]
        assert "no connection to http://hub.invalid (" in proxied.communicate(timeout=60)[1]
    assert not origin.folder.exists()


def test_a_full_disk(hub, origin, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(Unavailable, match=r"the disk is full \(.* 2,048,010 bytes are to come, 1,000 are free in"):
        fetch_origin(origin)
    assert there(origin.folder) == {} and hub.sent == []
    for name, content in DATA.items():
        (origin.folder / name).parent.mkdir(exist_ok=True)
        (origin.folder / name).write_bytes(content)
    assert fetch_origin(origin).came == 0


def test_a_folder_that_cannot_be(hub, origin):
    origin.folder.parent.write_text("a file")
    with pytest.raises(Unavailable, match=f"Not a directory: '{origin.folder.parent}"):
        fetch_origin(origin)


# the verb


@dataclasses.dataclass(frozen=True, kw_only=True)
class Somewhere(EvalSource):
    """A set of a repository of djghosh's; of none where ``name`` is empty."""

    name: str
    root: Path

    def origin(self) -> Origin | None:
        return Origin(repo=f"djghosh/{self.name}", folder=self.root / self.name) if self.name else None

    def run(self, out: Path, engine: Engine, **values: Any) -> Summary:
        raise NotImplementedError


def request(root, *names):
    tasks = [
        Task(key=f"{i}", name=f"{i}", size=1, metric="", data=Somewhere(name=n, root=root)) for i, n in enumerate(names)
    ]
    return Request(tasks={task.key: task for task in tasks}, evalsets=str(root))


def test_shared_sets_are_fetched_once_and_embedded_ones_not_at_all(hub, tmp_path):
    wanted = request(tmp_path, "a", "", "b", "a")
    assert [origin.repo for origin in origins(wanted)] == ["djghosh/a", "djghosh/b"]
    hub.repos = {"djghosh/a": [DATA], "djghosh/b": [{"b.txt": b"b"}]}
    assert [(f.origin.repo, f.came) for f in download(wanted)] == [("djghosh/a", 3), ("djghosh/b", 1)]
    assert there(tmp_path) == {**{f"a/{name}": content for name, content in DATA.items()}, "b/b.txt": b"b"}
    assert list(download(request(tmp_path, "", ""))) == []


def test_one_that_fails_stops_no_other(hub, tmp_path):
    hub.repos = {"djghosh/a": [DATA], "djghosh/b": [{"b.txt": b"b"}], "djghosh/c": [{"c.txt": b"c"}]}
    hub.wrong = {"b.txt": 2}
    came = []
    with pytest.raises(OSError, match=r"3 of 5 evaluation sets could not be fetched") as error:
        came += [fetched.origin.repo for fetched in download(request(tmp_path, "x", "a", "b", "y", "c"))] or came
    assert there(tmp_path / "c") == {"c.txt": b"c"} and there(tmp_path / "a") == DATA
    told = str(error.value)
    assert f"djghosh/x, djghosh/y: {hub.url} has no such dataset" in told and "djghosh/b: b.txt: what comes has" in told
    assert told.count("hf download djghosh/") == 3 and told.endswith(f"evalsets=DIR (it is {tmp_path})")


def test_a_dead_network_is_not_asked_for_every_set(tmp_path, at):
    at("http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"djghosh/a, djghosh/b: no connection.*\n  djghosh/c, djghosh/d: not tried"):
        list(download(request(tmp_path, "a", "b", "c", "d")))


def test_the_verbs_options_make_a_request():
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from dcexp.cli import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = instantiate(compose("download", ["evalsets=/data/sets"]))
        assert instantiate(compose("download", ["tasks=digits"])).evalsets == "data/evalsets"
    assert type(made) is Request and len(made.tasks) > 25
    found = origins(made)
    assert all(origin.folder.is_relative_to("/data/sets") for origin in found)
    assert (
        Origin(repo="djghosh/wds_cifar10_test", revision="7509909", folder=Path("/data/sets/wds_cifar10_test")) in found
    )
