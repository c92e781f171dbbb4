"""Evaluation sets from the Hugging Face Hub: what ``download`` is asked for."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from dcexp.hub import Fetched, Origin, Unavailable, fetch_origin
from dcexp.tasks.base import Task
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)

PATIENCE = 2  # sets in a row for which nobody answered; a dead network costs seconds for each


@dataclass(frozen=True, kw_only=True)
class Request:
    """The tasks whose evaluation sets are wanted. ``evalsets``, ``evaluation`` and ``crops`` are for their yaml."""

    tasks: dict[str, Task]
    evalsets: str = "data/evalsets"
    evaluation: str = "parity"
    crops: str = ""

    def __post_init__(self) -> None:
        check_types(self)


def origins(request: Request) -> list[Origin]:
    """Where the tasks' sets are to be had: each once, in order; embedded ones need nothing."""
    found = [task.data.origin() for task in request.tasks.values()]
    return list(dict.fromkeys(origin for origin in found if origin))


def download(request: Request) -> Iterator[Fetched]:
    """Fetch one set after the other, each yielded when it is whole and checked; one that fails stops no other.

    Raises OSError at the end, naming all that failed.
    """
    failures: list[Unavailable] = []
    unanswered = 0
    wanted = origins(request)
    for origin in wanted:
        if unanswered == PATIENCE:
            failures.append(Unavailable(origin, "not tried after that"))
            continue
        log.info("fetching %s to %s", origin.repo, origin.folder)
        try:
            fetched = fetch_origin(origin)
        except Unavailable as error:
            log.warning("%s: %s", origin.repo, error.reason)
            failures.append(error)
            unanswered = unanswered + 1 if not error.answered else 0
        else:
            unanswered = 0
            yield fetched
    if failures:
        raise OSError(_report(failures, len(wanted), request.evalsets))


def _report(failures: list[Unavailable], wanted: int, evalsets: str) -> str:
    """All failures by their reason, then the commands that fetch the same elsewhere."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure.origin.repo)
    lines = [f"{len(failures)} of {wanted} evaluation sets could not be fetched; what came whole stays."]
    lines += [f"  {', '.join(repos)}: {reason}" for reason, repos in reasons.items()]
    lines += ["The same command goes on from here. Or fetch them on a machine where they can be had, and copy them:"]
    lines += [f"  {failure.origin.command}" for failure in failures]
    lines += [f"Or, if they lie somewhere already, say where: evalsets=DIR (it is {evalsets})"]
    return "\n".join(lines)
