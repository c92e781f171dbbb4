"""What became of the wanted uids and of the samples in the tars: nothing is lost without being counted."""

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Counts
from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.locations import Tar
from dcexp.artifacts.place import name_of
from dcexp.artifacts.shards import MISSING
from dcexp.artifacts.uid import UID, Uids, firsts, format_uid, format_uids
from dcexp.reshard.plan import Found

log = logging.getLogger(__name__)

_BLOCK = 1 << 20  # uids looked at together
_MANY = 255  # samples of one uid; more are counted as that


class Ledger:
    """The account of a subset, tar by tar. How often a uid was found is kept in the file ``marks``, a byte each."""

    def __init__(self, wanted: Uids, marks: Path) -> None:
        self.wanted = wanted
        self.tars: list[tuple[Tar, int]] = []  # with the number of samples kept of it
        self.duplicates = 0
        with marks.open("wb") as file:  # really written: to run out of disk within a map would end the process
            for start in range(0, len(wanted), _BLOCK):
                file.write(bytes(min(_BLOCK, len(wanted) - start)))
        self._found = np.memmap(marks, np.uint8, "r+")

    def add(self, tar: Tar, found: Found) -> npt.NDArray[np.int64]:
        """Add what was found in one tar. Returns how many samples of its uid came before each, nearly always 0."""
        self.tars.append((tar, len(found.rows)))
        order = np.argsort(found.positions, kind="stable")
        in_order = found.positions[order]
        first = np.ones(len(order), bool)
        first[1:] = in_order[1:] != in_order[:-1]
        within = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
        before = np.empty(len(order), np.int64)
        before[order] = within + self._found[in_order]
        self.duplicates += int((before > 0).sum())
        self._found[in_order] = np.minimum(within + self._found[in_order] + 1, _MANY)
        return before

    @property
    def kept(self) -> int:
        return sum(kept for _, kept in self.tars)

    @property
    def damaged(self) -> dict[str, str]:
        """What is wrong with tars, by name."""
        return {name_of(tar.place): tar.damage for tar, _ in self.tars if tar.damage}

    def missing(self) -> Iterator[Uids]:
        """The wanted uids that are in no tar, each once, some at a time."""
        for block, new, found in self._blocks():
            yield block[new & ~found]

    def distinct(self) -> int:
        """Different uids wanted."""
        return sum(int(new.sum()) for _, new, _ in self._blocks())

    def _blocks(self) -> Iterator[tuple[Uids, np.ndarray, np.ndarray]]:
        """Some wanted uids at a time, which of them come for the first time, and which of those were found."""
        for start in range(0, len(self.wanted), _BLOCK):
            block = self.wanted[start : start + _BLOCK]
            new = firsts(block)
            new[0] = start == 0 or block[0] != self.wanted[start - 1]
            yield block, new, self._found[start : start + _BLOCK] > 0

    def counts(self, missing: int, lost: int = 0) -> Counts:
        """Samples in the tars, and wanted uids that are in none; ``lost`` ones turned out to be unreadable."""
        seen = sum(tar.samples for tar, _ in self.tars)
        corrupt = sum(tar.unreadable for tar, _ in self.tars)
        return Counts(
            total=seen + corrupt + missing,
            kept=self.kept - lost,
            dropped=seen - self.kept,
            missing=missing,
            corrupt=corrupt + lost,
        )

    def save(self, path: Path) -> None:
        """Write the account of every tar: total = kept + dropped + missing + corrupt.

        ``missing`` here are samples that the ``_stats.json`` beside a tar announces and that are not in it.
        """
        rows = [
            {
                "tar": name_of(tar.place),
                "total": tar.samples + tar.lacking + tar.unreadable,
                "kept": kept,
                "dropped": tar.samples - kept,
                "missing": tar.lacking,
                "corrupt": tar.unreadable,
                "damage": tar.damage,
            }
            for tar, kept in self.tars
        ]
        write_json(path, rows)


def report_missing(out: Path, ledger: Ledger, root: str, tolerated: float) -> int:
    """List the wanted uids that no tar holds, and say what is damaged; raise ValueError where it is too much."""
    for tar, damage in list(ledger.damaged.items())[:20]:
        log.warning("%s: %s; the samples that are whole are used. Once it is mended: rebuild=locations", tar, damage)
    if len(ledger.damaged) > 20:
        log.warning("… and %d more damaged tars; tars.json lists them", len(ledger.damaged) - 20)
    count, first = _save_missing(out / MISSING, ledger.missing())
    if not count:
        return 0
    distinct = ledger.distinct()
    share, examples = count / distinct, ", ".join(map(format_uid, first[:3]))
    what = (
        f"{count:,} of {distinct:,} wanted uids ({share:.1%}) are in none of the "
        f"{len(ledger.tars):,} shards at {root}; the first are {examples}"
    )
    if not ledger.kept:
        raise ValueError(
            f"nothing to train on: {what}. "
            + ("The tars are damaged: download them again" if ledger.damaged else "Do they belong to the same pool?")
        )
    if share > tolerated:
        enough = math.ceil(share * 100) / 100
        raise ValueError(
            f"{what}; all are in {out / MISSING}. That is more than reshard.max_missing={tolerated}: complete the "
            "pool (download it again over what is there), or train on what there is: "
            f"reshard.max_missing={enough:g}"
        )
    log.warning("%s of %s wanted uids (%.1f%%) are in none of the pool's shards; the artifact lists them in %s",
                f"{count:,}", f"{distinct:,}", 100 * share, MISSING)  # fmt: skip
    return count


def _save_missing(path: Path, missing: Iterable[Uids]) -> tuple[int, Uids]:
    """Write uids as a parquet file with the column ``uid``, if there are any; how many, and the first ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.unlink(missing_ok=True)
    blocks = (block for block in missing if len(block))
    first = next(blocks, None)
    if first is None:
        return 0, np.empty(0, UID)
    count, schema = 0, pa.schema([("uid", pa.string())])
    with whole_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        for block in (first, *blocks):
            writer.write_table(pa.table({"uid": format_uids(block)}, schema))
            count += len(block)
    return count, first
