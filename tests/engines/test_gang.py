"""Ranks start together and end together, and the one that failed first is named."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from dcexp.engines.local import Local
from dcexp.signals import answered
from tests.cli import REPOSITORY


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
        RuntimeError, match=r"^rank 1 of 2 failed: its process died \(SIGKILL; out of memory\?\)\n\nrank 0"
    ):
        Local(devices=2).gang(die_on_the_second)


def test_one_that_leaves_without_a_word_fails_the_gang():
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 failed: its process died \(exit code 3\)"):
        Local(devices=2).gang(leave_on_the_second)


def fail_at_length() -> None:
    raise ValueError("x" * 200_000 + " the end")


def test_a_long_report_does_not_hold_the_gang_up():
    with pytest.raises(RuntimeError, match=r"^rank \d of 2 failed: x+ the end"):
        Local(devices=2).gang(fail_at_length)


def note_signals(folder: Path) -> None:
    """Say who is there, wait for a signal, and say which came."""
    rank, came = os.environ["RANK"], []

    def answer(number: signal.Signals) -> None:
        (folder / f"{rank}-{number.name}").touch()
        came.append(number)

    with answered(answer):
        (folder / f"{rank}-pid-{os.getpid()}").touch()
        while not came:
            time.sleep(0.05)


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


def test_ctrl_c_of_a_terminal_reaches_all_and_is_no_failure(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from dcexp.engines.local import Local\n"
        "from tests.engines.test_gang import note_signals\n"
        "if __name__ == '__main__':\n"
        "    Local(devices=2).gang(note_signals, pathlib.Path(sys.argv[1]))\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    process = subprocess.Popen(
        [sys.executable, program, tmp_path],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(pids(tmp_path)) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert said.strip().endswith("KeyboardInterrupt") and "failed" not in said


def wait_without_an_answer(folder: Path) -> None:
    (folder / f"{os.environ['RANK']}-pid-{os.getpid()}").touch()
    time.sleep(600)


def start_deaf_gang(folder: Path) -> None:
    Local(devices=2).gang(wait_without_an_answer, folder)


def test_ranks_that_have_nothing_to_save_yet_end_as_they_are_told(tmp_path):
    process = get_context("spawn").Process(target=start_deaf_gang, args=(tmp_path,))
    process.start()
    while len(pids(tmp_path)) < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM


def test_ranks_end_with_the_process_that_started_them(gang, tmp_path):
    gang.kill()
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids(tmp_path) if psutil.pid_exists(pid)]
