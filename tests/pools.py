"""Tiny pools in the layout of CommonPool, and tars with all that can be wrong with them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import SUBSET, Subset
from dcexp.artifacts.uid import parse_uids, sort_uids
from dcexp.engines.local import Local
from dcexp.sources.commonpool import CommonPool

ONE = Local(workers=1)


def hex_uids(count, seed=0):
    """Random uids as 32 hexadecimal digits."""
    return [np.random.default_rng((seed, i)).bytes(16).hex() for i in range(count)]


def sample(uid, payload=b"\xff\xd8image", text=None, **info):
    """One sample as CommonPool has it: jpg, json with the uid, txt."""
    text = f"a picture of {uid[:6]}" if text is None else text
    return {"jpg": payload, "json": json.dumps({"uid": uid, **info}).encode(), "txt": text.encode()}


def write_tar(path, samples, format=tarfile.PAX_FORMAT, mtime=1.5):
    """Write ``samples`` (dicts of suffix and content, or pairs of key and dict) as a webdataset tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for number, entry in enumerate(samples):
            key, members = entry if isinstance(entry, tuple) else (f"{number:09d}", entry)
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime = len(content), mtime
                tar.addfile(info, io.BytesIO(content))
    return path


def member(name, content=b"", kind=tarfile.REGTYPE, format=tarfile.PAX_FORMAT, mtime=0, told=None, **pax):
    """One member of a tar, as bytes: its headers, then its content in whole blocks.

    ``pax`` records have the last word over the name and the size (``told``, where it is given) in the plain header.
    """
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = kind, "target" if kind in b"12" else "", mtime
    info.size, info.pax_headers = len(content) if told is None else told, pax
    try:
        head = info.tobuf(format, "utf-8", "surrogateescape")
    except ValueError:  # a name that ustar cannot hold
        head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def archive(*members):
    """A tar of such ``members``, as bytes, with its end marker."""
    content = b"".join(members) + bytes(2 * tarfile.BLOCKSIZE)
    return content + bytes(-len(content) % tarfile.RECORDSIZE)


def overwritten(content, at, new):
    """``content`` with ``new`` in place of what stands at ``at``."""
    return content[:at] + new + content[at + len(new) :]


def resummed(head):
    """A header block that was changed, with the checksum it has now."""
    total = sum(head[:148]) + 8 * ord(" ") + sum(head[156:])
    return head[:148] + b"%06o\0 " % total + head[156:]


def write_parquet(path, uids, **columns):
    """Write one metadata file; scores and texts are made up where they are not given."""
    rng = np.random.default_rng(len(uids))
    made = {
        "uid": uids,
        "text": [f"caption {i}" for i in range(len(uids))],
        "clip_l14_similarity_score": rng.random(len(uids)),
        "clip_b32_similarity_score": rng.random(len(uids)).astype(np.float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: value for name, value in {**made, **columns}.items() if value is not None})
    pq.write_table(table, path)
    return path


def write_npz(path, rows, width=4):
    """Write CLIP features beside a metadata file."""
    rng = np.random.default_rng(rows)
    np.savez(path, l14_img=rng.random((rows, width)).astype(np.float16), b32_img=np.zeros((rows, 2), np.float16))
    return path


def write_pool(root, parts=(7, 5), features=True):
    """A pool of one parquet, npz and tar per part, with that many samples; returns its uids part by part."""
    root, all_uids = Path(root), []
    for number, rows in enumerate(parts):
        uids = hex_uids(rows, seed=number)
        write_parquet(root / "metadata" / f"{number:04d}.parquet", uids)
        if features:
            write_npz(root / "metadata" / f"{number:04d}.npz", rows)
        payload = [np.random.default_rng((number, i)).bytes(700 + 97 * i) for i in range(rows)]
        write_tar(root / "shards" / f"{number:08d}.tar", [sample(u, p) for u, p in zip(uids, payload, strict=True)])
        all_uids.append(uids)
    return all_uids


def as_pairs(uids):
    """Uids as plain Python integer pairs, for slow and obvious references."""
    return [(int(u[:16], 16), int(u[16:], 16)) for u in uids] if isinstance(uids, list) else uids.tolist()


def indexed(root, out, engine=None):
    """The pool in ``root``, indexed into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    CommonPool(root=str(root)).run(out, engine or ONE)
    return Pool(out)


def selected(stage, pool, out, **inputs):
    """What the filter ``stage`` keeps of ``pool``: the subset, and the summary."""
    out.mkdir(parents=True, exist_ok=True)
    summary = stage.run(out, ONE, pool=pool, **inputs)
    assert summary.counts.add_up
    return Subset(out), summary


def subset_of(out, uids):
    """A subset artifact that holds ``uids`` (text, repeats allowed)."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / SUBSET, sort_uids(parse_uids(list(uids))))
    return Subset(out)
