"""The metadata of the digits pool, in CommonPool's layout (Gadre et al. 2023, Table 8).

`<32 hex digits>.parquet` holds the rows; `<same>.npz` the features of the two encoders, row by row.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcexp.embedded.encoder import B32, L14, Design, fitted, thumbnails
from dcexp.embedded.files import write_folder
from dcexp.embedded.samples import Sample

PARTS = 4

Features = tuple[NDArray[np.float32], NDArray[np.float32]]


def write_metadata(folder: Path, samples: Sequence[Sample], *, seed: int) -> None:
    """Write all samples to `folder`, in four parts (fewer if there are fewer samples)."""
    files = []
    for number, rows in enumerate(np.array_split(np.arange(len(samples)), min(PARTS, len(samples)))):
        stem = hashlib.md5(f"digits/{seed}/part/{number}".encode(), usedforsecurity=False).hexdigest()
        part = samples[rows[0] : rows[-1] + 1]
        pictures = thumbnails([sample.image for sample in part])
        texts = [sample.text for sample in part]
        b32, l14 = _features(B32, pictures, texts), _features(L14, pictures, texts)
        files.append((f"{stem}.parquet", partial(_write_rows, part, b32, l14)))
        files.append((f"{stem}.npz", partial(_write_features, b32, l14)))
    write_folder(folder, files)


def _features(design: Design, pictures: NDArray[np.float64], texts: list[str]) -> Features:
    encoder = fitted(design)
    return encoder.images(pictures).astype(np.float32), encoder.texts(texts).astype(np.float32)


def _write_rows(part: Sequence[Sample], b32: Features, l14: Features, path: Path) -> None:
    """A score is the cosine of the features before they are rounded to float16 for the npz."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "uid": pa.array([s.uid for s in part], pa.string()),
        "url": pa.array([s.url for s in part], pa.string()),
        "text": pa.array([s.text for s in part], pa.string()),
        "original_width": pa.array([s.original_width for s in part], pa.int64()),
        "original_height": pa.array([s.original_height for s in part], pa.int64()),
        "clip_b32_similarity_score": pa.array(_cosines(b32), pa.float32()),
        "clip_l14_similarity_score": pa.array(_cosines(l14), pa.float32()),
        "face_bboxes": pa.array([[] for _ in part], pa.list_(pa.list_(pa.float64()))),
        "sha256": pa.array([s.sha256 for s in part], pa.string()),
    }
    parquet.write_table(pa.table(columns), path)


def _cosines(features: Features) -> NDArray[np.float32]:
    images, texts = features
    cosines: NDArray[np.float32] = (images.astype(np.float64) * texts).sum(axis=1).astype(np.float32)
    return cosines


def _write_features(b32: Features, l14: Features, path: Path) -> None:
    (b32_img, b32_txt), (l14_img, l14_txt) = _halves(b32), _halves(l14)
    with path.open("wb") as file:
        np.savez(file, b32_img=b32_img, b32_txt=b32_txt, l14_img=l14_img, l14_txt=l14_txt)


def _halves(features: Features) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    return features[0].astype(np.float16), features[1].astype(np.float16)
