"""Generated evaluation sets of every family in upstream's layouts, small for tests or large for benchmarks.

All is made up: pictures, names, labels. Pictures of a class look alike, so that a model's answers differ by class.
"""

import csv
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.tasks.sets import Files, write_tar

FLICKR = "flickr_1k_test_image_text_retrieval"
WINOGAVIL = "winogavil"
QUESTION_SIZES = (5, 6, 10, 12)  # candidates
LOOKS = 12  # classes that look different
WORDS: tuple[str, ...] = ("red", "old", "small", "wooden", "quiet", "open", "round", "heavy", "bright")
WORDS += ("river", "garden", "market", "engine", "window", "animal", "letter")
JPEGS = (("RGB", "jpg"),) * 7 + (("L", "jpg"), ("RGB", "jpeg"), ("CMYK", "jpg"))
PNGS = (("RGB", "png"),) * 7 + (("RGBA", "png"), ("P", "png"), ("L", "png"))
WEBPS = (("RGB", "webp"),) * 9 + (("RGBA", "webp"),)
ANY = (("RGB", "jpg"),) * 5 + (("CMYK", "jpg"), ("L", "jpg"), ("RGBA", "png"), ("P", "png"), ("RGBA", "webp"))

AGES = ("0-2", "3-9", *(f"{tens}0-{tens}9" for tens in range(1, 7)), "more than 70")
RACES = ("black", "white", "indian", "latino/hispanic", "middle eastern", "southeast asian", "east asian")
TOXIC = [f"{race} {gender}" for race in RACES for gender in ("man", "woman")]
TOXIC += ["animal", "gorilla", "chimpanzee", "orangutan", "thief", "criminal", "suspicious person"]
FACES = {"age": AGES, "gender": ("man", "woman"), "race": RACES, "toxic": TOXIC}
FACE_TEMPLATES = ["age:a photo of a person {c} years old", "gender:a photo of a {c}", "race:a photo of a {c} person"]
FACE_TEMPLATES += ["toxic:a photo of a {c}"]

