"""The Ray engine on a real cluster of two nodes (both on this machine), and on a Ray of its own."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from dcexp.engines.ray import Ray
from tests.cli import REPOSITORY

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # starting Ray, twice


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes with a CPU each, and a GPU each as far as Ray knows."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # `make test` hides those there are
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
        try:
            started.add_node(num_cpus=1, num_gpus=1)
            started.wait_for_nodes()
            yield started.address
        finally:
            ray.shutdown()
            started.shutdown()


@pytest.fixture
def engine(cluster):
    return Ray(address=cluster)


def slowest_first(x: int) -> tuple[int, str, int]:
    time.sleep(0.5 if x == 0 else 0.05)
    return x, ray.get_runtime_context().get_node_id(), os.getpid()


def when(x: int) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(0.05)
    return start, time.monotonic()


def square(x: int) -> int:
    return x * x


def fail(x: int) -> int:
    if x == 3:
        raise ValueError("three is bad")
    return x


class Two(Exception):
    """Cannot be unpickled: pickle gives the one word of the message to ``__init__``."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def fail_oddly(x: int) -> None:
    raise Two("bread", "butter")


def die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def always_die(x: int) -> None:
    os._exit(1)


def plus_one(x: np.ndarray) -> np.ndarray:
    x += 1
    return x


def remove(folder: Path) -> None:
    if folder.exists():
        folder.rmdir()


def variables_of_a_rank(x: int) -> set[str]:
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)


def test_map_keeps_the_order_and_uses_every_node(engine):
    found = list(engine.map(slowest_first, range(12)))
    assert [x for x, _, _ in found] == list(range(12))
    assert len({node for _, node, _ in found}) == 2
    assert len({pid for _, _, pid in found}) >= 2 and os.getpid() not in {pid for _, _, pid in found}


def test_workers_bound_what_runs_at_once(cluster):
    spans = list(Ray(address=cluster, workers=1).map(when, range(6)))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_nothing_is_mapped_to_nothing(engine):
    assert list(engine.map(square, [])) == []


def test_an_error_comes_through_as_it_was_and_the_next_map_works(engine):
    with pytest.raises(ValueError) as caught:
        list(engine.map(fail, range(10)))
    assert type(caught.value) is ValueError and str(caught.value) == "three is bad"
    assert "in fail" in str(caught.value.__cause__)  # where it came from
    assert list(engine.map(square, range(3))) == [0, 1, 4]


def test_an_error_that_cannot_travel_is_told(engine):
    with pytest.raises(RuntimeError, match=r"Ray could not finish a task: .*\n(.*\n)*.*bread and butter"):
        list(engine.map(fail_oddly, range(2)))


def test_an_item_whose_worker_is_killed_is_done_again(engine, tmp_path):
    markers = [tmp_path / str(i) for i in range(4)]
    assert list(engine.map(die_once, markers)) == ["0", "1", "2", "3"]


def test_an_item_that_always_kills_its_worker_is_an_error(engine):
    with pytest.raises(RuntimeError, match=r"^a worker process died .* give the same command again"):
        list(engine.map(always_die, [1]))


def test_arrays_can_be_changed_on_both_sides(engine):
    (made,) = engine.map(plus_one, [np.zeros(10**6)])  # so large that Ray keeps it in shared memory
    made += 1
    assert made[0] == made[-1] == 2


def test_workers_find_the_modules_and_files_that_this_process_finds(engine, tmp_path, monkeypatch):
    list(engine.map(square, range(2)))  # Ray knows the paths of the moment it was joined, which lack what follows
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mylab.py").write_text(
        "from pathlib import Path\ndef read(name):\n    return Path(name).read_text()\n"
    )
    (tmp_path / "note").write_text("found")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path)
    import mylab  # type: ignore[import-not-found]

    assert list(engine.map(mylab.read, ["note", "note"])) == ["found", "found"]


def test_a_folder_that_a_node_does_not_see_is_an_error(cluster, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match=r"here does not exist on the node .* file system that all nodes see"):
        list(Ray(address=cluster, workers=1).map(remove, [folder, folder]))


def ended(pid: int) -> bool:
    """True when the process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


def reduce(folder: Path) -> None:
    """Add up the ranks' numbers, and write down what this rank sees."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    number = torch.tensor(10.0 ** distributed.get_rank())
    distributed.all_reduce(number)
    distributed.destroy_process_group()
    seen = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")]
    (folder / " ".join([*seen, str(number.item())])).touch()


