"""CommonPool, and any pool in its layout: ``metadata/`` (parquet, npz) beside ``shards/`` (webdataset tars)."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from dcexp.artifacts.base import Summary
from dcexp.artifacts.place import absolute, below, is_url, listed
from dcexp.engines.base import Engine
from dcexp.sources.base import Source
from dcexp.sources.index import named, write_index
from dcexp.stage import Step


@dataclass(frozen=True, kw_only=True)
class CommonPool(Source):
    """The pool in the directory ``root``, as upstream's ``download_upstream.py`` leaves it.

    Shards are needed only from resharding on, and may lie elsewhere: ``shards`` is a folder of tars or a URL
    (``s3://…``), empty for ``root/shards``. Where they are on this machine, it is noted which samples they hold.
    Metadata files that cannot be read stop the work, or are left out and counted with ``skip_corrupt``.

    The pool is known by the absolute path of ``root`` and by a listing of its files (names and sizes of the
    metadata, names of the shards), so two spellings of one path are one pool, and a pool to which files are added
    is another one. That is why ``root`` itself is not compared.
    """

    root: str = field(compare=False)
    shards: str = field(default="", compare=False)
    skip_corrupt: bool = False

    def step(self) -> Step:
        """The step, with the absolute path and the listing; a pool that is not there yet is listed as missing."""
        place = {"shards": self._tars} if self.shards else {}
        return Step(self, {"folder": str(self._root), **place, "listing": listing_of_pool(self._root, self._tars)})

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

    def run(self, out: Path, engine: Engine, *, folder: str = "", shards: str = "", listing: str = "") -> Summary:
        """Write the index of the pool into ``out``."""
        self.check(engine)
        if listing and listing != listing_of_pool(self._root, self._tars):
            raise ValueError(
                f"the pool at {self._root} was changed while the run was going; give the same command again"
            )
        tars = [below(self._tars, name) if self.shards else name for name in listed(self._tars, ".tar")]
        if self.shards and not tars:
            raise FileNotFoundError(
                f"source.shards={self.shards}: there are no .tar files directly in {self._tars}; wanted a folder or "
                "URL of webdataset tars. Leave it out until they are there: they are needed from resharding on"
            )
        return write_index(
            out,
            engine,
            folder=self._root / "metadata",
            root=str(self._root),
            shards=tars,
            skip_corrupt=self.skip_corrupt,
        )

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser().resolve()

    @property
    def _tars(self) -> str:
        return absolute(self.shards) if self.shards else str(self._root / "shards")


def listing_of_pool(root: Path, tars: str) -> str:
    """A digest of what is in a pool: names and sizes of its metadata files, names of its shards; or "missing"."""
    metadata = listing_of(str(root / "metadata"), (".parquet", ".npz"), sizes=True)
    shards = listing_of(tars, (".tar",), sizes=False)
    return hashlib.sha256(f"{metadata} {shards}".encode()).hexdigest() if metadata else "missing"


def listing_of(folder: str, suffixes: tuple[str, ...], *, sizes: bool) -> str:
    """A digest of the files in ``folder`` with these suffixes: names, and sizes where asked for; empty without any.

    A pool may have a million tars, so sizes, which cost a look at every file, are left out for them.
    """
    if is_url(folder):
        found = sorted(entry for suffix in suffixes for entry in listed(folder, suffix).items())
        lines = [f"{name} {size if sizes else ''}" for name, size in found]
    elif not Path(folder).is_dir():
        return ""
    else:
        with os.scandir(folder) as entries:
            lines = sorted(
                f"{entry.name} {entry.stat().st_size if sizes else ''}"
                for entry in entries
                if entry.name.endswith(suffixes) and not entry.name.startswith(".")
            )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""
