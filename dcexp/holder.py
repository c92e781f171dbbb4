"""Which process holds something, and whether it still runs: across machines, boots, containers and users."""

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Holder:
    """Who holds a claim. ``started`` tells a process from a later one with the same pid."""

    token: str
    machine: str
    user: int
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Holder":
        pid = os.getpid()
        return cls(uuid.uuid4().hex, _machine(), os.getuid(), pid, _started(pid))

    @property
    def gone(self) -> bool:
        """True when it is known that it runs no more: it ran on this machine, and as a user whose processes we see."""
        if self.machine != _machine() or self.user != os.getuid():
            return False
        try:
            return _started(self.pid) != self.started
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return True


def _machine() -> str:
    """This machine and boot, and the pid namespace: the place in which a pid means something."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    boot_id = boot.read_text().strip() if boot.exists() else str(int(psutil.boot_time()))
    return f"{socket.gethostname()}/{boot_id}/{space.readlink().name if space.is_symlink() else ''}"


def _started(pid: int) -> float:
    """When a process started: clock ticks since boot where /proc says so (no clock adjustment moves them)."""
    if Path("/proc/self/stat").exists():
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()
