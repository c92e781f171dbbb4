"""The verbs: one short function each, taking one typed object; the only place that prints."""

import os
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.result import Result, results_in
from dcexp.checks import check
from dcexp.clustering import Request as Clustering
from dcexp.clustering import cluster as clustered
from dcexp.download import Request as Download
from dcexp.download import download as downloaded
from dcexp.evaluation import Request as Evaluation
from dcexp.evaluation import TasksFailedError, aggregates, modes
from dcexp.evaluation import evaluate as evaluated
from dcexp.leaderboard import Request, boards
from dcexp.pipeline import Run, execute, missing
from dcexp.pipeline import plan as steps_of
from dcexp.scoring.request import Request as Scoring
from dcexp.scoring.request import score as scored
from dcexp.stage import Step
from dcexp.tasks.datacomp import DEFINITION, SCORED
from dcexp.verification import verify as findings_of

FOLD = 8  # steps of one kind beyond which the plan shows one line for all


def run(request: Run) -> None:
    """Carry the run out and show its results."""
    plan(request)
    made = _told(lambda: execute(request), request.folder)
    for artifact in made:
        if not isinstance(artifact, Result):
            print(f"{artifact.kind}: {artifact.path}")
    _show(made, request.folder)


def evaluate(request: Evaluation) -> None:
    """Evaluate a checkpoint of any origin and show its results."""
    _show(_told(lambda: evaluated(request), request.folder), request.folder)


def _told(work: Callable[[], list[Artifact]], folder: str) -> list[Artifact]:
    """What ``work`` makes; where tasks failed, the results of the others are shown before the error goes on."""
    try:
        return work()
    except TasksFailedError as error:
        _show(error.made, folder)
        raise


def _show(made: Sequence[Artifact], folder: str) -> None:
    """A table of the results among ``made``, DataComp's aggregates where any of its tasks are there, and the files."""
    results = results_in(made)
    if not results:
        return
    fast = "" if modes(results) == "parity" else f" (evaluation: {modes(results)})"
    table = Table("task", "main metric", "acc1", title=f"results{fast}")
    for result in results:
        numbers = [result.main_metric, result.line["metrics"].get("acc1")]
        table.add_row(result.line["dataset"], *("" if n is None else f"{n:.4f}" for n in numbers))
    Console().print(table)
    if len(SCORED.intersection(result.line["key"] for result in results)) > 1:
        means = Table("aggregate", "mean", title=DEFINITION + fast)
        for row in aggregates(results).rows():
            means.add_row(*row)
        Console().print(means)
    print(f"also in {os.path.relpath(folder)}/eval_results.jsonl and aggregates.json")


def plan(request: Run) -> None:
    """Show every step of the run: whether it is there, and the size of the work where it is not."""
    steps = steps_of(request)
    to_make = {step.key for step in missing(request, steps[request.until])}
    table = Table("", "step", Column("artifact", overflow="fold"), "size of the work")
    table.title = f"plan for scale {request.scale.name}"
    wanted = list(steps)[: list(steps).index(request.until) + 1]
    chain = {s.key: s for kind in wanted for step in steps[kind] for s in step.upstream()}
    crowd = {kind: n for kind, n in Counter(s.kind for s in chain.values()).items() if n > FOLD}
    for step in chain.values():
        if step.kind not in crowd:
            table.add_row(_state(request, step, to_make), step.kind, step.name, _outlook(request, step, to_make))
    for kind, n in crowd.items():
        of_kind = [s for s in chain.values() if s.kind == kind]
        making = sum(s.key in to_make for s in of_kind)
        outlooks = [_outlook(request, s, to_make) for s in of_kind]
        wrong = [words for words in outlooks if words.startswith("[red]")]
        said = f"[red]{len(wrong)} cannot be made: {wrong[0].removeprefix('[red]')}" if wrong else ""
        table.add_row(f"make {making}" if making else "have", kind, f"{n} artifacts", said)
    Console().print(table)


def _state(request: Run, step: Step, to_make: set[str]) -> str:
    if step.key in to_make:
        return "[yellow]make"
    return "[green]have" if request.store.find(step) else "[dim]not needed"


def _outlook(request: Run, step: Step, to_make: set[str]) -> str:
    """What the step costs, or the first line of what stands in its way."""
    if step.key in to_make:
        try:
            check(step, request.engine, request.store)
        except (ValueError, OSError) as error:
            return f"[red]{escape(str(error).splitlines()[0])}"
    kinds = Counter(s.kind for s in step.upstream())
    named = {s.kind: s for s in step.upstream() if kinds[s.kind] == 1} | step.steps
    there = {name: artifact for name, source in named.items() if (artifact := request.store.find(source))}
    return step.stage.cost(**step.values, **there)


def download(request: Download) -> None:
    """Get the evaluation sets of tasks, a line for each."""
    for set_ in downloaded(request):
        what = f"{set_.files} files, {set_.came} just fetched, {set_.bytes / 1e6:,.1f} MB"
        print(f"{set_.origin.folder}: {what} ({set_.origin.repo} at {set_.commit[:7]})")


def score(request: Scoring) -> None:
    """Score the tars of one's own, and say how the outcome becomes a pool."""
    summary = scored(request)
    print(f"score: {summary.counts}")
    print(f"as a pool: source=webdataset source.root={request.shards} source.scored={request.out}")


def cluster(request: Clustering) -> None:
    """Cluster the pool's features, and say what is where."""
    centroids, assigned = clustered(request)
    facts = assigned.summary
    print(
        f"{centroids.summary['clusters']:,} clusters of {facts['counts']['kept']:,} rows: the largest has "
        f"{facts['largest']:,}, the median {facts['median']:,}, {facts['empty']:,} are empty"
    )
    print(f"centroids, also for filter=image_based: {centroids.file}")
    print(f"clusters of rows, and distances from their centres: {assigned.path}")


def verify(request: Run) -> None:
    """Check the whole chain of a finished run; raise ValueError when anything is not as it was recorded."""
    table = Table("", "kind", Column("artifact", overflow="fold"), "found", title="verify")
    faulty = 0
    for finding in findings_of(request.store, steps_of(request)[request.until]):
        faulty += bool(finding.faults)
        mark = "[red]fault" if finding.faults else "[green]ok" if finding.files else "[dim]–"
        table.add_row(mark, finding.kind, finding.name, "\n".join(finding.faults) or finding.note)
    Console().print(table)
    if faulty:
        raise ValueError(f"{faulty} of {table.row_count} artifacts are not as recorded; rebuild=<kind> makes them anew")


def leaderboard(request: Request) -> None:
    """Show the runs of the store that may be compared, one board for each scale, pool and set of tasks."""
    for board in boards(request.store.root):
        if request.format == "table":
            Console().print(board.table())
        else:
            print(board.markdown() if request.format == "markdown" else board.csv())
