"""What stands in the way of a run, said all at once and before any work."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from dcexp.engines.base import Engine
from dcexp.stage import Step
from dcexp.store import Store


def rebuilt(rebuild: str | Sequence[str], known: Sequence[str]) -> frozenset[str]:
    """The kinds of artifacts that ``rebuild`` asks to make anew. Raises ValueError for one that is not ``known``."""
    kinds = frozenset([rebuild] if isinstance(rebuild, str) else rebuild)
    if unknown := kinds - set(known):
        raise ValueError(f"rebuild={','.join(sorted(unknown))}: wanted one or more of {', '.join(known)}")
    return kinds


def check(step: Step, engine: Engine, store: Store, anew: Collection[str] = ()) -> None:
    """Raise what is wrong with a step, also beside its pool, if that is in the store and not to be made ``anew``."""
    step.stage.check(engine, **step.values)
    for source in step.steps.values():
        if source.kind == "pool" and source.key not in anew and (pool := store.find(source)):
            step.stage.check_pool(pool)


def check_all(steps: Collection[Step], engine: Engine, store: Store) -> None:
    """Raise ValueError with all that stands in the way of ``steps``: of each kind the first, and how many more."""
    anew = {step.key for step in steps}
    problems: dict[str, list[str]] = defaultdict(list)
    labels: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        try:
            step.stage.check_machine(engine, **step.values)
            check(step, engine, store, anew)
        except (ValueError, OSError) as error:
            problems[step.kind].append(str(error))
            labels[step.kind].append(step.stage.label)
    told = [
        first + f"\n(and {len(more)} more {kind.removesuffix('s')}s: {', '.join(labels[kind][1:])})" * bool(more)
        for kind, (first, *more) in problems.items()
    ]
    if told:
        raise ValueError("\n\n".join(told))
