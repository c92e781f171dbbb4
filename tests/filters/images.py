"""Pools with image features of our own choice, and a store to build filters of them in."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import format_uid
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.pools import ONE, hex_uids, write_parquet


class Images:
    """A pool of metadata and features without shards; its rows as plain Python."""

    def __init__(self, root, parts, texts=(), named=(), **columns):
        """``parts`` are arrays of features, ``texts`` those of captions, ``columns`` lists of values over all rows.

        ``named`` are the rows' uids; some are made up where it is empty.
        """
        self.root, self.uids, start = Path(root), [], 0
        columns = {name: pa.array(values) for name, values in columns.items()}  # the same type in every part
        for number, features in enumerate(parts):
            stop = start + len(features)
            uids = list(named[start:stop]) or hex_uids(len(features), seed=(number + 1) * 1000)
            own = {name: values[start:stop] for name, values in columns.items()}
            write_parquet(self.root / "pool" / "metadata" / f"{number:04d}.parquet", uids, **own)
            more = {"l14_txt": texts[number]} if len(texts) else {}
            np.savez(self.root / "pool" / "metadata" / f"{number:04d}.npz", l14_img=features, **more)
            self.uids += uids
            start = stop
        self.features = np.concatenate(parts)
        self.source = CommonPool(root=str(self.root / "pool")).step()

    def build(self, stage, engine=ONE, store="store", within=None):
        """What a filter keeps."""
        within = within.step(self.source) if within else None
        subset = Store(root=str(self.root / store)).build(stage.step(self.source, within), engine)
        assert isinstance(subset, Subset)
        return subset

    def taken(self, stage, **how):
        """The uids that a filter takes, sorted, repeats included."""
        return [format_uid(uid) for uid in self.build(stage, **how).uids()]

    def counts(self, stage, **how):
        """How often each row's uid is taken."""
        taken = self.taken(stage, **how)
        return np.array([taken.count(uid) for uid in self.uids]) if len(taken) < 1000 else _counts(taken, self.uids)


def _counts(taken, uids):
    names, times = np.unique(taken, return_counts=True)
    found = dict(zip(names.tolist(), times.tolist(), strict=True))
    return np.array([found.get(uid, 0) for uid in uids])


def random_features(seed, *sizes, width=16, dtype=np.float16):
    """Rows of length about 1, one array per size."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(sum(sizes), width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.split(rows.astype(dtype), np.cumsum(sizes)[:-1])
