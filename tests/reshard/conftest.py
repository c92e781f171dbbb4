"""An S3 on loopback: moto's server, with a note of all that is asked of it."""

import logging
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import pytest

from dcexp.artifacts import cloud as object_stores
from dcexp.engines import local

PATIENCE = 20  # seconds that requests wait for each other


class Request(NamedTuple):
    """One request that was answered: method, path (``bucket/key``), and bytes of the answer."""

    method: str
    path: str
    bytes: int


class Watched:
    """A WSGI application that notes what is asked of another one.

    ``barrier`` lets go of the tars only when as many requests wait for them as it has parties.
    """

    def __init__(self, app: Any) -> None:
        self._app, self.requests = app, list[Request]()
        self.barrier: threading.Barrier | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].lstrip("/")

        def noting(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            size = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
            self.requests.append(Request(method, path, size))
            return start_response(status, headers, *error)

        if self.barrier and method == "GET" and path.endswith(".tar"):
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(PATIENCE)
        return self._app(environ, noting)

    def of_tars(self, method: str) -> list[Request]:
        """The requests of one method that are about tars, in order."""
        return [request for request in self.requests if request.method == method and request.path.endswith(".tar")]


@dataclass
class Cloud:
    """The server: where it is, and what was asked of it."""

    endpoint: str
    watched: Watched

    @property
    def environment(self) -> dict[str, str]:
        """What a user of it has in the environment; nothing of whoever runs the tests."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "a user",
            "AWS_SECRET_ACCESS_KEY": "a secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody in whose keys it did not give out."""
        self._ask_for_keys_after("0")
        try:
            yield
        finally:
            self._ask_for_keys_after("inf")

    def _ask_for_keys_after(self, requests: str) -> None:
        url, kind = f"{self.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), kind)).close()


class Bucket:
    """A bucket of one test. ``url`` is where it is, ``client`` is boto3's, for looking at it from aside."""

    numbers = count()

    def __init__(self, cloud: Cloud) -> None:
        import boto3  # type: ignore[import-untyped]

        self.cloud, self.watched = cloud, cloud.watched
        self.name = f"bucket-{next(self.numbers)}"
        self.url, self.client = f"s3://{self.name}", boto3.client("s3")
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def entries(self, prefix: str = "") -> dict[str, Any]:
        """What S3 says of each object: ETag, LastModified, Size."""
        listing = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: entry for entry in listing}

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """The objects below ``prefix``, by the rest of their key."""
        return {
            key.removeprefix(prefix).lstrip("/"): self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in self.entries(prefix)
        }


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    watched = Watched(server._server.app)
    server._server.app = watched
    yield Cloud("http://{}:{}".format(*server.get_host_and_port()), watched)
    server.stop()


@pytest.fixture
def bucket(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, which this process and those it starts can use."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    yield Bucket(cloud)
    cloud.watched.barrier = None
    forget_connections()


def forget_connections() -> None:
    """Begin with the environment as it is now."""
    object_stores._file_system.cache_clear()


@pytest.fixture
def two_workers(bucket: Bucket) -> Iterator[local.Local]:
    """An engine whose workers start now, so with the environment of this test."""
    _stop_workers()
    yield local.Local(workers=2)
    _stop_workers()


def _stop_workers() -> None:
    local._processes(2).shutdown()
    local._processes.cache_clear()
