"""The store: finished artifacts by key, and the only place that makes them.

``outputs/store/<kind>/<label>-<key>/`` is complete or not there at all. Work goes on in ``<name>.partial``; the
manifest is written last, then one rename makes it an artifact. After a crash the next attempt continues in
``.partial``.
"""

import errno
import json
import logging
import shutil
import time
import uuid
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
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Store:
    """Artifacts below ``root``. Any number of processes may use one store at the same time."""

    root: str = "outputs/store"
    _fresh: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        if Path(self.root).exists() and not Path(self.root).is_dir():
            raise ValueError(f"store.root={self.root} is a file; wanted a directory (it is made when it is not there)")

    def path(self, step: Step) -> Path:
        """Where the artifact of ``step`` is, or will be."""
        return Path(self.root) / step.kind / step.name

    def find(self, step: Step) -> Artifact | None:
        """The finished artifact of ``step``, its manifest read, or None."""
        artifact = step.stage.makes(self.path(step))
        try:
            return artifact if artifact.manifest else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def build(self, step: Step, engine: Engine, rebuild: frozenset[str] = frozenset()) -> Artifact:
        """The artifact of ``step``: found, waited for, or made, inputs first.

        ``rebuild`` names kinds to make anew; what depends on them follows if their content really changed.
        """
        found = self.find(step)
        if found and step.key in self._fresh:
            return found
        if found and not rebuild & {s.kind for s in step.upstream()}:
            self._fresh.add(step.key)
            _warn_if_made_by_other_code(found, step)
            return found
        inputs = {name: self.build(s, engine, rebuild) for name, s in step.steps.items()}
        if not found or step.kind in rebuild or found.manifest["inputs"] != _digests(inputs):
            self._claim_and_make(step, engine, inputs, replaces=found)
        self._fresh.add(step.key)
        made = self.find(step)
        assert made is not None, f"{step.name} was made and is gone"
        return made

    def _claim_and_make(
        self, step: Step, engine: Engine, inputs: Mapping[str, Artifact], replaces: Artifact | None
    ) -> None:
        path, replaced = self.path(step), replaces.manifest["created"] if replaces else ""

        def made_by_another() -> bool:
            found = self.find(step)
            return found is not None and found.manifest["created"] != replaced

        with _speaking_of(step, path), claimed(path.with_name(f"{path.name}.lock"), made_by_another) as claim:
            if claim is None:
                log.info("have   %s/%s (made by another process)", step.kind, step.name)
            else:
                self._make(step, engine, inputs, claim, replaced)

    def _make(self, step: Step, engine: Engine, inputs: Mapping[str, Artifact], claim: Claim, replaced: str) -> None:
        path = self.path(step)
        partial = path.with_name(f"{path.name}.partial")
        origin = _origin(step, engine, inputs)
        resumes = _prepare(partial, {**origin, "replaced": replaced})
        log.info("%s %s/%s", "resume" if resumes else "make  ", step.kind, step.name)
        started = time.monotonic()
        with PeakMemory() as memory:
            summary = step.stage.run(partial, engine, **inputs, **step.values)
        if not summary.counts.add_up:
            raise AssertionError(f"{stage_name(type(step.stage))} lost count of its samples: {summary.counts}")
        for name, source in step.steps.items():
            now = self.find(source)
            if now and now.manifest["digest"] != origin["inputs"][name]:
                raise RuntimeError(f"{source.kind}/{source.name} was rebuilt meanwhile; give the same command again")
        spent = {"seconds": round(time.monotonic() - started, 3), "peak_memory_bytes": memory.bytes}
        claim.assert_held()
        write_json(partial / MANIFEST, _manifest(step, partial, summary) | origin | spent)
        _swap(partial, path)
        log.info("made   %s/%s: %s (%.1f s)", step.kind, step.name, summary.counts, spent["seconds"])


def is_payload(name: str) -> bool:
    """True for the files of an artifact that are its content: not the manifest, not what an attempt left."""
    return name != MANIFEST and not name.endswith(".tmp")


def _origin(step: Step, engine: Engine, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """What the outcome is made from, as it stands before the work: it may change while hours of work go on."""
    return {
        "inputs": _digests(inputs),
        "code": code_digest(*step.modules),
        "git": git_state(),
        "versions": versions(),
        "engine": {"name": type(engine).__name__, "workers": engine.workers, "devices": engine.devices},
    }


def _prepare(partial: Path, attempt: Mapping[str, Any]) -> bool:
    """Make ``partial`` ready: keep what an interrupted attempt left if it was made from the same, else empty it.

    True when something is left to go on from.
    """
    same = {key: attempt[key] for key in ("inputs", "code", "versions", "replaced")}
    same["devices"] = attempt["engine"]["devices"]
    note = partial.with_suffix(".attempt")  # beside it: what is inside belongs to the stage
    continues = note.is_file() and json.loads(note.read_text()) == same
    if partial.exists() and not continues:
        log.info("what is left in %s was made from something else; starting anew", partial.name)
        shutil.rmtree(partial)
    write_json(note, same)
    left = partial.exists()
    partial.mkdir(parents=True, exist_ok=True)
    return left


def _manifest(step: Step, folder: Path, summary: Summary) -> dict[str, Any]:
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()
    files = file_digests(folder, skip=lambda name: not is_payload(name), known=summary.files)
    return {
        "kind": step.kind,
        "key": step.key,
        "name": step.name,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "digest": digest_of(files, step.stage.makes.aside),
        "summary": summary.as_dict(),
        "lineage": step.lineage(),
        "files": files,
    }


def _swap(partial: Path, path: Path) -> None:
    """Give ``partial`` its final name; an artifact that is replaced steps aside first and is then deleted."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.{uuid.uuid4().hex}.old"))
    partial.replace(path)
    partial.with_suffix(".attempt").unlink(missing_ok=True)
    for old in path.parent.glob(f"{path.name}.*.old"):
        shutil.rmtree(old, ignore_errors=True)  # what a reader still holds open goes at the next rebuild


def _digests(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.manifest["digest"] for name, artifact in inputs.items()}


def _warn_if_made_by_other_code(artifact: Artifact, step: Step) -> None:
    if artifact.manifest["code"] != code_digest(*step.modules):
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
