"""The store: finished artifacts by key, and the only place that makes them.

``outputs/store/<kind>/<label>-<key>/`` is complete or not there at all. Work goes on in ``<name>.partial``; the
manifest is written last, then one rename makes it an artifact. After a crash the next attempt continues in
``.partial``.
"""

import errno
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import MANIFEST, Artifact, Summary
from dcexp.artifacts.files import digest_of, file_digests, write_json
from dcexp.claim import Claim, claimed
from dcexp.engines.base import Engine
from dcexp.provenance import PeakMemory, code_digest, git_state, versions
from dcexp.stage import Step, stage_name

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Store:
    """Artifacts below ``root``. Any number of processes may use one store at the same time."""

    root: str = "outputs/store"
    _fresh: set[str] = field(default_factory=set, init=False, repr=False)

    def path(self, step: Step) -> Path:
        """Where the artifact of ``step`` is, or will be."""
        return Path(self.root) / step.kind / step.name

    def find(self, step: Step) -> Artifact | None:
        """The finished artifact of ``step``, or None."""
        path = self.path(step)
        return step.stage.makes(path) if (path / MANIFEST).is_file() else None

    def build(self, step: Step, engine: Engine, rebuild: frozenset[str] = frozenset()) -> Artifact:
        """The artifact of ``step``: found, waited for, or made, inputs first.

        ``rebuild`` names kinds to make anew; what depends on them follows if their content really changed.
        """
        found = self.find(step)
        if found and (step.key in self._fresh or not rebuild & {s.kind for s in step.upstream()}):
            self._fresh.add(step.key)
            _warn_if_made_by_other_code(found, step)
            return found
        inputs = {name: self.build(s, engine, rebuild) for name, s in step.steps.items()}
        if found and (step.kind not in rebuild) and _inputs_of(found) == _digests(inputs):
            self._fresh.add(step.key)
            return found
        artifact = self._claim_and_make(step, engine, inputs, replaces=found)
        self._fresh.add(step.key)
        return artifact

    def _claim_and_make(
        self, step: Step, engine: Engine, inputs: Mapping[str, Artifact], replaces: Artifact | None
    ) -> Artifact:
        path, old = self.path(step), replaces.manifest["digest"] if replaces else ""
        made_at = replaces.manifest["created"] if replaces else ""

        def made_by_another() -> bool:
            found = self.find(step)
            return found is not None and (found.manifest["digest"], found.manifest["created"]) != (
                old,
                made_at,
            )

        with claimed(path.with_name(f"{path.name}.lock"), made_by_another) as claim:
            if claim is None:
                log.info("have   %s/%s (made by another process)", step.kind, step.name)
            else:
                with _speaking_of(step, path):
                    self._make(step, engine, inputs, claim)
        return step.stage.makes(path)

    def _make(self, step: Step, engine: Engine, inputs: Mapping[str, Artifact], claim: Claim) -> None:
        path = self.path(step)
        partial = path.with_name(f"{path.name}.partial")
        log.info("%s %s/%s", "resume" if partial.exists() else "make  ", step.kind, step.name)
        partial.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with PeakMemory() as memory:
            summary = step.stage.run(partial, engine, **inputs, **step.values)
        if not summary.counts.add_up:
            raise AssertionError(f"{stage_name(type(step.stage))} lost count of its samples: {summary.counts}")
        manifest = _manifest(step, engine, inputs, summary, partial)
        manifest |= {"seconds": round(time.monotonic() - started, 3), "peak_memory_bytes": memory.bytes}
        claim.assert_held()
        write_json(partial / MANIFEST, manifest)
        _swap(partial, path)
        log.info("made   %s/%s: %s (%.1f s)", step.kind, step.name, summary.counts, manifest["seconds"])


def is_payload(name: str) -> bool:
    """True for the files of an artifact that are its content: not the manifest, not what an attempt left."""
    return name != MANIFEST and not name.endswith(".tmp")


def _manifest(
    step: Step, engine: Engine, inputs: Mapping[str, Artifact], summary: Summary, folder: Path
) -> dict[str, Any]:
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()
    files = file_digests(folder, skip=lambda name: not is_payload(name))
    return {
        "kind": step.kind,
        "key": step.key,
        "name": step.name,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "digest": digest_of(files),
        "summary": summary.as_dict(),
        "inputs": _digests(inputs),
        "lineage": step.lineage(),
        "code": code_digest(type(step.stage).__module__),
        "git": git_state(),
        "versions": versions(),
        "engine": {"name": type(engine).__name__, "workers": engine.workers, "devices": engine.devices},
        "files": files,
    }


def _swap(partial: Path, path: Path) -> None:
    """Give ``partial`` its final name; an artifact that is replaced steps aside first and is then deleted."""
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    partial.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def _digests(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.manifest["digest"] for name, artifact in inputs.items()}


def _inputs_of(artifact: Artifact) -> dict[str, str]:
    inputs: dict[str, str] = artifact.manifest["inputs"]
    return inputs


def _warn_if_made_by_other_code(artifact: Artifact, step: Step) -> None:
    if artifact.manifest["code"] != code_digest(type(step.stage).__module__):
        log.warning(
            "%s/%s was made by an earlier state of %s; to make it anew: rebuild=%s",
            step.kind, step.name, stage_name(type(step.stage)), step.kind,
        )  # fmt: skip


@contextmanager
def _speaking_of(step: Step, path: Path) -> Iterator[None]:
    """Say which artifact a full disk stopped, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"no space left for {step.kind}/{step.name} below {path.parent}. Nothing unfinished counts as done: "
            "free some space, or choose another store.root, and give the same command again",
        ) from error
