"""What goes to Ray: a call, so packed that any worker of the cluster can unpack it, and what comes back of it."""

import logging
import os
import pickle
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcexp.engines.base import WORKER_DIED, free_port

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.placement_group import PlacementGroup

COLOUR = "\x1b\\[[0-9;]*m"


@cache
def task(**options: Any) -> Any:
    """The task that makes a worker see what this process sees, then calls.

    A function within a function travels as code, not as the name of a module: the worker learns only in it where
    dcexp and the caller's modules are. Arguments and results travel as bytes, because arrays that Ray unpacks are
    read-only, which they are not elsewhere.
    """
    import ray

    def run(call: tuple[list[str], str, bytes], args: bytes) -> bytes:
        path, folder, fn = call
        sys.path[:] = dict.fromkeys([*path, *sys.path])
        try:
            os.chdir(folder)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder} does not exist on the node {ray.util.get_node_ip_address()}: engine=ray needs a file system "
                "that all nodes see under the same paths"
            ) from None
        return ray.cloudpickle.dumps(pickle.loads(fn)(*pickle.loads(args)))

    return ray.remote(num_cpus=1, **options)(run)


def called(fn: Callable[..., Any]) -> "ObjectRef[tuple[list[str], str, bytes]]":
    """``fn``, and where this process finds modules and files."""
    import ray
    from ray import cloudpickle

    path = [str(Path(entry).resolve()) for entry in sys.path]
    return ray.put((path, str(Path.cwd()), cloudpickle.dumps(fn)))


def result(ref: "ObjectRef[bytes]") -> Any:
    """What a task returned. What it raised is raised here as it was."""
    import ray
    from ray.exceptions import (
        NodeDiedError,
        OutOfMemoryError,
        RayError,
        RayTaskError,
        TaskCancelledError,
        WorkerCrashedError,
    )

    try:
        return pickle.loads(ray.get(ref))
    except TaskCancelledError:
        raise
    except RayTaskError as error:
        raise error.cause from error
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError):
        raise RuntimeError(WORKER_DIED) from None
    except RayError as error:
        raise RuntimeError(f"Ray could not finish a task: {error}") from error


def in_bundle(group: "PlacementGroup", number: int, fn: Callable[..., Any], *args: Any) -> "ObjectRef[bytes]":
    """Start ``fn(*args)`` on bundle ``number`` of the placement group."""
    from ray import cloudpickle
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    # One call per process: the next one shall find neither a rank's environment nor what it holds of a GPU.
    start = task(max_retries=0, max_calls=1).options(
        name=f"rank {number}",
        num_gpus=group.bundle_specs[number].get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
    )
    return start.remote(called(fn), cloudpickle.dumps(args))


def meeting_point() -> tuple[str, int]:
    """Address and free port of this node, where ranks may find each other."""
    import ray

    return ray.util.get_node_ip_address(), free_port()


def rank(variables: dict[str, str], level: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call ``fn`` with the environment of a rank. Ray shows what is logged in the terminal of the caller."""
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    os.environ |= variables
    fn(*args)


def join(ranks: "list[ObjectRef[bytes]]") -> None:
    """Wait for all ranks. Raises RuntimeError for the first of several that fails; a single one's error as it is.

    A rank that was cancelled has not failed.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    if len(ranks) == 1:
        with suppress(TaskCancelledError):
            result(ranks[0])
        return
    running = ranks
    while running:
        (ended,), running = ray.wait(running)
        failed = f"rank {ranks.index(ended)} of {len(ranks)} failed:"
        try:
            ray.get(ended)
        except TaskCancelledError:
            continue
        except RayTaskError as error:
            raise RuntimeError(f"{failed}\n{re.sub(COLOUR, '', str(error))}") from None
        except RayError as error:
            raise RuntimeError(f"{failed} its process died (killed, or out of memory; Ray says: {error})") from None


def cancel(ranks: "list[ObjectRef[bytes]]") -> None:
    """Interrupt all ranks as Ctrl-C would; :func:`join` then waits for them."""
    import ray

    for ref in ranks:
        ray.cancel(ref)
