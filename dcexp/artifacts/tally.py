"""What became of the wanted uids and of the samples in the tars, added up tar after tar."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.base import Counts
from dcexp.artifacts.chosen import Chosen
from dcexp.artifacts.files import whole_file
from dcexp.artifacts.uid import UID, Uids, firsts, format_uid


@dataclass(frozen=True, kw_only=True)
class Tally:
    """One tar: samples ``seen``, ``corrupt`` ones, its ``damage``; ``positions`` in the subset of the chosen
    samples; ``written``: their uids as they will be written, repeats included.
    """

    seen: int
    corrupt: int
    damage: str
    positions: npt.NDArray[np.int64]
    written: Uids

    @classmethod
    def of(cls, chosen: Chosen) -> "Tally":
        return cls(
            seen=chosen.seen,
            corrupt=chosen.corrupt,
            damage=chosen.damage,
            positions=chosen.positions,
            written=np.repeat(chosen.uids, chosen.counts),
        )


class Tallies:
    """The sum of all tallies for the sorted subset ``wanted``. Use as a context manager.

    The uids in written order go to the file ``ids`` at once, so that no more than a bit per wanted uid is held.
    """

    def __init__(self, wanted: Uids, ids: Path) -> None:
        self.wanted = wanted
        self.damaged: dict[str, str] = {}
        self.copies: list[int] = []
        self.seen = self.corrupt = self.kept = self.duplicates = 0
        self._found = np.zeros(len(wanted), dtype=bool)
        self._distinct = firsts(wanted)
        ids.parent.mkdir(parents=True, exist_ok=True)
        self._ids_path, self._ids = ids, ids.open("wb")

    def __enter__(self) -> "Tallies":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ids.close()

    def add(self, tar: Path, tally: Tally) -> None:
        """Add the tally of one tar; tars are added in order."""
        if tally.damage:
            self.damaged[tar.name] = tally.damage
        self.seen += tally.seen
        self.corrupt += tally.corrupt
        self.kept += len(tally.positions)
        new = np.unique(tally.positions)
        self.duplicates += len(tally.positions) - int((~self._found[new]).sum())
        self._found[new] = True
        self.copies.append(len(tally.written))
        self._ids.write(tally.written.tobytes())

    @property
    def distinct(self) -> int:
        """Different uids wanted."""
        return int(self._distinct.sum())

    def missing(self) -> Uids:
        """The wanted uids that were not found in any tar, each once, sorted."""
        return self.wanted[self._distinct & ~self._found]

    def save_missing(self, path: Path) -> Uids:
        """Write the missing uids as a parquet file with the column ``uid``, if there are any, and return them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        missing = self.missing()
        path.unlink(missing_ok=True)
        if len(missing):
            with whole_file(path) as file:
                pq.write_table(pa.table({"uid": [format_uid(uid) for uid in missing]}), file)
        return missing

    def counts(self, missing: int) -> Counts:
        """Samples seen in the tars, and wanted uids that are in none."""
        return Counts(
            total=self.seen + self.corrupt + missing,
            kept=self.kept,
            dropped=self.seen - self.kept,
            missing=missing,
            corrupt=self.corrupt,
        )

    def save_ids(self, path: Path) -> None:
        """Write all uids in written order, repeats included, as an .npy of dtype u8,u8."""
        self._ids.flush()
        header = {"descr": np.lib.format.dtype_to_descr(UID), "fortran_order": False, "shape": (sum(self.copies),)}
        with whole_file(path) as file, self._ids_path.open("rb") as ids:
            np.lib.format.write_array_header_1_0(file, header)
            while block := ids.read(1 << 24):
                file.write(block)
