"""Images and their captions (Flickr, MSCOCO): the evaluation sets of retrieval, indexed where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import Artifact
from dcexp.artifacts.evalset import CaptionSet
from dcexp.engines.base import Engine
from dcexp.tasks.arrows import cached_arrow, extracted, read_arrow
from dcexp.tasks.layouts import Content, LaidOutSet, Layout, Spot, csv_and_zip
from dcexp.tasks.tabletext import json_strings, read_table, strings
from dcexp.tasks.wds import NSHARDS, samples, shard_names
from dcexp.tasks.zipped import zipped

_SPLIT = "test"
_KIND = "dataset_type.txt"


@dataclass(frozen=True, kw_only=True)
class CaptionFolder(LaidOutSet):
    """Captioned images in ``<root>/<folder>``, as csv and zip or as tars; or in the cache ``<root>/hf_cache``.

    Captions are taken as they are. Rows whose ``split``, if there is such a column, is not ``test`` are left out.
    """

    makes: ClassVar[type[Artifact]] = CaptionSet
    layout: ClassVar[str] = "a .csv with the columns filename and raw, and a .zip of the images"

    def layouts(self) -> Sequence[Layout]:
        cache = partial(cached_arrow, name=Path(self.folder).name)
        return (
            Layout(name="csv and zip", root=self.home, find=csv_and_zip, read=_of_csv),
            Layout(name="tars", root=self.home, find=retrieval_tars, read=_of_tars),
            Layout(name="cache of datasets", root=self.top, find=cache, read=_of_cache),
        )


@dataclass(frozen=True, kw_only=True)
class Captions(Content):
    """The captions of each image, in the order of the images."""

    parquet: ClassVar[str] = "captions.parquet"
    texts: Sequence[Sequence[str]]

    @property
    def samples(self) -> int:
        return len(self.spots)

    def columns(self) -> Mapping[str, Any]:
        assert len(self.texts) == len(self.spots)
        return {
            "text": [text for texts in self.texts for text in texts],
            "image": [i for i, texts in enumerate(self.texts) for _ in texts],
        }


def _of_csv(folder: Path, names: list[str], engine: Engine) -> Captions:
    table, archive = names
    rows = read_table(folder / table, ["filename", "raw"])
    kept = [row for row in rows if row.fields.get("split", _SPLIT) == _SPLIT]
    images = [row.fields["filename"].rpartition("/")[2] for row in kept]
    spots = zipped(folder, archive, {name: row.place for name, row in zip(images, kept, strict=True)})
    texts = [json_strings(row, "raw") for row in kept]
    return Captions(spots=[spots[name] for name in images], texts=texts, dropped=len(rows) - len(kept))


def retrieval_tars(folder: Path) -> list[str]:
    """The files of tars that say they are for retrieval. Raises FileNotFoundError, and ValueError for a bad count."""
    kind = (folder / _KIND).read_text(errors="replace").strip().lower()
    if kind != "retrieval":
        raise FileNotFoundError(f"wanted the word retrieval in {folder / _KIND}, found {kind[:40]!r}")
    return [_KIND, NSHARDS, *shard_names(folder)]


def _of_tars(folder: Path, names: list[str], engine: Engine) -> Captions:
    tars = [name for name in names if name.endswith(".tar")]
    read = engine.map(partial(_tar_captions, folder), tars, what=f"index {folder.name}")
    pairs = [pair for of_tar in read for pair in of_tar]
    return Captions(spots=[spot for spot, _ in pairs], texts=[texts for _, texts in pairs])


def _tar_captions(folder: Path, name: str) -> list[tuple[Spot, list[str]]]:
    tar = folder / name
    pairs = []
    for sample in samples(tar, ["txt"]):
        assert sample.image is not None, sample
        spot = Spot(name, sample.image.offset, sample.image.size, False, sample.name)
        pairs.append((spot, _tar_texts(f"{tar}: {sample.name}.txt", sample.members["txt"].content)))
    return pairs


def _tar_texts(place: str, content: bytes) -> list[str]:
    """Captions, one a line; a newline within one is written as a backslash and an n."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 ({error})") from None
    if "\0" in text:
        raise ValueError(f"{place}: a NUL byte among the captions")
    return [line.replace("\\n", "\n") for line in text.split("\n")] if text else []


def _of_cache(root: Path, names: list[str], engine: Engine) -> Captions:
    path = root / names[0]
    rows = read_arrow(path, "image", ["caption", "split"])
    kept = [(f"{path}, row {i}", row) for i, row in enumerate(rows, 1) if row["split"] == _SPLIT]
    texts = [strings(place, "caption", row["caption"]) for place, row in kept]
    images = [name for place, row in kept for name in strings(place, "image", [row["image"]])]
    spots = extracted(root, {name: place for name, (place, _) in zip(images, kept, strict=True)})
    return Captions(spots=[spots[name] for name in images], texts=texts, dropped=len(rows) - len(kept))
