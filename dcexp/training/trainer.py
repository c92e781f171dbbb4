"""Lightning's part: a loop over intervals and the ranks' strategy, and nothing else of what it offers."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy


def trainer(ranks: int, epochs: int, callbacks: list[Callback]) -> Trainer:
    """A Lightning trainer that only runs the loop: it starts no process, and saves, logs and samples nothing."""
    cuda = torch.cuda.is_available()
    on_this_node = ranks_here(ranks)
    torch.backends.cuda.matmul.allow_tf32 = True
    environment = TorchElasticEnvironment() if ranks > 1 else LightningEnvironment()
    return Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=on_this_node,
        num_nodes=ranks // on_this_node,
        # Buffers are constants, the same on all ranks.
        strategy=DDPStrategy(static_graph=False, broadcast_buffers=False) if ranks > 1 else "auto",
        plugins=[environment],
        max_epochs=epochs,
        callbacks=callbacks,
        benchmark=cuda,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def ranks_here(ranks: int) -> int:
    """How many of the ranks run on this node: LOCAL_WORLD_SIZE, or all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks))


@contextmanager
def cpu_threads(processes: int) -> Iterator[None]:
    """Give this process its share of the cores: torch's threads wait for each other by spinning, so one thread that
    shares its core with a loader worker makes all of them crawl. OMP_NUM_THREADS, where set, is left alone.
    """
    before = torch.get_num_threads()
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Remarks of libraries on hardware, loader workers, missing loggers and their own use of torch help no user."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"open_clip\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
