"""Real file systems that are full soon."""

import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(path, size):
    """A tmpfs of ``size`` at ``path``; the test is skipped where none can be mounted."""
    path.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def remount(path, options):
    """Change what it is mounted with, such as its size."""
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)
