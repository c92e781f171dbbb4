"""A sweep on a real SLURM: two nodes on this machine, brought up from Debian's packages."""

import json
import os
import shutil
import subprocess
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
