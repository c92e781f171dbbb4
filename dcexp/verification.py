"""Verification: is every artifact of a run still what its manifest says, and does the chain hold?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dcexp.artifacts.base import Artifact, Counts
from dcexp.artifacts.files import digest_of, file_digests
from dcexp.artifacts.results import TRAINER
from dcexp.artifacts.shards import Shards
from dcexp.scale import locked
from dcexp.stage import Step
from dcexp.store import Store, is_payload


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one artifact. ``faults`` is empty when all is well; ``note`` says what was checked."""

    kind: str
    name: str
    faults: tuple[str, ...] = ()
    files: int = 0
    note: str = ""


def verify(store: Store, steps: list[Step]) -> Iterator[Finding]:
    """Check the artifacts of ``steps`` and of everything they were made from, inputs first, each once."""
    seen: set[str] = set()
    for step in steps:
        for part in step.upstream():
            if part.key not in seen:
                seen.add(part.key)
                yield _finding(store, part, is_target=part.key == step.key)


def _finding(store: Store, step: Step, is_target: bool) -> Finding:
    try:
        artifact = store.find(step)
    except ValueError as error:
        return Finding(kind=step.kind, name=step.name, faults=(str(error),))
    if artifact is None:
        absent = ("not there: this was not made yet",) if is_target else ()
        note = "" if is_target else "not there (anything made from it carries its lineage)"
        return Finding(kind=step.kind, name=step.name, faults=absent, note=note)
    try:
        faults = (*_file_faults(artifact), *_count_faults(artifact), *_chain_faults(store, step, artifact))
        faults += tuple(_hollow(store, step)) if is_target else ()
    except (KeyError, TypeError, ValueError) as error:
        return Finding(kind=step.kind, name=step.name, faults=(f"manifest.json is not a manifest: {error!r}",))
    files = artifact.manifest["files"]
    size = sum(entry["bytes"] for entry in files.values())
    return Finding(
        kind=step.kind,
        name=step.name,
        faults=faults,
        files=len(files),
        note=f"{len(files):,} files, {size / 1e6:,.1f} MB",
    )


def _file_faults(artifact: Artifact) -> Iterator[str]:
    recorded = artifact.manifest["files"]
    found = file_digests(artifact.path, skip=lambda name: not is_payload(name))
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            yield f"{name}: listed in the manifest, not there"
        elif name not in recorded:
            yield f"{name}: not listed in the manifest"
        elif found[name] != recorded[name]:
            yield f"{name}: content differs from the manifest ({found[name]['bytes']:,} bytes)"
    if digest_of(recorded, artifact.aside) != artifact.manifest["digest"]:
        yield "the manifest's digest does not fit its own list of files"


def _count_faults(artifact: Artifact) -> Iterator[str]:
    counts = Counts(**artifact.summary["counts"])
    if not counts.add_up:
        yield f"counts do not add up: {counts}"


def _chain_faults(store: Store, step: Step, artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    if manifest["key"] != step.key or manifest["lineage"]["key"] != step.key:
        yield f"the manifest speaks of {manifest['key']}, the directory of {step.key}"
    for name, source in step.steps.items():
        made_from = store.find(source)
        if made_from and made_from.manifest["digest"] != manifest["inputs"].get(name):
            yield f"was made from another {name} than {source.name} holds now; rebuild={step.kind} makes it anew"
    trainer = manifest["lineage"]["stage"]["name"]
    if step.kind == "checkpoint" and trainer != TRAINER:
        yield f"was trained by {trainer}, not by the benchmark's recipe"
    scale: dict[str, Any] | None = manifest["lineage"]["values"].get("scale")
    if scale is not None:
        yield from _recipe_faults(scale)


def _hollow(store: Store, step: Step) -> Iterator[str]:
    """What is gone of shards that lie in other artifacts of shards, those of a mixture's parts."""
    for name, source in step.steps.items():
        if step.kind == source.kind == Shards.kind and store.find(source) is None:
            yield f"its shards of {name} are not there any more ({source.name}); rebuild={step.kind} makes them anew"


def _recipe_faults(scale: dict[str, Any]) -> Iterator[str]:
    try:
        locked(**scale)
    except ValueError as error:
        yield str(error)