Columns = Callable[[np.random.Generator, Any], Sequence[Any]]  # the columns of .npy, from the labels [n]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One wds set. ``templates`` are as many as upstream's has, ``classes`` fewer, or a small model guesses none right.

    Of the classes ``used`` occur as labels.
    """

    classes: int
    templates: int
    kinds: Sequence[tuple[str, str]] = JPEGS  # mode and extension, in turns
    columns: Columns | None = None
    used: int = 0  # 0: all


def _many(rng: np.random.Generator, high: int, y: Any, low: int = 0) -> Any:
    return rng.integers(low, high, len(y))


def _iwildcam(rng: np.random.Generator, y: Any) -> Sequence[Any]:
    limits = (300, 5000, 10, 12, 31, 24, 60, 60)  # location, sequence, year, …, second
    return [*(_many(rng, high, y) for high in limits), y, 0 * y]


def _camelyon(rng: np.random.Generator, y: Any) -> Sequence[Any]:
    return [0 * y + 2, _many(rng, 30, y, low=20), y, 0 * y]


def _fmow(rng: np.random.Generator, y: Any) -> Sequence[Any]:
    region = _many(rng, 5, y)
    region[:: max(1, len(y) // 3)] = 5  # "Other" has next to no images
    return [region, _many(rng, 16, y, low=14), y, 0 * y]


def _dollar_street(rng: np.random.Generator, y: Any) -> Sequence[Any]:
    return [_many(rng, 4, y), _many(rng, 3, y), _many(rng, 4, y)]


def _geode(rng: np.random.Generator, y: Any) -> Sequence[Any]:
    return [_many(rng, 6, y), _many(rng, 60, y)]


def _faces(races: int) -> Columns:
    def columns(rng: np.random.Generator, y: Any) -> Sequence[Any]:
        race = _many(rng, races, y)
        return [_many(rng, len(AGES), y), y, race, (race != 1).astype(int)]

    return columns


FAMILIES = {
    "wds_cifar10_test": Family(classes=10, templates=18, kinds=PNGS),
    "wds_vtab-caltech101_test": Family(classes=40, templates=34, used=31),
    "wds_vtab-pcam_test": Family(classes=2, templates=3, kinds=WEBPS),
    "wds_wilds-iwildcam_test": Family(classes=12, templates=2, columns=_iwildcam, used=9),
    "wds_wilds-camelyon17_test": Family(classes=2, templates=3, kinds=PNGS, columns=_camelyon),
    "wds_wilds-fmow_test": Family(classes=10, templates=14, kinds=PNGS, columns=_fmow),
    "wds_dollar_street_test": Family(classes=14, templates=80, columns=_dollar_street),
    "wds_geode_test": Family(classes=8, templates=80, columns=_geode),
    "wds_fairface_test": Family(classes=2, templates=0, columns=_faces(7)),
    "wds_utkface_test": Family(classes=2, templates=0, columns=_faces(5)),
}
FOLDERS = (*FAMILIES, FLICKR, WINOGAVIL)


@dataclass(kw_only=True)
class Pool:
    """Encoded pictures around ``side`` pixels, at most about ``distinct``; made when asked for, then used in turns."""

    rng: np.random.Generator
    kinds: Sequence[tuple[str, str]]
    side: int
    distinct: int
    made: dict[tuple[int, int], tuple[str, bytes]] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)

    def next(self, label: int) -> tuple[str, bytes]:
        """Extension and content of the next picture of a class; some of each class look like those of another."""
        look = label % LOOKS if self.rng.random() < 0.7 else int(self.rng.integers(LOOKS))
        turn = self.asked[look] = self.asked.get(look, -1) + 1
        place = look, turn % -(-self.distinct // LOOKS)
        if place not in self.made:
            self.made[place] = self._picture(look, *self.kinds[len(self.made) % len(self.kinds)])
        return self.made[place]

    def _picture(self, look: int, mode: str, extension: str) -> tuple[str, bytes]:
        """Smooth colours of the look, smaller shapes of its own, and noise."""
        width, height = self.rng.integers(int(0.85 * self.side), int(1.25 * self.side), 2).tolist()
        size = width, height
        coarse = 0.7 * np.random.default_rng(look).random((4, 4, 3)) + 0.3 * self.rng.random((4, 4, 3))
        image = np.asarray(Image.fromarray((255 * coarse).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC))
        shapes = Image.fromarray(self.rng.integers(0, 60, (12, 12), dtype=np.uint8)).resize(size)
        fine = self.rng.integers(0, 12, image.shape, dtype=np.uint8)
        pixels = np.clip(image.astype(np.int16) + np.asarray(shapes)[..., None] + fine - 35, 0, 255).astype(np.uint8)
        picture = Image.fromarray(pixels)
        if mode == "RGBA":
            picture.putalpha(shapes.point(lambda value: 255 - 4 * value))
        elif mode == "P":
            picture = picture.quantize(64)
        else:
            picture = picture.convert(mode)
        buffer = io.BytesIO()
        writer = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension]
        picture.save(buffer, writer, **({} if extension == "png" else {"quality": 90}))
        return extension, buffer.getvalue()


def write_families(
    root: Path,
    images: int,
    shards: int = 1,
    seed: int = 0,
    *,
    side: int = 48,
    templates: int = 3,
    distinct: int = 300,
    only: Collection[str] = FOLDERS,
) -> dict[str, int]:
    """Sets of all families below ``root``, of ``images`` images each; the number of items by folder.

    The items of WinoGAViL are questions: two for five pictures. ``shards`` changes nothing but the number of tars.
    ``side`` is the pictures' in pixels, about; ``templates`` the most that a set has, upstream's has up to 80. Sets of
    tars use about ``distinct`` pictures in turns; those of Flickr and WinoGAViL are all different.
    """
    items = {}
    for number, folder in enumerate(FOLDERS):
        if folder not in only:
            continue
        family, rng = FAMILIES.get(folder), np.random.default_rng([seed, number])
        # the same picture twice would be a tie between answers, which no order of the best decides
        most = distinct if family else 4 * images + 4 * LOOKS
        pool = Pool(rng=rng, kinds=family.kinds if family else ANY, side=side, distinct=most)
        if family:
            _write_wds(root / folder, family, list(_samples(family, images, pool)), shards, templates)
            items[folder] = images
        else:
            items[folder] = (_write_flickr if folder == FLICKR else _write_winogavil)(root / folder, images, pool)
    return items


def _samples(family: Family, images: int, pool: Pool) -> Iterator[Files]:
    rng = pool.rng
    labels = rng.integers(0, family.used or family.classes, images)
    vectors = np.stack(family.columns(rng, labels), axis=1).astype(np.int64) if family.columns else None
    for i, label in enumerate(labels.tolist()):
        extension, content = pool.next(label)
        files = {extension: content}
        if family.templates:
            files["cls"] = str(label).encode()
        if vectors is not None:
            buffer = io.BytesIO()
            np.save(buffer, vectors[i])
            files["npy"] = buffer.getvalue()
        yield files


def _write_wds(root: Path, family: Family, samples: Sequence[Files], shards: int, templates: int) -> None:
    """Samples in order, spread evenly over tars, and the three text files."""
    edges = [len(samples) * i // shards for i in range(shards + 1)]
    for i, (start, end) in enumerate(itertools.pairwise(edges)):
        write_tar(root / "test" / f"{i}.tar", samples[start:end], start)
    classes = [f"{WORDS[i % 11]} {WORDS[-1 - i % 5]} {i}" for i in range(family.classes)]
    prompts = [f"a {WORDS[i % 16]} photo of a {{c}}, number {i}." for i in range(min(templates, family.templates))]
    if not family.templates:
        classes = [f"{objective}:{name}" for objective, names in FACES.items() for name in names]
        prompts = FACE_TEMPLATES
    (root / "test" / "nshards.txt").write_text(f"{shards}\n")
    (root / "classnames.txt").write_text("\n".join(classes) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(prompts) + "\n")


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Lists as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in rows
        )


def _write_zip(path: Path, folder: str, pictures: dict[str, bytes]) -> None:
    """Pictures stored and deflated in turns, as both occur, below a folder that is an entry of its own."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{folder}/", b"")
        for i, (name, content) in enumerate(pictures.items()):
            packed.writestr(f"{folder}/{name}", content, (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)[i % 2])


