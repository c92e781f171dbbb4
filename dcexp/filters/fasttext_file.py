"""The file format of fastText's models: what is read of it, and what is refused."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dcexp.filters.fasttext import END, HIERARCHICAL, MAGIC, SUPERVISED, VERSION, FastText


def read_model(path: Path) -> FastText:
    """Read a model. Raises ValueError for anything but a supervised model with a hierarchical softmax."""
    with path.open("rb") as file:
        magic, version = _numbers(file, "ii")
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{path} is not a fastText model of version {VERSION}")
        _, _, _, _, _, word_ngrams, loss, kind, buckets, shortest, longest, _ = _numbers(file, "12i")
        file.read(8)
        if (loss, kind, word_ngrams) != (HIERARCHICAL, SUPERVISED, 1):
            raise ValueError(f"{path}: wanted a supervised fastText model of single words with a hierarchical softmax")
        words, labels, counts, place = _dictionary(file, buckets)
        if END not in words:
            raise ValueError(f"{path}: its dictionary lacks {END}, so a text may have nothing to be judged by")
        (quantised,) = _numbers(file, "?")
        vectors = _quantised(file) if quantised else _dense(file, path)
        (quantised_output,) = _numbers(file, "?")
        nodes = _quantised(file) if quantised and quantised_output else _dense(file, path)
    return FastText(
        words=words, labels=labels, lengths=(shortest, longest), buckets=buckets, place=place,
        vectors=vectors, nodes=nodes[: len(labels) - 1], children=_tree(counts),
    )  # fmt: skip


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{form}")
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError(f"{file.name} ends too early for a fastText model")
    return struct.unpack(f"<{form}", raw)


def _dictionary(file: BinaryIO, buckets: int) -> tuple[list[str], list[str], list[int], npt.NDArray[np.int32] | None]:
    """Words; labels with how often they came in training; and where the buckets of a pruned model are."""
    size, _, _ = _numbers(file, "3i")
    _, pruned = _numbers(file, "qq")
    entries: tuple[list[str], list[str]] = ([], [])
    counts = []
    for _ in range(size):
        text = bytearray()
        while (byte := file.read(1)) not in (b"\0", b""):
            text += byte
        count, is_label = _numbers(file, "qb")
        entries[is_label].append(text.decode(errors="replace").removeprefix("__label__" * is_label))
        if is_label:
            counts.append(count)
    place = None
    if pruned >= 0:
        place = np.full(buckets, -1, np.int32)  # looked up at random: the smaller the better
        pairs = np.frombuffer(file.read(8 * pruned), np.int32).reshape(-1, 2)
        place[pairs[:, 0]] = pairs[:, 1]
    return *entries, counts, place


def _dense(file: BinaryIO, path: Path) -> npt.NDArray[np.float32]:
    """A matrix of floats, mapped: the large one has two million rows, of which few are looked at."""
    rows, width = _numbers(file, "qq")
    matrix = np.memmap(path, np.float32, "r", file.tell(), (rows, width))
    file.seek(4 * rows * width, 1)
    return matrix


def _quantised(file: BinaryIO) -> npt.NDArray[np.float32]:
    """A product-quantised matrix, made dense."""
    has_norms, rows, width, size = _numbers(file, "?qqi")
    codes = np.frombuffer(file.read(size), np.uint8).reshape(rows, -1)
    matrix = np.concatenate([book[codes[:, i]] for i, book in enumerate(_codebooks(file))], axis=1)
    if has_norms:
        norms = np.frombuffer(file.read(rows), np.uint8)
        (book,) = _codebooks(file)
        matrix = matrix * book[norms]
    assert matrix.shape == (rows, width)
    return matrix


def _codebooks(file: BinaryIO) -> list[npt.NDArray[np.float32]]:
    """The centroids of every part of the vectors, each of shape (256, width of the part)."""
    width, parts, part_width, last_width = _numbers(file, "4i")
    flat = np.frombuffer(file.read(4 * 256 * width), np.float32)
    widths = [part_width] * (parts - 1) + [last_width]
    ends = np.cumsum([256 * w for w in widths])
    return [flat[end - 256 * w : end].reshape(256, w) for end, w in zip(ends, widths, strict=True)]


def _tree(counts: list[int]) -> npt.NDArray[np.int64]:
    """The Huffman tree over labels that are sorted by how often they came, the most frequent first.

    Always the two rarest of what is left are put together; of equals, a node made earlier comes before a label.
    """
    labels = len(counts)
    weights = [*map(float, counts), *[1e15] * (labels - 1)]
    leaf, node, children = labels - 1, labels, []
    for made in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weights[made] = weights[pair[0]] + weights[pair[1]]
        children.append(pair)
    return np.array(children)
