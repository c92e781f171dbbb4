"""One builder at a time: a lock file with a heartbeat, for processes and nodes that share a file system.

A claim is taken by creating its file exclusively. The holder touches it every few seconds. A claim is dead when its
process is gone (known at once on the same machine) or when it was not touched for ``STALE`` seconds.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds between two touches
STALE = 60.0  # seconds without a touch after which a holder on another machine counts as dead


@dataclass(frozen=True)
class Holder:
    """Who holds a claim. ``started`` tells a process from a later one with the same pid."""

    token: str
    machine: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Holder":
        pid = os.getpid()
        return cls(uuid.uuid4().hex, _machine(), pid, psutil.Process(pid).create_time())

    @property
    def gone(self) -> bool:
        """True when it ran on this machine and runs no more."""
        if self.machine != _machine():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1
        except psutil.NoSuchProcess:
            return True


@dataclass
class Claim:
    """A held claim. ``assert_held`` before anything that must not happen twice."""

    path: Path
    holder: Holder

    def assert_held(self) -> None:
        """Raise RuntimeError when another builder took over (this process was stopped for too long)."""
        if read_holder(self.path) != self.holder:
            raise RuntimeError(f"lost the claim {self.path}: another process took over while this one stood still")

    def release(self) -> None:
        if read_holder(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[Claim | None]:
    """Hold the claim ``path`` for the block, waiting for another holder; yield None once ``done()`` is true."""
    claim = _acquire(path, done)
    if claim is None:
        yield None
        return
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, stop), daemon=True)
    beat.start()
    try:
        yield claim
    finally:
        stop.set()
        beat.join()
        claim.release()


def read_holder(path: Path) -> Holder | None:
    """Who holds the claim; None when nobody does or the file is not yet written."""
    return _parse(_text(path))


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _parse(text: str | None) -> Holder | None:
    try:
        return Holder(**json.loads(text or ""))
    except (ValueError, TypeError):
        return None


def _acquire(path: Path, done: Callable[[], bool]) -> Claim | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    me, waiting = Holder.here(), False
    while not done():
        if _create(path, me):
            return Claim(path, me)
        text = _text(path)
        if _dead(path, text):
            _bury(path, text)
            continue
        if not waiting:
            other = _parse(text)
            log.info(
                "waiting: %s is made by %s",
                path.stem,
                f"pid {other.pid} on {other.machine}" if other else "?",
            )
            waiting = True
        time.sleep(0.2)
    return None


def _create(path: Path, me: Holder) -> bool:
    try:
        with path.open("x") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return False
    return True


def _dead(path: Path, text: str | None) -> bool:
    """True when the claim that reads ``text`` is held by nobody who lives."""
    holder = _parse(text)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    return text is not None and (age > STALE or (holder is not None and holder.gone))


def _bury(path: Path, dead: str | None) -> None:
    """Remove a dead claim; the grave's name carries the dead token, so only one of many finders removes it.

    What is removed is looked at again inside: another finder may have buried it and a living one come since.
    """
    holder = _parse(dead)
    grave = path.with_name(f"{path.name}.{holder.token if holder else 'torn'}.dead")
    try:
        grave.touch(exist_ok=False)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - grave.stat().st_mtime > STALE:
                grave.unlink()
        time.sleep(0.05)
        return
    if _text(path) == dead and _dead(path, dead):
        log.warning("the builder that held %s is gone; going on from what it left", path.stem)
        path.unlink(missing_ok=True)
    grave.unlink(missing_ok=True)


def _beat(claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        if read_holder(claim.path) == claim.holder:
            with contextlib.suppress(FileNotFoundError):
                os.utime(claim.path)


def _machine() -> str:
    """This machine and boot, and the pid namespace: the place in which a pid means something."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    boot_id = boot.read_text().strip() if boot.exists() else str(int(psutil.boot_time()))
    return f"{socket.gethostname()}/{boot_id}/{space.readlink().name if space.is_symlink() else ''}"
