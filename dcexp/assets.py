"""Where third-party files lie: one's own, the cache, an installed package; else they are downloaded."""

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcexp.published import ASSETS, WORDNET_FILES, Asset, File
from dcexp.typecheck import check_types

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assets:
    """Where third-party files lie. A field left empty means: look in the cache and in packages, else download.

    ``cache`` is the folder for downloads; every other field is a file or folder of one's own, for machines without
    internet. Whoever brings them, they are the published files: their sha256 is checked before use.
    ``language_model`` is the model by which filters tell English where they name no other.
    """

    cache: str = "~/.cache/dcexp"
    language_model: Literal["lid.176.bin", "lid.176.ftz", "gcld3"] = "lid.176.bin"
    lid_176_bin: str = ""
    lid_176_ftz: str = ""
    wordnet: str = ""
    imagenet21k: str = ""
    imagenet_l14: str = ""
    centroids_small: str = ""
    centroids_medium: str = ""
    centroids_large: str = ""
    centroids_xlarge: str = ""

    def __post_init__(self) -> None:
        check_types(self)

    def files(self, name: str) -> tuple[Path, ...]:
        """The local files of the asset ``name``, downloaded where needed; for WordNet the one folder or zip.

        Raises FileNotFoundError when they are neither here nor to be had, ValueError when one is another file.
        """
        self.check(name)
        return tuple(self._own(name, file) or self._find(name, file) for file in ASSETS[name].files)

    def check(self, name: str) -> None:
        """Raise FileNotFoundError when the user named a file or folder that is not there. Downloads nothing."""
        asset, own = ASSETS[name], getattr(self, name)
        if own and not all(_meant(own, name, file).exists() for file in asset.files):
            names = ", ".join(WORDNET_FILES if name == "wordnet" else [file.name for file in asset.files])
            raise FileNotFoundError(
                f"assets.{name}={own}: no such file, or a folder without {names}. Wanted {asset.what}; leave "
                f"assets.{name} empty to have it looked for in {self.cache}, and downloaded"
            )

    def _own(self, name: str, file: File) -> Path | None:
        """The user's own file, if one was named."""
        if not (own := getattr(self, name)):
            return None
        path = _meant(own, name, file)
        if (got := _digest_of(path, file)) != file.sha256:
            raise ValueError(
                f"assets.{name}={own}: {path} is not {ASSETS[name].what}: wanted sha256 {file.sha256}, got {got}. "
                f"The right one is at {file.url}"
            )
        return path

    def _find(self, name: str, file: File) -> Path:
        """The file in the cache or in a package; else it is downloaded into the cache."""
        cached = Path(self.cache).expanduser() / file.name
        for path in (cached, *_installed(name)):
            if path.exists():
                if (got := _digest_of(path, file)) == file.sha256:
                    return path
                log.warning("%s is not used: wanted sha256 %s, got %s", path, file.sha256, got)
        from dcexp.web import fetch

        try:
            if cached.exists():
                cached.replace(cached.with_name(f"{cached.name}.wrong"))
            log.info("downloading %s to %s", file.url, cached)
            fetch(file.url, cached, file.sha256, file.digest)
        except OSError as error:
            raise FileNotFoundError(_unavailable(name, ASSETS[name], cached, f"{file.url}: {error}")) from None
        except ValueError as error:
            raise ValueError(_unavailable(name, ASSETS[name], cached, str(error))) from None
        return cached


def _unavailable(name: str, asset: Asset, cached: Path, reason: str) -> str:
    return (
        f"{asset.what} is needed, is not here, and could not be downloaded: {reason}. Put {cached.name} into "
        f"{cached.parent}, or name your own: assets.{name}=/path" + (f". Or: {asset.or_else}" if asset.or_else else "")
    )


def _meant(own: str, name: str, file: File) -> Path:
    """What a user's path means for one file of an asset: itself, or what lies in it."""
    path = Path(own).expanduser()
    if path.is_file() and len(ASSETS[name].files) == 1:
        return path
    homes = [path, path / "wordnet", path / "dict"] if name == "wordnet" else []
    return next((home for home in homes if (home / WORDNET_FILES[0]).is_file()), path / file.name)


def _installed(name: str) -> Iterator[Path]:
    """Where a package, or nltk's downloader, may have put an asset."""
    if name == "wordnet":
        for folder in (*filter(None, os.environ.get("NLTK_DATA", "").split(os.pathsep)), "~/nltk_data"):
            corpora = Path(folder).expanduser() / "corpora"
            yield from (corpora / "wordnet", corpora / "wordnet.zip")
    if shipped := ASSETS[name].shipped:
        module, inner = shipped
        spec = importlib.util.find_spec(module)
        yield from (Path(folder) / inner for folder in (spec and spec.submodule_search_locations) or ())


def _digest_of(path: Path, file: File) -> str:
    parts = [part for name in WORDNET_FILES if (part := path / name).is_file()] if path.is_dir() else [path]
    return _digest(path, file, tuple((part.stat().st_size, part.stat().st_mtime_ns) for part in parts))


@functools.cache
def _digest(path: Path, file: File, state: tuple[tuple[int, int], ...]) -> str:
    return file.digest(path)
