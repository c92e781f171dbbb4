"""A Ray cluster, or a Ray of one's own on this machine: a task per item of ``map``, a task per rank of ``gang``."""

import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcexp.engines.base import Engine, Item, Out, watched
from dcexp.engines.ray_tasks import called, cancel, in_bundle, join, meeting_point, rank, result, task
from dcexp.signals import answered

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)

RETRIES = 3  # of an item whose worker process dies
PATIENCE = 30.0  # seconds: for a cluster to answer, for ranks to end, between remarks that a gang waits for its place


@dataclass(frozen=True, kw_only=True)
class Ray(Engine):
    """Tasks of Ray. An item takes one CPU; a rank takes one CPU and, where the cluster has any GPUs, one GPU.

    ``address`` is empty for a Ray of one's own on this machine, which ends with this process; ``auto`` or
    ``host:port`` for a cluster that runs already (``ray start``) and that this machine is a node of. A process has one
    Ray: where it is connected to one already, that one is used. More ``workers`` than it has CPUs wait their turn.

    Nodes pass files by path, not through Ray: they need a file system that all of them see under the same paths
    (working directory, store, data), and the same Python packages. Environment variables are those Ray was started
    with.
    """

    address: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address not in ("", "auto") and not re.fullmatch(r"[^/\s]+:\d+", self.address):
            raise ValueError(
                f"engine.address={self.address!r}: wanted '' (a Ray of one's own), auto (the cluster that this machine "
                "is a node of) or the host:port of a cluster (Ray's usual port is 6379)"
            )

    def map(self, fn: Callable[[Item], Out], items: Sequence[Item], what: str = "") -> Iterator[Out]:
        """See :meth:`Engine.map`. Raises RuntimeError when workers keep dying on an item (killed, out of memory)."""
        return watched(self._results(fn, items, what), what, len(items))

    def _results(self, fn: Callable[[Item], Out], items: Sequence[Item], what: str) -> Iterator[Out]:
        if not len(items):
            return
        self._connect()
        from ray import cloudpickle

        start, call = task(max_retries=RETRIES).options(name=what or "map"), called(fn)
        ordered: deque[ObjectRef[bytes]] = deque()
        running: list[ObjectRef[bytes]] = []
        limit = 1
        # Where the caller stops early, the few that are started go on to their end: ray.cancel, when it meets a task
        # that ends by itself, can abort this whole process (ray-project/ray#54785; seen with 2.60).
        for number, item in enumerate(items):
            if number % limit == 0:
                limit = self._at_once()  # asked again and again, as a cluster may grow with its load
            while len(running) >= limit:
                running = _unfinished(running)
                while ordered and ordered[0] not in running:
                    yield result(ordered.popleft())
            running.append(start.remote(call, cloudpickle.dumps((item,))))
            ordered.append(running[-1])
        while ordered:
            yield result(ordered.popleft())

    def _at_once(self) -> int:
        """How many tasks may be unfinished."""
        import ray

        cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        return self.workers if 0 < self.workers < cpus else 2 * cpus  # with one in reserve no CPU waits for us

    def gang(self, fn: Callable[..., Any], *args: Any) -> None:
        """See :meth:`Engine.gang`. With a Ray of one's own, a single rank runs in this process.

        Raises ValueError when the cluster has too few devices, and RuntimeError when one of several ranks fails.
        """
        if self.devices == 1 and not self.address:
            fn(*args)
            return
        self._connect()
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group

        group = placement_group([self._bundle()] * self.devices, strategy="PACK")
        ranks: list[ObjectRef[bytes]] = []
        try:
            while not group.wait(PATIENCE):
                log.warning("waiting for %d devices of the Ray cluster, which others use", self.devices)
            place = result(in_bundle(group, 0, meeting_point)) if self.devices > 1 else None
            for number in range(self.devices):
                variables = self._variables(number, *place) if place else {}
                ranks.append(in_bundle(group, number, rank, variables, logging.getLogger().level, fn, args))
            with answered(lambda _: cancel(ranks)):
                join(ranks)
        finally:
            remove_placement_group(group)  # which kills ranks that still run
            if ranks:
                ray.wait(ranks, num_returns=len(ranks), timeout=PATIENCE)

    def _bundle(self) -> dict[str, float]:
        """What one rank takes of the cluster. Raises ValueError when it has too little for all ranks."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kinds = ("GPU", "CPU") if any(node.get("GPU", 0) >= 1 for node in nodes) else ("CPU",)
        places = sum(min(int(node.get(kind, 0)) for kind in kinds) for node in nodes)
        if places < self.devices:
            raise ValueError(
                f"engine.devices={self.devices}, but the Ray cluster has {places} (a device is one "
                f"{' with one '.join(kinds)}). Add nodes, or set engine.devices to {places} or less"
            )
        return dict.fromkeys(kinds, 1.0)

    def _variables(self, rank: int, address: str, port: int) -> dict[str, str]:
        """The environment of a rank.

        Ray shows every rank its own GPU alone, which is number 0 there whatever the rank. So each rank counts as a
        node with one rank, as if torchrun had started it with ``--nnodes=devices --nproc-per-node=1``.
        """
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.devices),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "GROUP_RANK": str(rank),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }

    def _connect(self) -> None:
        """Join the cluster or start one, unless this process did so before. Raises ValueError when it cannot."""
        try:
            import ray
        except ImportError:
            raise ValueError(
                'engine=ray needs the package ray, which is not installed: pip install "dcexp[ray]"'
            ) from None
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # errors that nobody waits for any more
        if not self.address:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = max(self.workers, self.devices) if self.workers else None  # None: as many as there are
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR)
            return
        try:
            if self.address != "auto":  # else Ray would wait for ever where nobody listens
                host, _, port = self.address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            ray.init(self.address, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"engine.address={self.address}: no Ray cluster could be joined ({error}). Start one with "
                "'ray start --head' and run this on one of its nodes, or leave engine.address empty"
            ) from error


def _unfinished(running: "list[ObjectRef[bytes]]") -> "list[ObjectRef[bytes]]":
    """Those of ``running`` that still run, once one of them has ended."""
    import ray

    _, rest = ray.wait(running, fetch_local=False)
    return ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)[1] if rest else rest
