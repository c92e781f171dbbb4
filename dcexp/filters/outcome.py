"""From what parts of a selection keep to the subset, and what came out: counts, the funnel, repeats, what is there."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.lookup import count_in
from dcexp.artifacts.merge import Range, UidFile, ranges, write_uids
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET, UNAVAILABLE
from dcexp.artifacts.uid import UID, Indices, Uids, firsts
from dcexp.engines.base import Engine
from dcexp.filters.examples import Scored, look, no_scores, write_examples
from dcexp.stage import Stage

log = logging.getLogger(__name__)

REPEATS_TOLD = 0.1  # share of repeats among the taken from which on a warning is given
MERGED = "merged"  # a folder for merged ranges; gone when the subset is written

Combine = Callable[[list[Uids]], Uids]  # what to take of one range of uids, from what each file takes of it


def conclude(
    stage: Stage,
    out: Path,
    engine: Engine,
    pool: Pool,
    files: Sequence[Path],
    combine: Combine,
    *,
    rows: int = 0,
    missing: int = 0,
    corrupt: int = 0,
    dropped: Mapping[str, int] | None = None,
    scored: Scored = no_scores,
    facts: Mapping[str, Any] | None = None,
) -> Summary:
    """Combine sorted ``files`` of uids into the subset, and account for all samples of the pool.

    ``rows`` is how many rows of the pool were kept, where that is known; it is more than there are different uids
    when a uid stands in several rows. Writes ``subset.npy``, ``examples.parquet``, and ``unavailable.npy`` where
    chosen samples are in no shard of the pool. Raises ValueError when nothing is kept.
    """
    looked = look(engine, pool, scored)
    merged = _merge(out, engine, pool, files, combine, np.concatenate([np.empty(0, UID), *(p.uids for p in looked)]))
    taken, distinct = sum(n * count for n, count in merged.repeats.items()), sum(merged.repeats.values())
    funnel = {name or stage.label: n for name, n in (dropped or {}).items() if n}
    if taken == 0:
        raise ValueError(_nothing(stage, pool, missing, funnel, facts or {}))
    if rows > distinct:
        funnel["uid in an earlier row"] = rows - distinct
        log.warning("%s of the kept rows repeat the uid of another row; it is kept once", f"{rows - distinct:,}")
    if len(funnel) > 1:
        log.info("dropped %s", ", ".join(f"{n:,} by {name}" for name, n in funnel.items()))
    _tell(taken, distinct, merged.unavailable)
    write_examples(out, looked, merged.times)
    left = pool.rows - distinct - missing - corrupt
    return Summary(
        counts=Counts(total=pool.rows, kept=distinct, dropped=left, missing=missing, corrupt=corrupt),
        facts={
            "taken": taken,
            "distinct": distinct,
            "repeats": {str(times): count for times, count in sorted(merged.repeats.items())},
            "pool": {"metadata": pool.rows, "available": pool.available},
            "unavailable": merged.unavailable,
            "funnel": funnel,
            **(facts or {}),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a range, or all, of the subset holds.

    ``repeats``: how many uids are taken how often; ``unavailable``: how many are in no shard; ``times``: how often
    each of the uids asked about is taken.
    """

    repeats: Counter[int]
    unavailable: int
    times: Indices


def _merge(out: Path, engine: Engine, pool: Pool, files: Sequence[Path], combine: Combine, asked: Uids) -> Merged:
    """Write the subset, and the list of its uids that are in no shard. Ranges are merged by the workers."""
    (out / MERGED).mkdir(exist_ok=True)
    work = partial(_merge_range, out / MERGED, list(files), pool.available_uids, combine, asked)
    items = list(enumerate(ranges([UidFile(path) for path in files])))
    total, unavailable, times = Counter[int](), 0, np.zeros(len(asked), np.int64)

    def chunks() -> Iterator[Uids]:
        nonlocal unavailable, times
        for (number, _), merged in zip(items, engine.map(work, items, what="merge"), strict=True):
            total.update(merged.repeats)
            unavailable, times = unavailable + merged.unavailable, times + merged.times
            yield _raw(out / MERGED, number, "taken")

    write_uids(out / SUBSET, chunks())
    if unavailable:
        write_uids(out / UNAVAILABLE, (_raw(out / MERGED, number, "lacking") for number, _ in items))
    shutil.rmtree(out / MERGED)
    return Merged(repeats=total, unavailable=unavailable, times=times)


def _merge_range(
    folder: Path, paths: list[Path], available: Path | None, combine: Combine, asked: Uids, item: tuple[int, Range]
) -> Merged:
    number, edges = item
    uids = combine([UidFile(path).slice(edges) for path in paths])
    repeats, distinct = _repeats(uids)
    lacking = np.empty(0, UID)
    if available:
        lacking = distinct[count_in(UidFile(available).slice(edges), distinct) == 0]
    for name, chunk in (("taken", uids), ("lacking", lacking)):
        with whole_file(_raw_path(folder, number, name), durable=False) as file:
            file.write(np.ascontiguousarray(chunk).data)
    return Merged(repeats=repeats, unavailable=len(lacking), times=count_in(uids, asked))


def _repeats(uids: Uids) -> tuple[Counter[int], Uids]:
    """How many of some sorted uids come how often, and the distinct ones."""
    new = firsts(uids)
    if new.all():
        return Counter({1: len(uids)} if len(uids) else {}), uids
    starts = np.flatnonzero(new)
    lengths, counts = np.unique(np.diff(np.append(starts, len(uids))), return_counts=True)
    return Counter(dict(zip(lengths.tolist(), counts.tolist(), strict=True))), uids[starts]


def _raw_path(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number:08d}.{name}"


def _raw(folder: Path, number: int, name: str) -> Uids:
    """Take the uids that a worker has left in a file."""
    path = _raw_path(folder, number, name)
    uids: Uids = np.fromfile(path, UID)
    path.unlink()
    return uids


def _nothing(stage: Stage, pool: Pool, missing: int, funnel: Mapping[str, int], facts: Mapping[str, Any]) -> str:
    without = f" ({missing:,} of them lack what it looks at)" if missing else ""
    said: Iterable[str] = (f"{n:,} dropped by {name}" for name, n in funnel.items())
    parts: Iterable[str] = (f"{name} takes {n:,}" for name, n in facts.get("parts", {}).items())
    listed = "; ".join(filter(None, [", ".join([*said, *parts]), "loosen the filter's settings"]))
    return f"{stage.label} kept 0 of {pool.rows:,} samples{without}; {listed}"


def _tell(taken: int, distinct: int, unavailable: int) -> None:
    share = (taken - distinct) / taken
    if share > REPEATS_TOLD:
        log.warning(
            "%.1f%% of the %s samples taken are repeats; the same sample twice in one batch of a contrastive loss is "
            "its own negative, which hurts", 100 * share, f"{taken:,}",
        )  # fmt: skip
    if unavailable:
        log.warning(
            "%s of the %s samples chosen (%.1f%%) are in none of the pool's shards; %s lists them. Fractions can "
            "be of what is there: filter.pool=available",
            f"{unavailable:,}", f"{distinct:,}", 100 * unavailable / distinct, UNAVAILABLE,
        )  # fmt: skip