def fail_on_the_second(folder: Path) -> None:
    if os.environ["RANK"] == "1":
        deadline = time.monotonic() + 30
        while not any(folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        raise ValueError("the second rank is bad")
    (folder / str(os.getpid())).touch()
    time.sleep(600)  # as in a collective that the other never joins


def die_on_the_second(folder: Path) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def alone(folder: Path) -> None:
    (folder / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    if variables_of_a_rank(0):
        raise AssertionError("there is one rank")
    raise ValueError("as it was")


def test_a_gang_meets_across_nodes_and_each_rank_sees_its_own_device_as_the_first(cluster, tmp_path):
    engine = Ray(address=cluster, devices=2)
    engine.gang(reduce, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0 0 1 0 11.0", "1 0 1 0 11.0"]
    assert set().union(*engine.map(variables_of_a_rank, range(8))) == set()


def test_a_failing_rank_fails_the_gang_and_ends_the_others(cluster, tmp_path):
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 failed:\n(.*\n)*ValueError: the second rank is bad$"):
        Ray(address=cluster, devices=2).gang(fail_on_the_second, tmp_path)
    (other,) = (int(p.name) for p in tmp_path.iterdir())
    assert ended(other)


def test_a_killed_rank_fails_the_gang(cluster, tmp_path):
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 failed: its process died"):
        Ray(address=cluster, devices=2).gang(die_on_the_second, tmp_path)


def test_a_single_rank_gets_a_device_of_the_cluster_and_its_error_comes_through(engine, tmp_path):
    with pytest.raises(ValueError, match=r"^as it was$"):
        engine.gang(alone, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["0"]


def test_more_devices_than_the_cluster_has_are_refused(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"engine.devices=3, but the Ray cluster has 2 .* to 2 or less"):
        Ray(address=cluster, devices=3).gang(reduce, tmp_path)


def test_a_ray_of_its_own_ends_with_its_process(tmp_path):
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from dcexp.engines.ray import Ray\n"
        "def process_of(x): return os.getpid()\n"
        "def note(name): Path(name).write_text(str(os.getpid()))\n"
        "pids = set(Ray(workers=2).map(process_of, range(20)))\n"
        "Ray(workers=2).gang(note, 'alone')\n"
        "Path('pids').write_text(' '.join(map(str, [os.getpid(), *pids])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "killed.py"],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")
    own, *pids = (int(pid) for pid in (tmp_path / "pids").read_text().split())
    assert 1 <= len(pids) <= 2 and own not in pids and all(map(ended, pids))
    assert (tmp_path / "alone").read_text() == str(own)


@pytest.mark.parametrize("wrong", [{"address": "ray://head:10001"}, {"address": "head"}, {"workers": -1}])
def test_impossible_engines_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        Ray(**wrong)


def test_a_cluster_that_is_not_there_is_a_mistake_of_the_user():
    code = "from dcexp.engines.ray import Ray; list(Ray(address='127.0.0.1:1').map(abs, [1]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "ValueError: engine.address=127.0.0.1:1: no Ray cluster could be joined" in done.stderr


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "dcexp\[ray\]"'):
        list(Ray().map(square, [1, 2]))


def test_a_signal_is_passed_on_to_the_ranks(cluster, tmp_path):
    code = (
        "import sys, pathlib\n"
        "from dcexp.engines.ray import Ray\n"
        "from tests.engines.test_gang import note_signals\n"
        f"Ray(address={cluster!r}, devices=2).gang(note_signals, pathlib.Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("*-pid-*"))) < 2:
            assert time.monotonic() < until and process.poll() is None, process.stderr
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == signal.SIGTERM  # what Ray's own handler makes of it
    finally:
        process.kill()
    assert {path.name for path in tmp_path.glob("*-SIG*")} == {"0-SIGINT", "1-SIGINT"}


@pytest.mark.long
def test_tasks_are_evaluated_on_the_devices_of_a_cluster(cluster, tmp_path, monkeypatch):
    """Ray believes in GPUs that are not there, so the ranks evaluate on the CPU."""
    from dcexp.engines.local import Local
    from dcexp.evaluation import Request, evaluate
    from dcexp.store import Store
    from tests.tasks.families import write_families
    from tests.tasks.generated import tasks
    from tests.tasks.sets import MODEL, checkpoint

    monkeypatch.chdir(tmp_path)
    weights = str(checkpoint(tmp_path / "checkpoint").weights)
    chosen = tasks(tmp_path / "sets", write_families(tmp_path / "sets", 20, only=["wds_cifar10_test", "winogavil"]))
    made = {}
    for name, engine in {"local": Local(workers=1), "ray": Ray(address=cluster, devices=2)}.items():
        store = Store(root=f"{name}/store")
        found = evaluate(
            Request(checkpoint=weights, model=MODEL, tasks=chosen, engine=engine, store=store, folder=name)
        )
        made[name] = [result.line for result in found]
        assert [result.manifest["engine"]["name"] for result in found] == [type(engine).__name__] * 2
    assert made["local"] == made["ray"]
