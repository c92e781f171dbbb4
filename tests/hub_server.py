"""A hub on the loopback: speaks as much of the Hugging Face Hub's HTTP API as fetching a dataset needs."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

BLOCK = 1 << 16
API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|commits)/([^/]+))?")
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def commit_name(number: int, repo: str = "") -> str:
    return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()


@dataclass
class Hub:
    """What the hub holds, how it behaves and what it was asked.

    Only what ends in ``.tar`` or ``.zip`` is in LFS. ``wrong``: how often a file is served with other bytes of the same
    number; ``cut``: bytes after which a connection breaks; ``pause``: seconds after each block of 64 KiB.
    """

    repos: dict[str, list[Mapping[str, bytes]]] = field(default_factory=dict)  # files by name for each commit
    token: str = ""
    gated: bool = False
    wrong: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    pause: float = 0
    sent: list[tuple[str, str]] = field(default_factory=list)  # name and Range of each file whose bytes were asked for
    tokens: list[tuple[str, str]] = field(default_factory=list)  # path and token of each request
    url: str = ""


def in_lfs(name: str) -> bool:
    return name.endswith((".tar", ".zip"))


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as ``?blobs=true`` lists it; of one in LFS git knows a pointer."""
    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    if not in_lfs(name):
        return {"rfilename": name, "size": size, "blobId": blob(content)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    lfs = {"sha256": sha256, "size": size, "pointerSize": len(pointer)}
    return {"rfilename": name, "size": size, "blobId": blob(pointer), "lfs": lfs}


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        self.hub.tokens.append((where.path, self.headers.get("Authorization", "")))
        if where.path == "/cdn":
            return self._content(unquote(where.query))
        if match := API.fullmatch(where.path) or RESOLVE.fullmatch(where.path):
            if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                return self._refuse(401, "", "Invalid credentials in Authorization header")
            if self.hub.gated:
                return self._refuse(403, "GatedRepo", "Access is restricted")
            if match[1] not in self.hub.repos:
                return self._refuse(404, "RepoNotFound", "Repository not found")
            return self._api(*match.groups()) if match.re is API else self._resolve(*match.groups())
        return self._refuse(404, "", "Not found")

    do_HEAD = do_GET

    def _commit(self, repo: str, name: str | None) -> int:
        names = [commit_name(i, repo) for i in range(len(self.hub.repos[repo]))]
        return len(names) - 1 if name in (None, "main") else names.index(name) if name in names else -1

    def _api(self, repo: str, what: str | None, name: str | None) -> None:
        if (number := self._commit(repo, name)) < 0:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {name}")
        if what == "commits":
            facts = {"authors": [], "date": "2023-01-01T00:00:00.000Z", "title": "", "message": ""}
            return self._json([{"id": commit_name(i, repo), **facts} for i in range(number, -1, -1)])
        files = self.hub.repos[repo][number]
        siblings = [entry(*file) for file in files.items()]
        return self._json({"id": repo, "sha": commit_name(number, repo), "siblings": siblings})

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        name = unquote(name)
        number = self._commit(repo, revision)
        if number < 0 or name not in (files := self.hub.repos[repo][number]):
            return self._refuse(404, "EntryNotFound", "Entry not found")
        sha256 = hashlib.sha256(files[name]).hexdigest()
        commit = {"X-Repo-Commit": commit_name(number, repo)}
        if not in_lfs(name):
            return self._bytes(name, files[name], {**commit, "ETag": f'"{blob(files[name])}"'})
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(files[name]))}
        port = self.connection.getsockname()[1]
        elsewhere = f"http://localhost:{port}/cdn?{repo}/{number}/{name}"  # another host, as the hub's storage is
        return self._head(302, {**commit, **linked, "Location": elsewhere, "Content-Length": "0"})

    def _content(self, which: str) -> None:
        owner, repo, number, name = which.split("/", 3)
        self._bytes(name, self.hub.repos[f"{owner}/{repo}"][int(number)][name], {"ETag": '"x"'})

    def _bytes(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        if self.command == "GET" and self.hub.wrong.get(name, 0) > 0:
            self.hub.wrong[name] -= 1
            content = bytes(len(content))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        rest = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._head(206 if start else 200, {**headers, **rest, "Content-Length": str(len(content) - start)})
        if self.command == "HEAD":
            return
        self.hub.sent.append((name, self.headers.get("Range", "")))
        end = min(len(content), start + self.hub.cut) if self.hub.cut else len(content)
        for at in range(start, end, BLOCK):
            self.wfile.write(content[at : min(at + BLOCK, end)])
            time.sleep(self.hub.pause)
        self.close_connection = end < len(content)

    def _json(self, thing: Any) -> None:
        body = json.dumps(thing).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that were killed are no news."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at ``hub.url`` while the context lasts."""
    http = Server(("127.0.0.1", 0), partial(Answers, hub))
    hub.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
