"""CommonPool, and any pool in its layout: ``metadata/`` (parquet, npz) beside ``shards/`` (webdataset tars)."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from dcexp.artifacts.base import Summary
from dcexp.engines.base import Engine
from dcexp.sources.base import Source
from dcexp.sources.index import named, write_index
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class CommonPool(Source):
    """The pool in the directory ``root``, as upstream's ``download_upstream.py`` leaves it.

    Shards are needed only from resharding on; where they are there, it is noted which samples they hold. Metadata
    files that cannot be read stop the work, or are left out and counted with ``skip_corrupt``.

    The pool is known by the absolute path of ``root`` and by a listing of its files (names and sizes of the
    metadata, names of the shards), so two spellings of one path are one pool, and a pool to which files are added
    is another one. That is why ``root`` itself is not compared.
    """

    root: str = field(compare=False)
    skip_corrupt: bool = False

    def step(self) -> Step:
        """The step, with the absolute path and the listing; a pool that is not there yet is listed as missing."""
        return Step(self, {"folder": str(self._root), "listing": listing_of_pool(self._root)})

    def check(self, engine: Engine, **values: str) -> None:
        """Raise FileNotFoundError when there is no pool, saying where one was looked for and in what form."""
        metadata = self._root / "metadata"
        if not named(metadata, ".parquet"):
            wrong = "is no such directory" if not self._root.is_dir() else "has no .parquet files in metadata/"
            raise FileNotFoundError(
                f"no pool: {self._root} {wrong}.\n"
                f"Wanted: {metadata}/*.parquet (and .npz of the same names, for filters that need features)\n"
                f"        {self._root / 'shards'}/*.tar (from resharding on)\n"
                "Download one with upstream's download_upstream.py (--data_dir is that directory), or name the one "
                "you have: source.root=/path. For a first try leave out scale= : the embedded digits pool needs "
                "no download."
            )

    def run(self, out: Path, engine: Engine, *, folder: str = "", listing: str = "") -> Summary:
        """Write the index of the pool into ``out``."""
        self.check(engine)
        if listing and listing != listing_of_pool(self._root):
            raise ValueError(
                f"the pool at {self._root} was changed while the run was going; give the same command again"
            )
        shards = sorted(path.name for path in named(self._root / "shards", ".tar"))
        return write_index(
            out,
            engine,
            folder=self._root / "metadata",
            root=str(self._root),
            shards=shards,
            skip_corrupt=self.skip_corrupt,
        )

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser().resolve()


def listing_of_pool(root: Path) -> str:
    """A digest of what is in a pool: names and sizes of its metadata files, names of its shards; or "missing"."""
    metadata = listing_of(root / "metadata", (".parquet", ".npz"), sizes=True)
    shards = listing_of(root / "shards", (".tar",), sizes=False)
    return hashlib.sha256(f"{metadata} {shards}".encode()).hexdigest() if metadata else "missing"


def listing_of(folder: Path, suffixes: tuple[str, ...], *, sizes: bool) -> str:
    """A digest of the files in ``folder`` with these suffixes: names, and sizes where asked for; empty without any.

    A pool may have a million tars, so sizes, which cost a look at every file, are left out for them.
    """
    if not folder.is_dir():
        return ""
    with os.scandir(folder) as entries:
        lines = sorted(
            f"{entry.name} {entry.stat().st_size if sizes else ''}"
            for entry in entries
            if entry.name.endswith(suffixes) and not entry.name.startswith(".")
        )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""
