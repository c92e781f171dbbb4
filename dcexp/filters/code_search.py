"""The way from a pool's features to every row's nearest better neighbour, part by part, over an index of codes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file
from dcexp.artifacts.pool import DamagedError, Part
from dcexp.artifacts.scores import scores_file, write_scores
from dcexp.filters.codes import Quantizer, Vectors, duplicate_distance, library, read_index, unit, write_index
from dcexp.filters.draws import generator
from dcexp.filters.features import features_of
from dcexp.filters.rows import Rows, View


@dataclass(frozen=True, kw_only=True)
class CodeSearch:
    """The steps, each for one part at a time or between two of these; what lies in ``folder`` is not made again.

    Rows in ``view`` count, if their ``feature``, ``width`` wide, is finite. ``quality`` is a column: which of two
    rows is better. ``expected`` is about how many rows count.
    """

    folder: Path
    view: View
    feature: str
    width: int
    quality: str
    quantizer: Quantizer
    expected: int
    skip_corrupt: bool

    def sample(self, item: tuple[int, Part]) -> int:
        """Note which rows of a part count, and features of some; returns how many count, -1 for a damaged part."""
        number, part = item
        if not self._file(number, "sample").is_file():
            try:
                rows, _ = self.view.rows(number, part)
                features = self._features(rows)
            except DamagedError:
                if not self.skip_corrupt:
                    raise
                return -1
            finite = np.isfinite(features).all(axis=1)
            rows = rows.those(finite)
            share = self.quantizer.sample_for(self.expected) / self.expected
            chosen = generator(self.quantizer.seed, 0, number).choice(
                len(rows), min(len(rows), math.ceil(len(rows) * share)), replace=False
            )
            self._save(number, "where", rows.where)
            self._save(number, "quality", rows.table[self.quality].to_numpy().astype(np.float64))
            self._save(number, "sample", features[finite][np.sort(chosen)])
        return int(self._load(number, "where").sum())

    def train(self, numbers: Sequence[int], rows: int) -> None:
        """Train the codes for so many rows, on the samples of the parts ``numbers``."""
        if not self._trained.is_file():
            sample = np.concatenate([self._load(number, "sample") for number in numbers])
            write_index(self.quantizer.trained(unit(sample), rows), self._trained)

    def encode(self, item: tuple[int, Part]) -> None:
        """Code the rows of a part."""
        number, part = item
        if not self._file(number, "codes").is_file():
            self._save(number, "codes", read_index(self._trained).sa_encode(self._vectors(number, part)))

    def assemble(self, numbers: Sequence[int]) -> None:
        """Put the codes of the parts ``numbers`` into one index, and how good their rows are into one array."""
        if self._index.is_file():
            return
        quality = np.concatenate([self._load(number, "quality") for number in numbers])
        with whole_file(self.folder / "quality.npy") as file:
            np.save(file, quality)
        index = library().read_index(str(self._trained))
        for number in numbers:
            codes = self._load(number, "codes")
            index.add_sa_codes(codes, np.arange(index.ntotal, index.ntotal + len(codes)))
        write_index(index, self._index)

    def look_up(self, out: Path, neighbours: int, probes: int, item: tuple[int, Part, int]) -> int:
        """Write the scores of a part whose rows begin at a place of the index; returns how many are finite."""
        number, part, first = item
        if not scores_file(out, number).is_file():
            values = np.full(part.rows, np.nan, np.float32)
            if self._file(number, "codes").is_file():
                values[self._load(number, "where")] = duplicate_distance(
                    read_index(self._index),
                    self._vectors(number, part),
                    self._load(number, "codes"),
                    first,
                    np.load(self.folder / "quality.npy", mmap_mode="r"),
                    neighbours=neighbours,
                    probes=probes,
                )
            write_scores(out, number, values)
        return int(np.isfinite(np.load(scores_file(out, number))).sum())

    @property
    def _trained(self) -> Path:
        return self.folder / "trained.faiss"

    @property
    def _index(self) -> Path:
        return self.folder / "all.faiss"

    def _features(self, rows: Rows) -> npt.NDArray[np.floating]:
        return features_of(rows, self.feature, self.width, "those of other parts")

    def _vectors(self, number: int, part: Part) -> Vectors:
        where = self._load(number, "where")
        return unit(self._features(Rows(part=part, number=number, table=None, where=where)))

    def _file(self, number: int, what: str) -> Path:
        return self.folder / f"{number:08d}.{what}.npy"

    def _load(self, number: int, what: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self._file(number, what), allow_pickle=False)
        return array

    def _save(self, number: int, what: str, array: npt.NDArray[Any]) -> None:
        with whole_file(self._file(number, what)) as file:
            np.save(file, array)
