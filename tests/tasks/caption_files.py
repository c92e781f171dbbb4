"""Small sets of captioned images and of associations, in every layout in which the published ones lie on disks."""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from tests.tasks.sets import encoded, picture, write_tar

KINDS = (("RGB", "jpg"), ("RGBA", "png"), ("CMYK", "jpg"), ("P", "png"), ("L", "png"))
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as datasets stores its Image
TURNED = 6  # EXIF: to be shown turned by 90 degrees


class Captioned(NamedTuple):
    """One image of a set: its file name, its bytes and its captions."""

    name: str
    image: bytes
    captions: Sequence[str]


def turned_jpeg(rng: np.random.Generator) -> bytes:
    """A JPEG that says it is to be turned."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = TURNED
    picture(rng, "RGB").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def captioned(n: int = 7, seed: int = 0) -> list[Captioned]:
    """Images of all kinds, the last to be turned by its EXIF, with nought to three captions each."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        mode, extension = KINDS[i % len(KINDS)]
        image = turned_jpeg(rng) if i == n - 1 else encoded(picture(rng, mode), extension)
        captions = [f'A "caption", no. {k} of\n image {i} – übel' for k in range((i + 1) % 4)]
        made.append(Captioned(f"im{i}.{'jpg' if i == n - 1 else extension}", image, captions))
    return made


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def write_repository(
    folder: Path, images: Sequence[Captioned], method: int = zipfile.ZIP_STORED, splits: Mapping[int, str] | None = None
) -> Path:
    """The files of ``nlphuji/flickr_1k_test_image_text_retrieval``; ``splits`` are those other than test, by row."""
    folder.mkdir(parents=True)
    rows = []
    for i, (name, _, captions) in enumerate(images):
        tokens = json.dumps([caption.split() for caption in captions])
        rows.append([json.dumps(captions), "[0]", (splits or {}).get(i, "test"), name, f"[{i}]", tokens, "[0]"])
    write_csv(folder / "test_1k_flickr.csv", ["raw", "sentids", "split", "filename", "imgid", "tokens", "sentid"], rows)
    home = "images_flickr_1k_test"
    members = {f"{home}/": b"", **{f"{home}/{image.name}": image.image for image in images}}
    junk = {f"__MACOSX/{home}/._{image.name}": b"junk" for image in images}
    write_zip(folder / f"{home}.zip", {**members, **junk, "../../hostile.jpg": b"x"}, method)
    return folder


def write_tars(folder: Path, images: Sequence[Captioned], first: int = 4) -> Path:
    """The files of ``clip-benchmark/wds_flickr30k``: tars of images and texts, ``first`` of them in the first tar."""
    samples = [
        {name.rpartition(".")[2]: image, "txt": "\n".join(text.replace("\n", "\\n") for text in captions).encode()}
        for name, image, captions in images
    ]
    for i, part in enumerate((samples[:first], samples[first:])):
        write_tar(folder / "test" / f"{i}.tar", part, start=i * first)
    (folder / "test/nshards.txt").write_text("2\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


def write_stream(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    return path


def extracted_files(root: Path, members: Mapping[str, bytes]) -> dict[str, str]:
    """Where ``datasets`` extracts the members of a zip file: their absolute paths by name."""
    folder = root / "hf_cache/downloads/extracted/0a1b2c/images"
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in members}


def arrow_file(root: Path, name: str) -> Path:
    return root / f"hf_cache/nlphuji___{name}/TEST/1.1.0/9f8e7d/{name}-test.arrow"


def write_cache(root: Path, name: str, images: Sequence[Captioned]) -> Path:
    """What ``datasets`` 2.8 leaves of Flickr or MSCOCO; returns the Arrow file."""
    paths = extracted_files(root, {image.name: image.image for image in images})
    columns = {
        "image": pa.array([{"bytes": None, "path": paths[image.name]} for image in images], IMAGE),
        "caption": pa.array([list(image.captions) for image in images], pa.list_(pa.string())),
        "split": ["test"] * len(images),
        "filename": [image.name for image in images],
    }
    return write_stream(arrow_file(root, name), pa.table(columns))


class Asked(NamedTuple):
    """One question of a set of associations."""

    cue: str
    candidates: Sequence[str]
    associations: Sequence[str]


def words(n: int = 6, seed: int = 1) -> dict[str, bytes]:
    """Images by the word that names them."""
    rng = np.random.default_rng(seed)
    return {f"word {i}": encoded(picture(rng, "RGB"), "jpg") for i in range(n)}


ASKED = (
    Asked('bee, or "wasp"', ["word 3", "word 1", "word 0"], ["word 1", "word 0"]),
    Asked("Orange", ["word 0", "word 5", "word 2", "word 3"], ["word 3"]),
)  # word 4 is no candidate


def write_association_repository(
    folder: Path, asked: Sequence[Asked] = ASKED, images: Mapping[str, bytes] | None = None
) -> Path:
    """The files of ``nlphuji/winogavil``."""
    folder.mkdir(parents=True)
    rows = [[i, json.dumps(q.candidates), q.cue, json.dumps(q.associations), 9] for i, q in enumerate(asked)]
    write_csv(folder / "winogavil_dataset.csv", ["ID", "candidates", "cue", "associations", "num_associations"], rows)
    members = {f"winogavil_images/{word}.jpg": image for word, image in (images or words()).items()}
    write_zip(folder / "winogavil_images.zip", members, zipfile.ZIP_DEFLATED)
    return folder


def write_association_cache(root: Path, asked: Sequence[Asked] = ASKED) -> Path:
    """What ``datasets`` 2.8 leaves of WinoGAViL; returns the Arrow file."""
    paths = extracted_files(root, {f"{word}.jpg": image for word, image in words().items()})
    pictures = [[{"bytes": None, "path": paths[f"{word}.jpg"]} for word in q.candidates] for q in asked]
    columns = {
        "candidates": pa.array([list(q.candidates) for q in asked], pa.list_(pa.string())),
        "cue": [q.cue for q in asked],
        "candidate_images": pa.array(pictures, pa.list_(IMAGE)),
        "associations": pa.array([list(q.associations) for q in asked], pa.list_(pa.string())),
    }
    return write_stream(arrow_file(root, "winogavil"), pa.table(columns))
