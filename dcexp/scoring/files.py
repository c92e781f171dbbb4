"""The files of one tar in the folder of scores: written whole or not at all, and known again by a note."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.files import whole_file, write_json
from dcexp.artifacts.npz import npz_shapes
from dcexp.artifacts.place import name_of
from dcexp.sources.scored import METADATA, NOTES

Arrays = dict[str, npt.NDArray[Any]]
State = list[int | str]


def score_column(feature: str) -> str:
    """CommonPool's name of the column with the cosines of the features ``<feature>_img`` and ``<feature>_txt``."""
    return f"clip_{feature}_similarity_score"


def feature_arrays(feature: str) -> tuple[str, str]:
    """CommonPool's names of the features of images and of captions."""
    return f"{feature}_img", f"{feature}_txt"


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of the tar ``stem``.tar in the folder ``out``."""

    out: Path
    stem: str

    @classmethod
    def of(cls, out: Path, tar: str) -> Self:
        """Those of the ``tar``, a path or a URL."""
        return cls(out=out, stem=name_of(tar).removesuffix(".tar"))

    @property
    def parquet(self) -> Path:
        return self.out / METADATA / f"{self.stem}.parquet"

    @property
    def npz(self) -> Path:
        return self.out / METADATA / f"{self.stem}.npz"

    @property
    def note(self) -> Path:
        return self.out / NOTES / f"{self.stem}.json"

    def noted(self) -> dict[str, Any]:
        """What the note says: the state of the ``tar``, and its ``features``. Raises ValueError for a damaged one."""
        if not self.note.is_file():
            return {"tar": [], "features": {}}
        try:
            note = json.loads(self.note.read_bytes())
            return {"tar": note["tar"], "features": dict(note["features"])}
        except (ValueError, KeyError, TypeError):
            raise self._damaged(f"{self.note.name} is no note of features") from None

    def known(self, state: State) -> dict[str, Any]:
        """By feature, what is there of the tar in this ``state``: its identity, counts and damage.

        Raises ValueError where a file does not hold what the note says.
        """
        note = self.noted()
        if note["tar"] != state or not (self.npz.is_file() and self.parquet.is_file()):
            return {}
        self._check(note["features"])
        return note["features"]

    def write_note(self, state: State, known: Mapping[str, Any]) -> None:
        write_json(self.note, {"tar": state, "features": dict(sorted(known.items()))})

    def kept(self, known: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
        """The arrays and the columns of scores of the ``known`` features. Raises ValueError where they are damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [score_column(feature) for feature in known]
        try:
            with np.load(self.npz, allow_pickle=False) as npz:
                arrays = {name: npz[name] for feature in known for name in feature_arrays(feature)}
            table = pq.read_table(self.parquet, columns=columns, use_threads=False)
        except (ValueError, OSError, zipfile.BadZipFile, pa.ArrowException):
            raise self._unreadable() from None
        return arrays, {name: table[name] for name in table.column_names}

    def write(self, arrays: Arrays, table: Any) -> None:
        """The npz and then the parquet."""
        import pyarrow.parquet as pq

        with whole_file(self.npz) as file:
            np.savez(file, allow_pickle=False, **arrays)
        with whole_file(self.parquet) as file:
            pq.write_table(table, file)

    def _check(self, features: Mapping[str, Any]) -> None:
        """Raise ValueError unless the files hold these, by what stands at their ends and before their arrays."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            footer, shapes = pq.read_metadata(self.parquet), npz_shapes(self.npz)
        except (ValueError, OSError, pa.ArrowException):
            raise self._unreadable() from None
        for feature in features:
            for name in feature_arrays(feature):
                if shapes.get(name, ())[:1] != (footer.num_rows,):
                    raise self._damaged(f"{name} is not in {self.npz.name} for each of the {footer.num_rows:,} rows")
            if score_column(feature) not in footer.schema.names:
                raise self._damaged(f"{self.parquet.name} has no column {score_column(feature)}")

    def _unreadable(self) -> ValueError:
        return self._damaged(f"{self.npz.name} or {self.parquet.name} cannot be read")

    def _damaged(self, what: str) -> ValueError:
        return ValueError(
            f"the files of {self.stem}.tar in {self.out} are not as score wrote them: {what}. Remove "
            f"{METADATA}/{self.stem}.parquet, {METADATA}/{self.stem}.npz and {NOTES}/{self.stem}.json there, and score "
            "again by each model"
        )
