"""A sweep on a real SLURM: two nodes on this machine, brought up from Debian's packages."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import REPOSITORY, dcexp_process

SCRIPT = REPOSITORY / "launchers/local_slurm.sh"
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"),
        reason="SLURM is not installed; as root, launchers/local_slurm.sh up installs it",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    home = tmp_path_factory.mktemp("slurm")
    try:
        up = subprocess.run([SCRIPT, "up", home], capture_output=True, text=True, timeout=300, check=False)
        assert up.returncode == 0, up.stderr
        yield {"SLURM_CONF": f"{home}/slurm.conf"}
    finally:
        subprocess.run([SCRIPT, "down", home], check=True, timeout=120)


@pytest.mark.timeout(400)
def test_a_sweep_runs_as_slurm_jobs_on_both_nodes_and_shares_its_pieces(slurm, tmp_path):
    words = (
        "-m hydra/launcher=slurm_cpu filter=none,clip_score,random seed=0,1 until=shards source.size=600 tracker=none"
    )
    done = dcexp_process(f"{words} hydra.launcher.cpus_per_task=8", tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    made = {kind: len(list(tmp_path.glob(f"outputs/store/{kind}/*"))) for kind in ("pool", "subset", "shards")}
    assert made == {"pool": 1, "subset": 3, "shards": 3}
    controller = Path(slurm["SLURM_CONF"]).with_name("slurmctld.log").read_text()
    assert {"NodeList=node1", "NodeList=node2"} <= set(controller.split()), "the jobs were spread over both nodes"
    for path in tmp_path.glob("outputs/store/*/*/manifest.json"):
        counts = json.loads(path.read_text())["summary"]["counts"]
        assert counts["total"] == counts["kept"] + counts["dropped"] + counts["missing"] + counts["corrupt"]


@pytest.mark.timeout(400)
def test_a_job_that_fails_fails_the_sweep_with_its_own_message(slurm, tmp_path):
    words = "-m hydra/launcher=slurm_cpu filter=none,uids filter.path=nowhere.npy until=subset tracker=none"
    done = dcexp_process(words.replace("filter.path", "++filter.path"), tmp_path, **slurm)
    assert done.returncode == 1
    assert "nowhere.npy" in done.stderr or "path" in done.stderr
    assert "Traceback" not in done.stderr


TRAINING = "filter=none source.size=600 until=checkpoint train.checkpoints=2 train.workers=1 train.log_every=1"


def until(seconds, something):
    """Wait until ``something`` is true; its value."""
    end = time.monotonic() + seconds
    while not (value := something()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return value


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_job_that_runs_out_of_time_and_is_preempted_ends_in_the_same_weights(slurm, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    done = dcexp_process(f"{TRAINING} tracker=none", whole)
    assert done.returncode == 0, done.stderr

    def slurm_says(*command):
        environment = {**os.environ, **slurm, "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
        return done.stdout

    script = REPOSITORY / "launchers/sbatch.sh"
    words = f"{TRAINING} tracker.mode=offline".split()
    options = ("--parsable", "--gpus-per-node=0", "--output=job.log")
    job = slurm_says("sbatch", *options, script, *words).strip()

    def steps():
        (metrics,) = list(tmp_path.glob("outputs/store/checkpoint/*/metrics.jsonl")) or [None]
        return len(metrics.read_bytes().splitlines()) if metrics else 0

    def log():
        return (tmp_path / "job.log").read_text()

    until(120, lambda: steps() >= 30)
    slurm_says("scancel", "--batch", "--signal=USR1", job)  # as SLURM does, 120 s before the end
    until(60, lambda: "stopped by SIGUSR1 after" in log())
    until(120, lambda: steps() >= 120)
    slurm_says("scontrol", "requeue", job)  # what preemption comes to
    until(60, lambda: "stopped by SIGTERM after" in log())
    until(300, lambda: "checkpoint: " in log())
    until(60, lambda: job not in slurm_says("squeue", "-h", "-o", "%A"))
    assert log().count("resume checkpoint/") == 2
    (ours,), (theirs,) = (list(folder.glob("outputs/store/checkpoint/*")) for folder in (tmp_path, whole))
    for name in ("epoch_1.pt", "epoch_2.pt", "epoch_latest.pt"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert [json.loads(line)["step"] for line in (ours / "metrics.jsonl").open()] == list(range(400))
