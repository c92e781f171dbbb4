"""Trackers: who else is told about a run. The record is the store; a tracker only shows it.

The training curve is read from the checkpoint's ``metrics.jsonl`` while it is written, so a tracker works for any
engine, misses nothing after a crash, and can never stop a training.
"""

import logging
import netrc
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcexp.artifacts.checkpoint import MONITOR
from dcexp.artifacts.records import records_in
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)

POLL = 2.0  # seconds between two looks at the curve


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a tracker is told of a run: an id that is the same for the same run, its config and lineage, its curve.

    ``curves`` are the places where ``metrics.jsonl`` may lie: in the finished checkpoint or in the unfinished one. What
    a monitor wrote lies beside it.
    """

    id: str
    name: str
    group: str
    folder: Path
    config: Mapping[str, Any]
    curves: Sequence[Path]


class Session:
    """One run being told. ``results`` takes what the tasks found; this one tells nobody."""

    def results(self, metrics: Mapping[str, float]) -> None:
        """Take final numbers, by name."""


@dataclass(frozen=True, kw_only=True)
class Tracker(ABC):
    """Opens a session for the time of a run."""

    def __post_init__(self) -> None:
        check_types(self)

    @abstractmethod
    @contextmanager
    def session(self, story: Story) -> Iterator[Session]:
        """Tell the story while the block runs."""
        yield Session()


@dataclass(frozen=True, kw_only=True)
class NoTracker(Tracker):
    """Tells nobody."""

    @contextmanager
    def session(self, story: Story) -> Iterator[Session]:
        """Do nothing."""
        yield Session()


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracker):
    """Weights & Biases. ``auto`` is online with an API key at hand, else offline: no prompt, no network."""

    project: str = "dcexp"
    entity: str = ""
    mode: Literal["auto", "online", "offline"] = "auto"

    @contextmanager
    def session(self, story: Story) -> Iterator[Session]:
        """Log config, curve and results to one W&B run, whose id is the story's."""
        import wandb

        mode = self.mode if self.mode != "auto" else ("online" if _has_key() else "offline")
        try:
            wandb_run = self._begin(story, mode)
        except wandb.errors.Error as error:
            if self.mode != "auto":
                raise ValueError(
                    f"W&B ({mode}) cannot begin: {error}. tracker.mode=offline needs no network"
                ) from error
            log.warning("W&B cannot be reached (%s); this run is kept offline", error)
            wandb_run, mode = self._begin(story, "offline"), "offline"
        session = _WandbSession(wandb_run, story.curves)
        failed = True
        try:
            yield session
            failed = False
        finally:
            session.close()
            try:
                wandb_run.finish(exit_code=int(failed))
            except Exception as error:  # a signal to the whole group ends W&B's own process before us
                log.warning("W&B did not close its run: %r", error)
        if mode == "offline":
            log.info("W&B offline run; to upload it: wandb sync %s", os.path.relpath(Path(wandb_run.dir).parent))

    def _begin(self, story: Story, mode: Literal["online", "offline"]) -> Any:
        import wandb

        return wandb.init(
            project=self.project,
            entity=self.entity or None,
            mode=mode,
            id=story.id,
            resume="allow" if mode == "online" else None,
            name=story.name,
            group=story.group,
            config=dict(story.config),
            dir=str(story.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )


class _WandbSession(Session):
    def __init__(self, wandb_run: Any, curves: Sequence[Path]) -> None:
        self._run, self._curves = wandb_run, curves
        self._monitors = [place.with_name(MONITOR) for place in curves]
        self._step = self._next_step = wandb_run.step
        # What an earlier session told last may have been interrupted by its end: better told twice than not at all.
        self._monitored = sum(line["step"] + 1 < self._next_step for line in read_curve(self._monitors))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def results(self, metrics: Mapping[str, float]) -> None:
        self._run.summary.update(dict(metrics))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._log_new_lines()

    def _follow(self) -> None:
        while not self._stop.wait(POLL):
            self._log_new_lines()

    def _log_new_lines(self) -> None:
        try:
            # In this order: a monitor's line is written before the next step is taken.
            curve = [line for line in read_curve(self._curves) if line["step"] >= self._next_step]
            monitored = read_curve(self._monitors)[self._monitored :]
            for line in sorted(curve + monitored, key=lambda line: line["step"]):
                self._step = max(self._step, line["step"])  # W&B takes no step that is before another
                self._run.log({k: v for k, v in line.items() if k != "step"}, step=self._step)
            self._next_step = max([self._next_step, *(line["step"] + 1 for line in curve)])
            self._monitored += len(monitored)
        except Exception as error:
            log.warning("W&B was not told of the curve: %r", error)


def read_curve(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The logged steps so far, from the first place that exists; a line still being written is left out."""
    for place in places:
        try:
            text = place.read_text()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return records_in(text)
    return []


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
