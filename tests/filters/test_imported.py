"""Scores of others, joined to the pool by uid."""

import itertools
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.artifacts import merge
from dcexp.artifacts.scores import Scores
from dcexp.artifacts.uid import UID, parse_uids
from dcexp.checks import check_all
from dcexp.cli import CONF
from dcexp.engines.local import Local
from dcexp.filters import table_files, table_formats, table_rows
from dcexp.filters.cut import TopFraction
from dcexp.filters.fusion import Fusion
from dcexp.filters.imported import ImportedScore
from dcexp.filters.table_files import number_pieces, uid_pieces
from dcexp.filters.table_order import sort_table
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.filters.test_faults import broken_pages
from tests.pools import ONE, hex_uids
from tests.test_conf import composed


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
    monkeypatch.setattr(table_formats, "CHUNK", 8)
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


def test_filters_by_a_column_of_the_pool_go_by_one_of_a_table_as_documented(images, known, tmp_path):
    path = write(tmp_path / "t" / "one.csv", known)
    text = (CONF.parent / "docs" / "filters.md").read_text()
    (command,) = re.findall(r"^(filter=threshold .*?)^```", text, re.MULTILINE | re.DOTALL)
    words = command.replace("\\\n", " ").replace("FILE", str(path)).split()
    expected = sorted(uid for uid in images.uids if known.get(uid, 0) >= 0.5)
    assert images.taken(composed(*words).filter) == expected and len(expected) > 10
    for option in ("sample", "hard_cap", "soft_cap"):
        assert composed(f"filter={option}", *words[2:]).filter.score == ImportedScore(table=str(path))


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
    with pytest.raises(ValueError, match=r"two scores: 1.0 in row 0 of .*twice.csv and 2.0 in row 1 of .*twice.csv"):
        made(images, tmp_path / "twice.csv")
    pq.write_table(pa.table({"uid": [first], "score": ["high"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"text.parquet: column 'score': it holds string, not numbers"):
        made(images, tmp_path / "text.parquet")
    (tmp_path / "text.csv").write_text(f"uid,score\n{first},high\n")
    with pytest.raises(ValueError, match=r"text.csv: .*high"):
        made(images, tmp_path / "text.csv")
    (tmp_path / "uid.csv").write_text("uid,score\nxyz,1\n")
    with pytest.raises(ValueError, match=r"uid.csv: column 'uid': a uid is 32 hexadecimal digits; row 0 holds 'xyz'"):
        made(images, tmp_path / "uid.csv")
    (tmp_path / "part.csv").write_text(f"uid,score\n{first},1\n")
    with pytest.raises(
        ValueError, match=r"0 of the table's 1 uids are not in the pool. To go by it all the same, lower"
    ):
        made(images, tmp_path / "part.csv")
    (tmp_path / "none.csv").write_text(f"uid,score\n{first},\n")
    with pytest.raises(ValueError, match=r"a score for 0 of the pool's 100 .* Nothing can be chosen by it"):
        made(images, tmp_path / "none.csv", coverage=0.0)
    np.save(tmp_path / "alone.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"its uids are to lie beside it in alone.uids.npy"):
        made(images, tmp_path / "alone.npy")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 the rest is lost")
    with pytest.raises(ValueError, match=r"b.npz: File is not a zip file"):
        made(images, tmp_path / "b.npz")
    (tmp_path / "two.csv").write_text(f"uid,score,score\n{first},1,2\n")
    with pytest.raises(ValueError, match=r"two.csv: 2 columns 'score'; it has: uid, score, score"):
        made(images, tmp_path / "two.csv")
    np.savez(tmp_path / "long.npz", uid=np.array([first]), score=np.ones(2))
    with pytest.raises(ValueError, match=r"long.npz: column 'score' has 2 entries for 1 uids"):
        made(images, tmp_path / "long.npz")


def test_what_can_be_seen_before_any_work_is_said_before_it(images, known, tmp_path):
    def checked(table, column="score"):
        step = ImportedScore(table=str(table), column=column).step(images.source)
        check_all(list(step.upstream()), ONE, Store(root=str(tmp_path / "empty")))

    with pytest.raises(ValueError, match=r"table=.*nothing: no such file, or a folder without tables"):
        checked(tmp_path / "nothing")
    (tmp_path / "t.xlsx").write_text("?")
    with pytest.raises(
        ValueError, match=r"t.xlsx: wanted a .parquet or .csv(.|\n)*\(and 1 more scores: imported_score\)"
    ):
        checked(tmp_path / "t.xlsx")
    for name in ("a.parquet", "b.csv", "c.npz"):
        checked(write(tmp_path / "t" / name, known))
        with pytest.raises(ValueError, match=rf"{name}: no column 'scroe'; it has: uid"):
            checked(tmp_path / "t" / name, column="scroe")


def test_a_csv_is_read_as_its_writer_meant_it(images, tmp_path):
    a, b, c = images.uids[:3]
    path = tmp_path / "odd.csv"
    path.write_text(f'\ufeffuid,text,"mine, all"\r\n{a},"two\nlines, ""so""",1e-3\r\n{b},x,\r\n{c},,-inf\r\n')
    values, _ = made(images, path, column="mine, all", coverage=0.0)
    assert np.array_equal(values[:4], [0.001, np.nan, -np.inf, np.nan], equal_nan=True)


def test_small_blocks_of_a_file_are_sorted_together(tmp_path):
    uids = [f"{n:032x}" for n in range(60_000)]
    text = "line\n" * 30
    lines = [f'{uid},"{text * (n % 5)}",{n}\n' for n, uid in enumerate(uids)]
    (tmp_path / "long.csv").write_text("uid,text,score\n" + "".join(lines))
    pq.write_table(pa.table({"uid": uids, "score": range(60_000)}), tmp_path / "groups.parquet", row_group_size=5_000)
    for name in ("long.csv", "groups.parquet"):
        (own,), (numbers,) = uid_pieces(tmp_path / name), number_pieces(tmp_path / name, "score")
        assert np.array_equal(own["f1"], np.arange(60_000)) and np.array_equal(numbers, np.arange(60_000))


def test_a_bad_uid_far_down_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(table_formats, "CHUNK", 100)
    uids = np.array([f"{n:032x}" for n in range(250)])
    uids[230] = "xyz"
    np.savez(tmp_path / "t.npz", uid=uids, score=np.arange(250))
    with pytest.raises(
        ValueError, match=r"t.npz: column 'uid': .*; row 30 holds 'xyz' \(rows counted from row 200 on\)"
    ):
        list(uid_pieces(tmp_path / "t.npz"))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_files_in_any_pieces_are_put_in_order(data):
    """Against a dict of first rows and a list of the others."""
    uids = st.lists(st.integers(0, 30).map(lambda n: (n % 3, n)), max_size=40)
    tables = [np.array(rows, dtype=UID) for rows in data.draw(st.lists(uids, min_size=1, max_size=4))]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "ROWS", data.draw(st.integers(1, 50)))
        patch.setattr(table_formats, "CHUNK", data.draw(st.integers(1, 50)))
        patch.setattr(merge, "RANGE", data.draw(st.integers(1, 50)))
        files = []
        for number, table in enumerate(tables):
            files.append(Path(folder) / f"{number}.npz")
            np.savez(files[-1], uid=table)
        (order := Path(folder) / "order").mkdir()
        assert sort_table(order, ONE, tuple(files)) == [len(table) for table in tables]
        found = {name: np.load(order / f"{name}.npy") for name in ("uids", "rows", "again")}
    first, again = {}, []
    for row, uid in enumerate(np.concatenate(tables).tolist()):
        again += [[row, first[uid]]] if uid in first else []
        first.setdefault(uid, row)
    assert found["uids"].tolist() == sorted(first)
    assert found["rows"].tolist() == [first[uid] for uid in sorted(first)]
    assert sorted(found["again"].tolist()) == again


def test_a_table_is_sorted_once_for_all_its_columns(images, known, tmp_path, monkeypatch):
    sorts, real = [], table_rows.sort_table
    monkeypatch.setattr(table_rows, "sort_table", lambda *args: sorts.append(1) or real(*args))
    path = write(tmp_path / "t" / "one.parquet", known)
    fused = Store(root=str(tmp_path / "store")).build(
        Fusion(weights={"other": 1.0, "score": 2.0}, norm="raw", table=str(path)).step(images.source), ONE
    )
    values, _ = made(images, path)
    with pytest.raises(ValueError, match="lower coverage"):
        made(images, path, coverage=0.9)
    assert made(images, path, coverage=0.7)[1]["coverage"] == 0.79
    assert np.array_equal(fused.of_part(1), 3 * values[60:], equal_nan=True)
    assert len(sorts) == 1


@pytest.mark.parametrize("harmed", ["before", "after"])
def test_a_damaged_part_is_counted_and_has_no_score(images, known, tmp_path, harmed):
    path, parquet = write(tmp_path / "t" / "one.csv", known), images.root / "pool" / "metadata" / "0001.parquet"
    source = CommonPool(root=str(images.root / "pool"), skip_corrupt=True).step()
    store, step = Store(root=str(tmp_path / "store")), ImportedScore(table=str(path), coverage=0.7).step(source)
    store.build(source, ONE)
    if harmed == "before":  # only the uids, which the score itself does not read
        broken_pages(parquet, "uid")
    else:
        store.build(step.steps["places"], ONE)
        parquet.write_bytes(parquet.read_bytes()[:-200])
    built = store.build(step, ONE)
    assert np.array_equal(built.of_part(0), [known.get(uid, np.nan) for uid in images.uids[:60]], equal_nan=True)
    assert built.is_damaged(1) and np.isnan(built.of_part(1)).all()
    assert built.summary["counts"]["corrupt"] == 40 and 0.7 < built.summary["coverage"] < 0.85


@pytest.mark.parametrize("looked_up", [False, True])
def test_a_table_that_changes_while_the_run_goes_on_is_refused(images, known, tmp_path, looked_up):
    path, store = write(tmp_path / "t" / "one.csv", known), Store(root=str(tmp_path / "store"))
    step = ImportedScore(table=str(path)).step(images.source)
    if looked_up:
        store.build(step.steps["places"], ONE)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"one.csv was changed while the run was going"):
        store.build(step if looked_up else step.steps["places"], ONE)


def test_an_import_stopped_at_any_file_goes_on_to_the_same_numbers(images, known, tmp_path, monkeypatch):
    for number in range(2):
        write(tmp_path / "folder" / f"{number}.npz", known)
    whole, summary = made(images, tmp_path / "folder")
    real, stops = Path.replace, 0
    for nth in itertools.count(0, 2):
        calls = itertools.count()

        def replace(self, target, nth=nth, calls=calls):
            if next(calls) >= nth:
                raise KeyboardInterrupt
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                made(images, tmp_path / "folder", store=f"stopped-{nth}")
                break
            except KeyboardInterrupt:
                stops += 1
        values, again = made(images, tmp_path / "folder", store=f"stopped-{nth}")
        assert np.array_equal(values, whole, equal_nan=True) and again == summary
    assert stops > 10
