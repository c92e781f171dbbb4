"""One builder at a time: a lock file with a heartbeat, for processes and nodes that share a file system.

A claim is taken by creating its file exclusively. The holder touches it every few seconds. A claim is dead when its
process is gone (known at once on the same machine) or when somebody who waits saw no touch for ``STALE`` seconds
by their own clock (clocks of nodes differ).
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dcexp.holder import Holder

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds between two touches
SECOND = 0.5  # seconds until it is said again that the claim is lost
STALE = 60.0  # seconds without a touch after which a holder on another machine counts as dead


@dataclass
class Claim:
    """A held claim. ``assert_held`` before anything that must not happen twice."""

    path: Path
    holder: Holder
    lost: threading.Event = field(default_factory=threading.Event)

    def assert_held(self) -> None:
        """Raise RuntimeError when another builder took over (this process was stopped for too long)."""
        if self.lost.is_set() or read_holder(self.path) != self.holder:
            raise RuntimeError(f"lost the claim {self.path}: another process took over while this one stood still")

    def release(self) -> None:
        if read_holder(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[Claim | None]:
    """Hold the claim ``path`` for the block, waiting for another holder; yield None once ``done()`` is true.

    Raises RuntimeError in the block as soon as it is seen that another process took over.
    """
    claim = _acquire(path, done)
    if claim is None:
        yield None
        return
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, stop), daemon=True)
    beat.start()
    try:
        yield claim
    except KeyboardInterrupt:
        claim.assert_held()  # the heartbeat interrupts too
        raise
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
    claim, waiting = Claim(path, Holder.here()), _Watch()
    while not done():
        if _create(path, claim.holder):
            if not done():
                return claim
            claim.release()  # the one before us finished between our two looks
            return None
        text = _text(path)
        if waiting.is_dead(path, text):
            _bury(path, text)
        else:
            waiting.say(path, text)
            time.sleep(0.2)
    return None


class _Watch:
    """What one who waits has seen of a claim."""

    def __init__(self) -> None:
        self._state: tuple[str | None, float] = (None, 0.0)
        self._since = time.monotonic()
        self._said = False

    def is_dead(self, path: Path, text: str | None) -> bool:
        """True when the claim that reads ``text`` is held by nobody who lives."""
        try:
            state = (text, path.stat().st_mtime)
        except FileNotFoundError:
            return False
        if state != self._state:
            self._state, self._since = state, time.monotonic()
        holder = _parse(text)
        return time.monotonic() - self._since > STALE or (holder is not None and holder.gone)

    def say(self, path: Path, text: str | None) -> None:
        if not self._said:
            holder = _parse(text)
            by = f"pid {holder.pid} on {holder.machine.partition('/')[0]}" if holder else "another process"
            log.info("waiting: %s is made by %s", path.stem, by)
            self._said = True


def _create(path: Path, me: Holder) -> bool:
    try:
        with path.open("x") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)  # a full disk must not leave an empty claim for all to wait for
        raise
    return True


def _bury(path: Path, dead: str | None) -> None:
    """Remove a dead claim. The grave's name carries the dead token, so of many finders one digs, and looks again
    inside: another finder may have buried it before, and a living one come since.
    """
    holder = _parse(dead)
    grave = path.with_name(f"{path.name}.{holder.token if holder else 'torn'}.dead")
    try:
        grave.touch(exist_ok=False)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - grave.stat().st_mtime > STALE:
                grave.unlink()  # the finder was killed while digging
        time.sleep(0.05)
        return
    with contextlib.suppress(FileNotFoundError):
        if _text(path) == dead:
            path.replace(grave)
            log.warning("the builder that held %s is gone; going on from what it left", path.stem)
    grave.unlink(missing_ok=True)


def _beat(claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):  # a file system that fails for a moment must not end the heartbeat
            holder = read_holder(claim.path)
            if holder == claim.holder:
                os.utime(claim.path)
            elif holder is not None:
                claim.lost.set()
                os.kill(os.getpid(), signal.SIGINT)  # wakes the main thread from whatever it waits for
                if not stop.wait(SECOND):  # a training takes the first for a wish to save
                    os.kill(os.getpid(), signal.SIGINT)
                return
