"""Ranks start together and end together, and the one that failed first is named."""

import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from dcexp.engines.local import Local
from dcexp.signals import answered


def fail_on_the_second(seconds_of_the_first: float) -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("that was it")
    time.sleep(seconds_of_the_first)
    raise ConnectionError("the other is gone")


def die_on_the_second() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    raise ConnectionError("the other is gone")


def leave_on_the_second() -> None:
    if os.environ["RANK"] == "1":
        os._exit(3)
    time.sleep(600)


def test_one_that_fails_ends_the_others_at_once():
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 failed: Traceback (.|\n)*\nValueError: that was it$"):
        Local(devices=2).gang(fail_on_the_second, 600)
    assert time.monotonic() - started < 60
    assert not [c for c in psutil.Process().children() if c.is_running() and "spawn_main" in " ".join(c.cmdline())]


def test_the_first_to_fail_comes_first():
    with pytest.raises(RuntimeError) as failure:
        Local(devices=2).gang(fail_on_the_second, 0.3)
    said = str(failure.value)
    assert (
        said.startswith("rank 1 of 2 failed: Traceback") and "ValueError: that was it\n\nrank 0 failed after it" in said
    )
    assert said.endswith("ConnectionError: the other is gone")


def test_one_that_is_killed_is_the_cause_of_what_others_say():
    with pytest.raises(
        RuntimeError, match=r"^rank 1 of 2 failed: its process died \(SIGKILL\); out of memory\?\n\nrank 0"
    ):
        Local(devices=2).gang(die_on_the_second)


def test_one_that_leaves_without_a_word_fails_the_gang():
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 failed: its process died \(exit code 3\)"):
        Local(devices=2).gang(leave_on_the_second)


def note_signals(folder: Path) -> None:
    """Say who is there, wait for a signal, and say which came."""
    rank, came = os.environ["RANK"], threading.Event()

    def answer(number: signal.Signals) -> None:
        (folder / f"{rank}-{number.name}").touch()
        came.set()

    with answered(answer):
        (folder / f"{rank}-pid-{os.getpid()}").touch()
        while not came.wait(0.05):
            pass


def start_gang(folder: Path) -> None:
    Local(devices=2).gang(note_signals, folder)


@pytest.fixture
def gang(tmp_path):
    process = get_context("spawn").Process(target=start_gang, args=(tmp_path,))
    process.start()
    while len(pids(tmp_path)) < 2:
        time.sleep(0.05)
    yield process
    process.kill()


def pids(folder: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in folder.glob("*-pid-*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_passed_on_before_it_ends_the_process(gang, tmp_path, number):
    os.kill(gang.pid, number)
    gang.join(30)
    assert gang.exitcode == (1 if number == signal.SIGINT else 128 + number)  # the last is a KeyboardInterrupt
    assert {path.name for path in tmp_path.glob("*-SIG*")} == {"0-SIGTERM", "1-SIGTERM"}


def test_ranks_end_with_the_process_that_started_them(gang, tmp_path):
    gang.kill()
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids(tmp_path) if psutil.pid_exists(pid)]
