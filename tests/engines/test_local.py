"""The local engine: in order, on several processes, and loud when a worker dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dcexp.engines.local import Local
from tests.cli import REPOSITORY


def square(x: int) -> int:
    return x * x


def process_of(x: int) -> int:
    return os.getpid()


def die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fail(x: int) -> int:
    if x == 3:
        raise ValueError("three is bad")
    return x


def write_rank(folder: str) -> None:
    world = os.environ.get("WORLD_SIZE", "1")
    (Path(folder) / f"{os.environ.get('RANK', '0')}-of-{world}").touch()


def fail_on_the_second(folder: str) -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("the second rank is bad")


@pytest.mark.parametrize("workers", [1, 2])
def test_map_keeps_the_order(workers):
    assert list(Local(workers=workers).map(square, range(20))) == [x * x for x in range(20)]


def test_one_worker_works_here_and_two_elsewhere():
    assert set(Local(workers=1).map(process_of, range(4))) == {os.getpid()}
    assert os.getpid() not in set(Local(workers=2).map(process_of, range(4)))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through(workers):
    with pytest.raises(ValueError, match="three is bad"):
        list(Local(workers=workers).map(fail, range(5)))


def test_a_killed_worker_is_an_error_and_the_next_map_works():
    with pytest.raises(RuntimeError, match=r"a worker process died .* give the same command again"):
        list(Local(workers=2).map(die, range(5)))
    assert list(Local(workers=2).map(square, range(3))) == [0, 1, 4]


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from dcexp.engines.local import Local\n"
        "from tests.engines.test_local import process_of\n"
        "if __name__ == '__main__':\n"
        "    Path('pids').write_text(' '.join(str(p) for p in set(Local(workers=2).map(process_of, range(8)))))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "killed.py"], cwd=tmp_path, env=env, check=False)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pids and not any(map(psutil.pid_exists, pids))


def test_nothing_is_mapped_to_nothing():
    assert list(Local(workers=2).map(square, [])) == []


@pytest.mark.parametrize("devices", [1, 2])
def test_gang_starts_every_rank_with_its_number(devices, tmp_path):
    Local(devices=devices).gang(write_rank, str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{r}-of-{devices}" for r in range(devices)]


def test_a_failing_rank_fails_the_gang(tmp_path):
    with pytest.raises(Exception, match="the second rank is bad"):
        Local(devices=2).gang(fail_on_the_second, str(tmp_path))


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"devices": 0}, {"workers": "two"}])
def test_impossible_engines_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        Local(**wrong)
