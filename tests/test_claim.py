"""One builder at a time: the living are waited for, the dead are replaced, a sleeper notices."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dcexp import claim as claims
from dcexp.claim import Holder, claimed, read_holder


def never():
    return False


def test_a_claim_is_there_while_held_and_gone_afterwards(tmp_path):
    path = tmp_path / "x.lock"
    with claimed(path, never) as claim:
        claim.assert_held()
        assert read_holder(path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_is_released_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "x.lock", never):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_many_threads_is_inside(tmp_path):
    inside, seen = [0], []

    def work():
        with claimed(tmp_path / "x.lock", never):
            inside[0] += 1
            seen.append(inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 5


def test_a_waiter_uses_what_the_winner_made(tmp_path):
    done = threading.Event()
    with claimed(tmp_path / "x.lock", never):
        threading.Timer(0.5, done.set).start()
        with claimed(tmp_path / "x.lock", done.is_set) as second:
            assert second is None


def test_the_claim_of_a_killed_process_is_taken_over_at_once_by_exactly_one(tmp_path):
    path = tmp_path / "x.lock"
    code = (
        "import os, sys, signal; from pathlib import Path; from dcexp.claim import claimed\n"
        "with claimed(Path(sys.argv[1]), lambda: False): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert read_holder(path).gone
    test_only_one_of_many_threads_is_inside(tmp_path)


def test_a_claim_from_another_machine_is_dead_only_when_its_heartbeat_stopped(tmp_path, monkeypatch):
    path = tmp_path / "x.lock"
    elsewhere = dataclasses.replace(Holder.here(), machine="another", token="t")
    path.write_text(json.dumps(dataclasses.asdict(elsewhere)))
    stop = time.monotonic() + 0.6
    with claimed(path, lambda: time.monotonic() > stop) as claim:
        assert claim is None, "a fresh heartbeat means alive"
    monkeypatch.setattr(claims, "STALE", 0.5)
    with claimed(path, never) as claim:
        claim.assert_held()


def test_another_machines_clock_may_be_wrong(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(Holder.here(), machine="another"))))
    os.utime(path, (1, 1))
    stop = time.monotonic() + 0.6
    with claimed(path, lambda: time.monotonic() > stop) as claim:
        assert claim is None


def test_who_finds_it_done_after_taking_the_claim_lets_go(tmp_path):
    answers = iter([False, True])
    with claimed(tmp_path / "x.lock", lambda: next(answers)) as claim:
        assert claim is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def interruptible():
    """A shell starts jobs in the background with SIGINT ignored; then the sleeper learns of it only at the end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_takeover_interrupts_the_sleeper_that_woke(tmp_path, monkeypatch, interruptible):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    path = tmp_path / "x.lock"
    with pytest.raises(RuntimeError, match="took over"), claimed(path, never) as claim:
        path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(claim.holder, token="other"))))
        time.sleep(20)


def test_the_heartbeat_outlives_a_file_system_that_fails_for_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    path = tmp_path / "x.lock"
    failing = iter([OSError(116, "Stale file handle")])
    utime = os.utime

    def fails_once(*args):
        for error in failing:
            raise error
        utime(*args)

    with claimed(path, never):
        monkeypatch.setattr(claims.os, "utime", fails_once)
        time.sleep(0.2)
        utime(path, (1, 1))
        time.sleep(0.3)
        assert path.stat().st_mtime > 2


def test_a_sleeper_whose_claim_was_taken_notices(tmp_path):
    path = tmp_path / "x.lock"
    with claimed(path, never) as claim:
        path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(claim.holder, token="other"))))
        with pytest.raises(RuntimeError, match="took over"):
            claim.assert_held()
    assert read_holder(path).token == "other", "what is somebody else's is not removed"


def test_the_heartbeat_touches_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    path = tmp_path / "x.lock"
    with claimed(path, never):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2
