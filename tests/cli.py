"""Run the command line in this process, as a user would type it."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def dcexp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str) -> Outcome:
    """``python -m dcexp words`` in this process."""
    from dcexp.cli import main

    monkeypatch.setattr(sys, "argv", ["dcexp", *shlex.split(words)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def dcexp_process(words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """``python -m dcexp words`` as a process of its own, started in ``folder``."""
    import os

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160", **env}
    command = [sys.executable, "-m", "dcexp", *shlex.split(words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
