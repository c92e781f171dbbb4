"""Many tasks of one checkpoint on several devices: every device evaluates its share of them."""

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dcexp.engines.base import Engine
from dcexp.stage import Step
from dcexp.store import Store
from dcexp.tasks.base import Task

FAILURES = (ValueError, OSError, RuntimeError)  # of one task: a damaged image, a disk, a device without memory


def shares(steps: Sequence[Step], count: int) -> list[list[Step]]:
    """``steps`` in ``count`` shares of about as many test samples: the largest first, to whoever has least."""
    found: list[list[Step]] = [[] for _ in range(count)]
    for step in sorted(steps, key=size, reverse=True):
        min(found, key=lambda share: sum(map(size, share))).append(step)
    return found


def on_devices(store: Store, engine: Engine, steps: Sequence[Step], rebuild: frozenset[str]) -> dict[str, str]:
    """Make the results on all devices; returns by key what was wrong with those that failed."""
    said = Path(store.root).resolve() / f".failed-{uuid.uuid4().hex}"
    said.mkdir()
    try:
        engine.gang(_evaluate_share, store, engine, shares(steps, engine.devices), rebuild, said)
        return {file.name: file.read_text() for file in said.iterdir()}
    finally:
        shutil.rmtree(said, ignore_errors=True)


def _evaluate_share(
    store: Store, engine: Engine, shares: list[list[Step]], rebuild: frozenset[str], said: Path
) -> None:
    """One rank's share, on its own device; what is wrong with those that fail is written into ``said``."""
    import torch

    cores = max((os.cpu_count() or 1) // engine.devices, 1)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    else:
        torch.set_num_threads(cores)
    alone = replace(engine, devices=1, workers=max(engine.workers // engine.devices, 1) if engine.workers else cores)
    for step in shares[int(os.environ["RANK"])]:
        try:
            store.build(step, alone, rebuild)
        except FAILURES as error:
            (said / step.key).write_text(str(error))


def size(step: Step) -> int:
    """The number of test samples of a task."""
    assert isinstance(step.stage, Task)
    return step.stage.size
