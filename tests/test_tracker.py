"""W&B offline: no key, no network, no prompt, and what was logged can be read back by W&B's own tool."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcexp.tracker import NoTracker, Story, Wandb, _WandbSession, read_curve


@pytest.fixture
def story(tmp_path):
    return Story(
        id="abc123abc123",
        name="tiny-none-seed_0",
        group="tiny-none",
        folder=tmp_path,
        config={"recipe_digest": "d1", "lineage": {"key": "k", "inputs": {}}},
        curves=[tmp_path / "done" / "metrics.jsonl", tmp_path / "going" / "metrics.jsonl"],
    )


def write_curve(path: Path, steps: range, torn: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"step": s, "train/loss": 2.0 - s / 100}) + "\n" for s in steps]
    path.write_text("".join(lines) + torn)


def records(folder: Path) -> list[dict]:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    wandb = Path(sys.executable).parent / "wandb"
    shown = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines() if line.strip()]


def test_config_curve_and_results_are_in_the_offline_run(story, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Wandb(project="p").session(story) as session:
        write_curve(story.curves[1], range(3))
        time.sleep(2.5)
        story.curves[1].parent.rename(story.curves[0].parent)
        write_curve(story.curves[0], range(5))
        session.results({"eval/digits/acc1": 0.5})
    text = json.dumps(records(tmp_path))
    for wanted in ("recipe_digest", "lineage", "train/loss", "eval/digits/acc1", "abc123abc123"):
        assert wanted in text
    history = [r for r in records(tmp_path) if "history" in json.dumps(r).lower() and "train/loss" in json.dumps(r)]
    assert len(history) == 5, "each step once"


def write_monitor(curve: Path, steps: list[int]) -> None:
    lines = [{"step": s, "epoch": s // 10 + 1, "val/imagenet-zeroshot-val-top1": s / 100} for s in steps]
    curve.with_name("monitor.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class FakeRun:
    """Takes what W&B takes: no step before the last."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.rows: dict[int, dict] = {}

    def log(self, data: dict, step: int) -> None:
        assert step >= self.step
        self.step = step
        self.rows.setdefault(step, {}).update(data)


def test_what_a_monitor_sees_is_told_once_at_its_step(story):
    going, run = story.curves[1], FakeRun()
    write_curve(going, range(10))
    session = _WandbSession(run, story.curves)
    session._log_new_lines()  # the last step of the interval is told before its weights are evaluated
    write_monitor(going, [9])
    session._log_new_lines()
    write_curve(going, range(25))
    write_monitor(going, [9, 19])
    session.close()
    top1 = {s: row["val/imagenet-zeroshot-val-top1"] for s, row in run.rows.items() if "epoch" in row}
    assert top1 == {9: 0.09, 19: 0.19} and sorted(run.rows) == list(range(25))
    assert all("train/loss" in row and "step" not in row for row in run.rows.values())


def test_a_resumed_run_is_told_what_the_monitor_saw_meanwhile(story):
    write_curve(story.curves[1], range(20))
    write_monitor(story.curves[1], [9, 19])
    run = FakeRun(step=20)  # W&B knows steps 0 to 19, perhaps not the last line of the monitor
    _WandbSession(run, story.curves).close()
    assert run.rows == {20: {"epoch": 2, "val/imagenet-zeroshot-val-top1": 0.19}}


def test_monitored_lines_are_in_the_offline_run(story, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Wandb(project="p").session(story):
        write_curve(story.curves[1], range(10))
        time.sleep(2.5)
        write_monitor(story.curves[1], [9])
    history = [r for r in records(tmp_path) if "zeroshot-val-top1" in json.dumps(r) and "train/loss" in json.dumps(r)]
    assert history, "in the row of its step"


def test_a_failed_run_is_marked_as_failed(story, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ZeroDivisionError), Wandb().session(story):
        1 / 0  # noqa: B018
    exits = [r for r in records(tmp_path) if "exit" in json.dumps(r).lower()]
    assert any('"exit_code": 1' in json.dumps(r) or '"exitCode": 1' in json.dumps(r) for r in exits), exits


def test_no_tracker_tells_nobody(story, tmp_path):
    with NoTracker().session(story) as session:
        session.results({"eval/digits/acc1": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_a_line_still_being_written_is_left_out(story):
    write_curve(story.curves[1], range(2), torn='{"step": 2, "train/lo')
    assert [line["step"] for line in read_curve(story.curves)] == [0, 1]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"Wandb\.mode: wanted 'auto' \| 'online' \| 'offline', got 'of'"):
        Wandb(mode="of")
