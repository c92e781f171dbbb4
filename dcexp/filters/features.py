"""Files of features: read without running code, and checked before anything is compared with them."""

import codecs
import functools
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.pool import REMEDY, DamagedError
from dcexp.filters.rows import Mask, Rows

Features = npt.NDArray[np.floating]

NAME = "image_features"  # what upstream calls the array where a file can hold several
SUFFIXES = (".npy", ".npz", ".pt")
FORMATS = ".npy, .npz or .pt (torch.save of a tensor, a numpy array, or a dict that has image_features)"
CHECKED = 1 << 14  # rows that are looked through at once
SHORTEST = 1e-12  # what is shorter torch does not bring to length 1


def read_features(path: Path) -> Features:
    """The features in a file, shape (n, width), float16, float32 or float64; memory-mapped where that is possible.

    ``.npz`` files and dicts hold the array as ``image_features``, or hold no other. Raises ValueError for anything
    that is not at least one row of finite floating-point numbers, and for pickled objects: nothing is run.
    """
    state = path.stat()
    return _read(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: Path, size: int, mtime: int) -> Features:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: wanted features in a file of {FORMATS}")
    try:
        array = _array(path, _from_torch(path) if path.suffix == ".pt" else _from_numpy(path))
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, KeyError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is not a readable {path.suffix} file: {reason}") from None
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise ValueError(
            f"{path}: wanted features of shape (rows, width) in a floating type, got shape {array.shape} and "
            f"{array.dtype}"
        )
    for start in range(0, len(array), CHECKED):
        finite = np.isfinite(array[start : start + CHECKED]).all(axis=1)
        if not finite.all():
            raise ValueError(f"{path}: row {start + int(finite.argmin())} holds NaN or infinity; leave such rows out")
    return array


def _array(path: Path, value: Any) -> npt.NDArray[Any]:
    """The one array that is meant, out of what a file holds."""
    import torch

    if isinstance(value, dict):
        if NAME not in value and len(value) != 1:
            raise ValueError(
                f"{path}: wanted one array, or one of the name {NAME}; it has: {', '.join(map(str, value))}"
            )
        value = value.get(NAME, next(iter(value.values()), None))
    if isinstance(value, torch.Tensor):
        value = value.detach().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{path}: wanted an array, got {type(value).__name__}; features come as {FORMATS}")
    return value


def _from_numpy(path: Path) -> Any:
    try:
        loaded = np.load(path, mmap_mode="c", allow_pickle=False)  # "c": torch wants arrays it could write into
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable {path.suffix} file of plain numbers: {error}") from None


def _from_torch(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors stay on the disk until they are looked at."""
    import torch

    whole = zipfile.is_zipfile(path)  # false for files of before torch 1.6
    if whole and (value := _numpy_array(path)) is not None:
        return value
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is no .pt file of tensors and numpy arrays alone. Reading any other pickled object could run "
            "code, so it is refused; save the features by themselves: numpy.save"
        ) from None


def _numpy_array(path: Path) -> Any:
    """The numpy array that was given to ``torch.save``, or None when it was something else.

    torch's own safe reader does not know the pickle protocol that upstream's centroids are written in.
    """
    with zipfile.ZipFile(path) as archive:
        member = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), "")
        if not member:
            raise zipfile.BadZipFile("it holds no data.pkl")
        with archive.open(member) as file:
            try:
                return _OnlyNumpy(file).load()
            except _ForeignError:
                return None
            except Exception as error:  # a damaged pickle can raise anything
                raise pickle.UnpicklingError(str(error)) from None


class _ForeignError(Exception):
    """A pickle asks for something else than a numpy array."""


class _OnlyNumpy(pickle.Unpickler):
    """Makes numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What an array is made of, which has moved within numpy. Raises _ForeignError for all else."""
        array = np.empty(1)
        made_of = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.multiarray._reconstruct": array.__reduce__()[0],
            "numpy.numeric._frombuffer": array.__reduce_ex__(5)[0],
            "_codecs.encode": codecs.encode,  # how pickles before protocol 3 hold bytes
        }
        wanted = f"{module}.{name}".replace("numpy.core.", "numpy.").replace("numpy._core.", "numpy.")
        if wanted not in made_of:
            raise _ForeignError
        return made_of[wanted]

    def persistent_load(self, pid: Any) -> Any:
        """Raise: this is how torch refers to its tensors."""
        raise _ForeignError


def features_of(rows: Rows, name: str, width: int, whose: str) -> Features:
    """The features ``name`` of some rows, shape (len(rows), width).

    Raises ValueError when they are of another width than ``whose``, DamagedError as :func:`whole_features`.
    """
    features = whole_features(rows, name)
    same_width(features.shape[1], f"{rows.part.npz}: {name!r}", width, whose)
    return features


def whole_features(rows: Rows, name: str) -> Features:
    """The features ``name`` of some rows, shape (len(rows), width), of whatever width.

    Raises DamagedError when the file beside the metadata no longer has a row for each of theirs.
    """
    features = rows.part.features(name)
    if features.shape[:1] != (rows.part.rows,) or features.ndim != 2 or features.dtype.kind != "f":
        raise DamagedError(
            f"{rows.part.npz}: {name!r} has shape {features.shape} and {features.dtype}; wanted floating-point "
            f"numbers, one row for each of the {rows.part.rows} of {Path(rows.part.parquet).name}. {REMEDY}"
        )
    return rows.of_part(features)


def have_direction(features: Features) -> Mask:
    """True for the rows that can be brought to length 1 in float32: no NaN or infinity, and not all zeros."""
    mask = np.empty(len(features), dtype=bool)
    for start in range(0, len(features), CHECKED):
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(features[start : start + CHECKED].astype(np.float32), axis=1)
        mask[start : start + CHECKED] = np.isfinite(lengths) & (lengths > SHORTEST)
    return mask


def operations(count: float) -> str:
    """So much work, for ``plan``."""
    return f"{count:.0e} floating-point operations"


def same_width(width: int, what: str, other_width: int, other: str) -> None:
    """Raise ValueError when features of two kinds cannot be compared."""
    if width != other_width:
        raise ValueError(
            f"{what} is {width} wide, but {other} are {other_width} wide: features can be compared only when one "
            "model has made both"
        )
