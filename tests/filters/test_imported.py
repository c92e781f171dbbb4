"""Scores of others, joined to the pool by uid."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcexp.artifacts.scores import Scores
from dcexp.artifacts.uid import parse_uids
from dcexp.engines.local import Local
from dcexp.filters import table_files
from dcexp.filters.cut import TopFraction
from dcexp.filters.imported import ImportedScore
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.pools import ONE, hex_uids


@pytest.fixture
def images(tmp_path):
    return Images(tmp_path, random_features(0, 60, 40, width=2))


@pytest.fixture
def known(images):
    """Scores of 80 of the 100 uids, one of them NaN, and of 7 that the pool lacks."""
    rng = np.random.default_rng(1)
    uids = [*rng.permutation(images.uids)[:80].tolist(), *hex_uids(7, seed=99)]
    scores = dict(zip(uids, rng.random(len(uids)).tolist(), strict=True))
    scores[uids[3]] = float("nan")
    return scores


def write(path, scores):
    uids, values = list(scores), np.array(list(scores.values()))
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"uid": uids, "other": values, "score": values}), path)
    elif path.suffix == ".csv":
        path.write_text("uid,score\n" + "".join(f"{u},{'' if np.isnan(v) else repr(v)}\n" for u, v in scores.items()))
    elif path.suffix == ".npz":
        np.savez(path, uid=np.array(uids), score=values)
    else:
        np.save(path, values)
        np.save(path.with_name(f"{path.stem}.uids.npy"), parse_uids(uids))
    return path


def made(images, table, engine=ONE, store="store", **fields):
    built = Store(root=str(images.root / store)).build(
        ImportedScore(table=str(table), **fields).step(images.source), engine
    )
    assert isinstance(built, Scores)
    return np.concatenate([built.of_part(0), built.of_part(1)]), built.summary


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz", ".npy"])
def test_every_format_gives_each_row_its_score(images, known, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(table_files, "ROWS", 16)
    values, summary = made(images, write(tmp_path / "t" / f"scores{suffix}", known))
    assert np.array_equal(values, [known.get(uid, np.nan) for uid in images.uids], equal_nan=True)
    assert summary["counts"]["kept"] == 79 and summary["counts"]["missing"] == 21
    assert summary["table"] == {"rows": 87, "distinct": 87, "unknown": 7} and summary["coverage"] == 0.79


def test_a_folder_is_one_table_and_workers_and_order_change_nothing(images, known, tmp_path):
    items = list(known.items())
    for number, some in enumerate((items[50:], items[:50], items[40:60])):  # the last repeats what the others say
        write(tmp_path / "folder" / f"{number}.parquet", dict(some))
    whole, _ = made(images, write(tmp_path / "t" / "one.csv", known))
    for store, engine in (("a", ONE), ("b", Local(workers=2))):
        values, summary = made(images, tmp_path / "folder", engine, store)
        assert np.array_equal(values, whole, equal_nan=True)
        assert summary["table"] == {"rows": 107, "distinct": 87, "unknown": 7}


def test_a_cut_takes_the_best_of_those_that_have_one(images, known, tmp_path):
    score = ImportedScore(table=str(write(tmp_path / "t" / "one.csv", known)))
    taken = images.taken(TopFraction(fraction=0.1, ties="exact", score=score))
    best = sorted((u for u in images.uids if known.get(u, np.nan) == known.get(u)), key=known.get)[-10:]
    assert sorted(best) == taken


def test_a_table_is_known_by_its_content(images, known, tmp_path):
    a, b = write(tmp_path / "t" / "a.csv", known), write(tmp_path / "u" / "b.csv", known)
    keys = [ImportedScore(table=str(path)).step(images.source).key for path in (a, b)]
    b.write_text(b.read_text() + "\n")
    assert keys[0] == keys[1] != ImportedScore(table=str(b)).step(images.source).key


def test_tables_that_will_not_do_are_refused_with_the_reason(images, known, tmp_path):
    path = write(tmp_path / "t" / "one.parquet", known)
    with pytest.raises(ValueError, match=r"one.parquet: no column 'scroe'; it has: uid, other, score"):
        made(images, path, column="scroe")
    with pytest.raises(ValueError, match=r"for 79 of the pool's 100 samples \(79.0%\), wanted coverage=80%; 7 of"):
        made(images, path, coverage=0.8)
    first = next(iter(known))
    (tmp_path / "twice.csv").write_text(f"uid,score\n{first},1\n{first},2\n")
    with pytest.raises(ValueError, match=rf"the uid {first} two scores, 1.0 and 2.0"):
        made(images, tmp_path / "twice.csv")
    pq.write_table(pa.table({"uid": [first], "score": ["high"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="column 'score' holds string, not numbers"):
        made(images, tmp_path / "text.parquet")
    (tmp_path / "text.csv").write_text(f"uid,score\n{first},high\n")
    with pytest.raises(ValueError, match=r"text.csv: .*high"):
        made(images, tmp_path / "text.csv")
    (tmp_path / "uid.csv").write_text("uid,score\nxyz,1\n")
    with pytest.raises(ValueError, match=r"uid.csv: a uid is 32 hexadecimal digits; row 0 holds 'xyz'"):
        made(images, tmp_path / "uid.csv")
    np.save(tmp_path / "alone.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"its uids are to lie beside it in alone.uids.npy"):
        made(images, tmp_path / "alone.npy")
    with pytest.raises(FileNotFoundError, match="no such file, or a folder without tables"):
        ImportedScore(table=str(tmp_path / "nothing")).check(ONE)
