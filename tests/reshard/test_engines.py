"""The same bytes whoever makes them: one worker, two, a Ray cluster, or a second attempt after any kill."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcexp.engines.local import Local
from dcexp.engines.ray import Ray
from dcexp.reshard.copy import Copy
from dcexp.reshard.index import Index
from tests.cli import REPOSITORY
from tests.pools import hex_uids, write_pool
from tests.reshard.test_copy import files_in, resharded

STAGES = [Copy(shard_size=30), Copy(shard_size=30, shuffle=True, seed=2), Index(shard_size=30)]
PARTS = (70, 50, 1, 60)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("engines") / "pool"
    write_pool(root, parts=PARTS, features=False)
    return root


def wanted():
    uids = [uid for number, rows in enumerate(PARTS) for uid in hex_uids(rows, seed=number)]
    return uids[::2] + uids[:40] + uids[:3] * 4


@pytest.mark.parametrize("stage", STAGES, ids=["copy", "shuffled copy", "index"])
@pytest.mark.parametrize("engine", [Local(workers=2), Local(workers=5), Ray(workers=2)], ids=["two", "five", "ray"])
def test_engines_do_not_change_a_byte(root, tmp_path, stage, engine):
    one, _ = resharded(root, wanted(), tmp_path / "one", stage)
    other, _ = resharded(root, wanted(), tmp_path / "other", stage, engine)
    assert files_in(one.path) == files_in(other.path)


def attempt(root: Path, out: Path, stage: int) -> "subprocess.Popen[bytes]":
    """Reshard with two workers, slowly enough to be killed on the way, in a process group of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.reshard.test_engines import *\n"
        "root, out, stage = sys.argv[1:]\n"
        "resharded(Path(root), wanted(), Path(out), STAGES[int(stage)], Local(workers=2))\n"
    )
    words = [sys.executable, "-c", code, str(root), str(out), str(stage)]
    return subprocess.Popen(words, cwd=REPOSITORY, start_new_session=True, env={**os.environ, "PYTHONPATH": "."})


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(len(STAGES)), ids=["copy", "shuffled copy", "index"])
def test_after_kills_at_any_moment_the_same_bytes(root, tmp_path, stage):
    whole, _ = resharded(root, wanted(), tmp_path / "whole", STAGES[stage])
    out, moments = tmp_path / "out", random.Random(stage)
    for _ in range(4):
        running = attempt(root, out, stage)
        while running.poll() is None and not (out / "plan").exists():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert attempt(root, out, stage).wait() == 0
    left = {
        name: content for name, content in files_in(out).items() if not name.endswith(".tmp")
    }  # the store's to tidy
    assert left == files_in(whole.path)
