"""What a manifest says beside the work itself: code, versions, git state, memory."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

LIBRARIES: tuple[str, ...] = (
    "dcexp",
    "torch",
    "torchvision",
    "open_clip_torch",
    "pytorch-lightning",
    "webdataset",
    "numpy",
)
LIBRARIES += ("pillow", "pyarrow", "scipy", "fasttext-predict", "gcld3", "faiss-cpu")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that can change a number."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of dcexp's own checkout and whether it has uncommitted changes; empty for an installed package."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name):
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        pass
    return {}


FRAME = ("stage", "store", "claim", "engines", "typecheck", "provenance", "tracker")  # how, never what


@functools.cache
def code_digest(*modules: str) -> str:
    """sha256 over the source of modules and of all they import from their own packages that can decide an outcome."""
    frame = tuple(f"dcexp.{name}" for name in FRAME)
    found: dict[str, str] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        package = name.partition(".")[0]
        digest, imports = ("", ()) if name in found else _read(name)
        if digest:
            found[name] = digest
            queue += [n for n in imports if n.partition(".")[0] == package and not n.startswith(frame)]
    return hashlib.sha256("".join(f"{n} {d}\n" for n, d in sorted(found.items())).encode()).hexdigest()[:16]


@functools.cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, empty without any, and the modules it imports from."""
    source = _source(module)
    return (hashlib.sha256(source).hexdigest(), tuple(_imports(source))) if source is not None else ("", ())


def _source(module: str) -> bytes | None:
    if module == "__main__":
        return None
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec else None
    return Path(origin).read_bytes() if origin and origin.endswith(".py") else None


def _imports(source: bytes) -> list[str]:
    return [
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]


class PeakMemory:
    """Samples the memory of this process and its children twice a second; ``bytes`` is the highest sum seen."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            self.bytes = max(self.bytes, sum(map(_resident, [me, *me.children(recursive=True)])))
            if self._stop.wait(0.5):
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