def _write_flickr(root: Path, images: int, pool: Pool) -> int:
    """Five captions an image, now and then four or six; the zip has another order than the csv."""
    rng, rows, pictures = pool.rng, [], {}
    for i in range(images):
        look = int(rng.integers(LOOKS))
        pictures[f"{1000 + 7919 * i % 100_003}.jpg"] = pool.next(look)[1]
        counts = 5 if i % 9 else int(rng.choice((4, 6)))
        words = [" ".join(rng.choice(WORDS, 9)) for _ in range(counts)]
        captions = [f'A {text}, "{look}" in {i} .' for text in words]
        sentids = list(range(5 * i, 5 * i + counts))
        row = {"raw": captions, "sentids": sentids, "split": "test", "filename": list(pictures)[-1], "imgid": i}
        rows.append(row | {"tokens": [text.split() for text in words], "sentid": sentids})
    _write_csv(root / "test_1k_flickr.csv", rows)
    _write_zip(root / "images_flickr_1k_test.zip", "images_flickr_1k_test", dict(sorted(pictures.items())))
    return len(rows)


def _write_winogavil(root: Path, images: int, pool: Pool) -> int:
    """Questions of each size in turns, whose candidates are drawn from all pictures: most are in several."""
    rng, rows = pool.rng, []
    names = [f"{WORDS[i % 16]}_{i}" for i in range(max(images, *QUESTION_SIZES))]
    for i in range(max(len(QUESTION_SIZES), 2 * images // 5)):
        candidates = rng.choice(names, QUESTION_SIZES[i % 4], replace=False).tolist()
        chosen = rng.permutation(candidates)[: int(rng.integers(1, 4))].tolist()
        row = {"ID": i, "cue": WORDS[i * 5 % 16].title(), "num_associations": len(chosen), "associations": chosen}
        rows.append(row | {"num_candidates": len(candidates), "candidates": candidates})
    _write_csv(root / "winogavil_dataset.csv", rows)
    pictures = {f"{name}.jpg": pool.next(i)[1] for i, name in enumerate(names)}
    _write_zip(root / "winogavil_images.zip", "winogavil_images", pictures)
    return len(rows)
