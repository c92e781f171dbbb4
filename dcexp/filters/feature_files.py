"""Features that a filter is given by a word: a published asset, or a file or folder of one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcexp.artifacts.files import content_digest
from dcexp.assets import Assets
from dcexp.filters.features import FORMATS, SUFFIXES
from dcexp.published import ASSETS

TARGETS = {"imagenet_l14": "imagenet_l14"}
CENTROIDS = {scale: f"centroids_{scale}" for scale in ("small", "medium", "large", "xlarge")}
MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """What the field ``option`` of a filter names: ``given`` is a word of ``published``, or a path.

    A path is a file, or a folder whose feature files are taken together in name order. Files are known by their
    content: one's own copy of a published file is the published one, wherever it lies.
    """

    option: str
    given: str
    published: Mapping[str, str]  # from words to names of assets
    assets: Assets

    @property
    def label(self) -> str:
        """A word for people: the published name, or "own"."""
        names = {word: [file.sha256 for file in ASSETS[name].files] for word, name in self.published.items()}
        return next((word for word, digests in names.items() if digests == self.digests()), "own")

    def digests(self) -> list[str]:
        """The sha256 of every file, in order; of published ones as published, so nothing is downloaded for it."""
        if name := self.published.get(self.given):
            return [file.sha256 for file in ASSETS[name].files]
        return [content_digest(path) for path in self._own()] or [MISSING]

    def check(self) -> None:
        """Raise FileNotFoundError when the word is no published one, and no file or folder with features."""
        if name := self.published.get(self.given):
            self.assets.check(name)
        elif not self._own():
            raise FileNotFoundError(
                f"filter.{self.option}={self.given}: no such file, or a folder without any ({self._path}). Wanted "
                f"{', '.join(self.published)} (published by DataComp), or your own features: {FORMATS}"
            )

    def files(self, digests: Sequence[str] = ()) -> tuple[Path, ...]:
        """The files, downloaded where needed. Raises ValueError when they are no longer those of ``digests``."""
        if name := self.published.get(self.given):
            return self.assets.files(name)
        self.check()
        if digests and self.digests() != list(digests):
            raise ValueError(f"{self._path} was changed while the run was going; give the same command again")
        return self._own()

    @property
    def _path(self) -> Path:
        return Path(self.given).expanduser().resolve()

    def _own(self) -> tuple[Path, ...]:
        if self._path.is_dir():
            return tuple(sorted(p for p in self._path.iterdir() if p.suffix in SUFFIXES and p.is_file()))
        return (self._path,) if self._path.is_file() else ()
