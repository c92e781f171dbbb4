"""What the tests of ``score`` share: samples of every kind, a request, and what comes out."""

import numpy as np
import pyarrow.parquet as pq

from dcexp.scoring.request import Request
from tests.pools import ONE, hex_uids, sample
from tests.tasks.sets import KINDS, MODEL, encoded, picture

UIDS = hex_uids(70)


def pictures(count, seed=0):
    """Samples with images of every kind, and captions of every length."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        mode, extension = KINDS[i % len(KINDS)]
        rest = sample(UIDS[i], text="a picture of " * (i % 9), original_width=i)
        del rest["jpg"]
        made.append({extension: encoded(picture(rng, mode), extension), **rest})
    return made


def request(weights, tars, out, **fields):
    """The verb's request, with the feature ``l14`` and one worker where nothing else is said."""
    fields = {"feature": "l14", "engine": ONE, **fields}
    return Request(checkpoint=str(weights), model=MODEL, shards=str(tars), out=str(out), **fields)


def arrays(out, stem):
    """The features of a tar."""
    with np.load(out / "metadata" / f"{stem}.npz") as npz:
        return dict(npz)


def table(out, stem):
    """The metadata of a tar."""
    return pq.read_table(out / "metadata" / f"{stem}.parquet")


def contents(out):
    """Every file below ``out``, by its name there."""
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
