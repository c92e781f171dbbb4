"""Signals that ask a process to end are answered first, and then have their way."""

import os
import signal
import subprocess
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from dcexp.signals import ENDING, answered, left_to_parent


@pytest.fixture(autouse=True)
def handlers():
    """Python's own handlers, whatever the tests before installed; every test leaves them as they were."""
    python = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in python.items()}
    yield
    assert {number: signal.getsignal(number) for number in ENDING} == python
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_nobody_handled_ends_the_process_behind_the_block(number):
    came = []
    with pytest.raises(SystemExit) as end, answered(came.append):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # SLURM says it more than once
        came.append("the block goes on")
    assert came == [number, "the block goes on"] and end.value.code == 128 + number


def test_whoever_handled_it_before_gets_it_too():
    theirs: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: theirs.append(number))
    try:
        with pytest.raises(SystemExit), answered(lambda _: None):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert theirs == []
        assert theirs == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_is_answered_and_then_interrupts_behind_the_block():
    came = []
    with pytest.raises(KeyboardInterrupt), answered(came.append):
        os.kill(os.getpid(), signal.SIGINT)
        came.append("the block goes on")
    assert came == [signal.SIGINT, "the block goes on"]


def test_a_second_ctrl_c_interrupts_at_once():
    came = []
    with pytest.raises(KeyboardInterrupt), answered(came.append):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        came.append("not reached")
    assert came == [signal.SIGTERM]


def test_an_error_of_the_block_is_not_hidden():
    with pytest.raises(ValueError, match="mine"), answered(lambda _: None):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("mine")


def test_signals_that_a_library_took_can_be_taken_again():
    came = []
    with pytest.raises(SystemExit), answered(came.append) as take:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        take()
        os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM]


def test_without_a_signal_nothing_happens():
    with answered(lambda _: None):
        pass


def test_other_threads_handle_no_signals():
    done = []

    def block() -> None:
        with answered(lambda _: None) as take:
            take()
            done.append(True)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert done == [True]


def wait_for_the_parent(folder: Path, threads: int) -> None:
    for _ in range(threads):  # of libraries, older than what follows
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    left_to_parent()
    (folder / "ready").touch()
    time.sleep(600)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_process_left_to_its_parent_is_ended_by_it_alone(tmp_path, threads):
    process = get_context("fork").Process(target=wait_for_the_parent, args=(tmp_path, threads))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    for number in ENDING * 5:
        subprocess.run(["/bin/kill", f"-{int(number)}", str(process.pid)], check=True)
    process.join(0.5)
    assert process.is_alive()
    process.terminate()
    process.join(0 if threads else 5)
    if threads:  # one of which may have taken it: then it is the loader's own event that ends the worker
        process.kill()
    else:
        assert process.exitcode == 0


def test_what_lightning_makes_of_a_second_ctrl_c_is_an_interruption():
    with pytest.raises(KeyboardInterrupt), answered(lambda _: None):
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise SystemExit(1) from None
