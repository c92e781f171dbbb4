"""The verb ``score``: features equal open_clip's own, what is missing is counted, and every feature filter runs."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from dcexp.artifacts.base import Counts
from dcexp.artifacts.tar import TarReader
from dcexp.embedded.samples import samples as digits
from dcexp.embedded.shards import write_shards
from dcexp.engines.local import Local
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.clusters import InClusters
from dcexp.filters.imagenet import ImageNetDistance
from dcexp.model import load_model, tokenizer
from dcexp.reshard.copy import Copy
from dcexp.scoring import files, shard
from dcexp.scoring.encoder import Encoder
from dcexp.scoring.request import score
from dcexp.scoring.samples import Raw, Reading
from dcexp.sources.commonpool import CommonPool
from dcexp.sources.webdataset import WebDataset
from dcexp.store import Store
from tests.cli import dcexp
from tests.pools import ONE, write_tar
from tests.scoring.scored import UIDS, arrays, contents, pictures, request, table
from tests.tasks.sets import MODEL


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Two tars: more than a piece in the first, in which samples have uids; none have in the second."""
    root = tmp_path_factory.mktemp("tars")
    write_tar(root / "a.tar", pictures(70))
    write_tar(root / "b.tar", [{k: v for k, v in one.items() if k != "json"} for one in pictures(9, seed=1)])
    return root


@pytest.fixture(scope="module")
def scored(weights, tars, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    return out, score(request(weights, tars, out))


def test_features_are_those_of_open_clip_given_one_sample_after_the_other_by_its_loader(scored, weights, tars):
    out, _ = scored
    (model, transform), tokenize = load_model(weights, MODEL), tokenizer(MODEL)
    for tar in ("a", "b"):
        loader = webdataset.WebDataset(str(tars / f"{tar}.tar"), shardshuffle=False).decode("pilrgb")
        wanted = {"l14_img": [], "l14_txt": []}
        for one in loader:
            image = next(one[suffix] for suffix in ("jpg", "png", "jpeg", "webp") if suffix in one)
            with torch.no_grad():
                wanted["l14_img"].append(model.encode_image(transform(image)[None], normalize=True)[0].numpy())
                wanted["l14_txt"].append(model.encode_text(tokenize(one["txt"]), normalize=True)[0].numpy())
        found = arrays(out, tar)
        assert found.keys() == wanted.keys()
        for name, rows in wanted.items():
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], np.array(rows), rtol=2**-11, atol=2e-6)
        cosines = (np.float64(wanted["l14_img"]) * wanted["l14_txt"]).sum(axis=1)
        column = table(out, tar)["clip_l14_similarity_score"]
        assert column.type == pa.float32()
        np.testing.assert_allclose(column.to_numpy(), cosines, atol=1e-6)


def test_rows_are_those_of_the_source_and_every_sample_is_kept(scored, tars, tmp_path):
    out, summary = scored
    assert summary.counts == Counts(total=79, kept=79)
    WebDataset(root=str(tars)).run(tmp_path, ONE)
    for tar in ("a", "b"):
        plain = pq.read_table(tmp_path / "metadata" / f"{tar}.parquet")
        assert table(out, tar).select(plain.column_names) == plain


def test_two_workers_give_the_bytes_of_one_and_nothing_is_done_twice(scored, weights, tars, tmp_path, monkeypatch):
    out, summary = scored
    again = score(request(weights, tars, tmp_path, engine=Local(workers=2)))
    assert again == summary and contents(tmp_path) == contents(out)
    monkeypatch.setattr(shard, "Encoder", None)
    shard._encoder.cache_clear()
    assert score(request(weights, tars, tmp_path)) == summary


def test_a_second_model_adds_its_features_in_whatever_order(scored, weights, other_weights, tars, tmp_path):
    out, _ = scored
    score(request(other_weights, tars, tmp_path / "one", feature="dfn"))
    score(request(weights, tars, tmp_path / "one"))
    score(request(weights, tars, tmp_path / "two"))
    score(request(other_weights, tars, tmp_path / "two", feature="dfn"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    both, alone = arrays(tmp_path / "one", "a"), arrays(out, "a")
    assert list(both) == ["dfn_img", "dfn_txt", "l14_img", "l14_txt"]
    assert all((both[name] == alone[name]).all() for name in alone) and (both["dfn_img"] != alone["l14_img"]).any()
    assert table(tmp_path / "one", "a").column_names[-2:] == [
        f"clip_{name}_similarity_score" for name in ("dfn", "l14")
    ]


@pytest.mark.parametrize("first", ["", "dfn"])
def test_a_scoring_that_is_stopped_at_any_write_ends_in_the_same_bytes(
    first, weights, other_weights, tars, tmp_path, monkeypatch
):
    """Also where another model has given other features: those stay whenever it is stopped."""
    for out in (tmp_path / "whole", tmp_path / "stopped"):
        if first:
            score(request(other_weights, tars, out, feature=first))
    score(request(weights, tars, tmp_path / "whole"))
    writes = {"done": 0, "stop": 0}

    def stopping(function):
        def write(*args, **options):
            writes["done"] += 1
            if writes["done"] == writes["stop"]:
                raise KeyboardInterrupt
            return function(*args, **options)

        return write

    for name in ("whole_file", "write_json"):
        monkeypatch.setattr(files, name, stopping(getattr(files, name)))
    for stop in range(1, 5):
        writes.update(done=0, stop=stop)
        with pytest.raises(KeyboardInterrupt):
            score(request(weights, tars, tmp_path / "stopped"))
        (tmp_path / "stopped/metadata").mkdir(exist_ok=True)
        (tmp_path / "stopped/metadata/a.npz.1.tmp").touch()
    monkeypatch.undo()
    score(request(weights, tars, tmp_path / "stopped"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_tar_that_has_changed_is_scored_anew_without_the_others(weights, tars, tmp_path):
    root, out = tmp_path / "tars", tmp_path / "out"
    write_tar(root / "a.tar", pictures(3))
    write_tar(root / "b.tar", pictures(2))
    score(request(weights, root, out))
    before = {stem: (out / "metadata" / f"{stem}.npz").stat().st_mtime_ns for stem in ("a", "b")}
    write_tar(root / "a.tar", pictures(4))
    assert score(request(weights, root, out)).counts.kept == 6
    after = {stem: (out / "metadata" / f"{stem}.npz").stat().st_mtime_ns for stem in ("a", "b")}
    assert len(arrays(out, "a")["l14_img"]) == 4 and after["b"] == before["b"] and after["a"] != before["a"]


@pytest.mark.parametrize("by", ["key", "uid"])
def test_columns_of_img2datasets_report_are_kept(by, weights, tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", pictures(3))
    report = {
        "uid": [UIDS[2], "f" * 32, UIDS[0], UIDS[1]],
        "key": ["000000002", "000000009", "000000000", "000000001"],
        "url": ["c", "x", "a", None],
        "status": ["success", "failed_to_download", "success", "success"],
        "original_width": [7, 7, 7, 7],
        "original_height": [32, 39, 30, 31],
        "face_bboxes": [[[0.5]], None, [], None],
    }
    if by == "uid":
        del report["key"]
    pq.write_table(pa.table(report), tmp_path / "tars" / "a.parquet")
    score(request(weights, tmp_path / "tars", tmp_path / "out"))
    rows = table(tmp_path / "out", "a").to_pydict()
    assert rows["uid"] == UIDS[:3] and rows["url"] == ["a", None, "c"] and rows["face_bboxes"] == [[], None, [[0.5]]]
    assert rows["original_width"] == [0, 1, 2], "what the sample's json says comes first"
    assert rows["original_height"] == [30, 31, 32] and rows["status"] == ["success"] * 3
    score(request(weights, f"file://{tmp_path}/tars", tmp_path / "by URL"))
    assert table(tmp_path / "by URL", "a").to_pydict() == rows
    (tmp_path / "tars" / "a.parquet").write_bytes(b"no parquet")
    score(request(weights, tmp_path / "tars", tmp_path / "plain"))
    assert table(tmp_path / "plain", "a")["uid"].to_pylist() == UIDS[:3]


def selected(store, source, filter_):
    pool = source.step()
    return store.build(filter_.step(pool), ONE).summary["counts"]


def test_filters_by_score_and_by_features_run_on_scored_digits(weights, tmp_path):
    everything = digits(size=60, seed=0)
    write_shards(tmp_path / "shards", everything, frozenset(s.uid for s in everything[:4]), shard_size=25)
    score(request(weights, tmp_path / "shards", tmp_path / "mine"))
    features = np.concatenate([arrays(tmp_path / "mine", f"{i:08d}")["l14_img"] for i in range(3)]).astype(np.float32)
    np.save(tmp_path / "target.npy", features[:5])
    np.save(tmp_path / "centroids.npy", features[::7])
    target, centroids = str(tmp_path / "target.npy"), str(tmp_path / "centroids.npy")
    store = Store(root=str(tmp_path / "store"))
    web = WebDataset(root=str(tmp_path / "shards"), scored=str(tmp_path / "mine"))
    common = CommonPool(root=str(tmp_path / "mine"), shards=str(tmp_path / "shards"))
    for source in (web, common):
        assert selected(store, source, ClipScoreFraction(fraction=0.5))["kept"] >= 28
        assert selected(store, source, ImageNetDistance(fraction=0.5, target=target))["kept"] >= 28
        assert 5 <= selected(store, source, InClusters(centroids=centroids, target=target))["kept"] < 56
    pool = web.step()
    shards = store.build(Copy().step(pool, ClipScoreFraction(fraction=0.5).step(pool)), ONE)
    assert shards.summary["counts"]["missing"] == 0 and shards.summary["counts"]["kept"] >= 28


def test_scored_metadata_of_other_tars_are_refused(scored, tars, tmp_path):
    out, _ = scored
    plain, with_scores = WebDataset(root=str(tars)), WebDataset(root=str(tars), scored=str(out))
    assert plain.step().key != with_scores.step().key and with_scores.label == plain.label
    shutil.copy(tars / "a.tar", tmp_path)
    write_tar(tmp_path / "c.tar", pictures(1))
    said = r"1 of the 2 tars are not scored there as they are now \(c\), and 1 files with metadata are of other tars"
    with pytest.raises(ValueError, match=said):
        WebDataset(root=str(tmp_path), scored=str(out)).check(ONE)


def test_a_tar_that_has_changed_or_was_not_finished_is_no_pool(weights, tars, tmp_path, monkeypatch):
    root, out = tmp_path / "tars", tmp_path / "out"
    shutil.copytree(tars, root)
    source = WebDataset(root=str(root), scored=str(out))
    score(request(weights, root, out))
    source.check(ONE)
    write_tar(root / "b.tar", pictures(3))
    with pytest.raises(ValueError, match=r"1 of the 2 tars are not scored there as they are now \(b\), and 0 files"):
        source.check(ONE)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(files.Files, "write", lambda *_: 1 / 0)
        score(request(weights, root, out))
    with pytest.raises(ValueError, match=r"1 of the 2 tars are not scored there as they are now \(b\), and 0 files"):
        source.check(ONE)
    score(request(weights, root, out))
    source.check(ONE)


def test_pieces_that_go_through_the_model_together_give_what_each_gives(weights, tars):
    """As on a GPU, where ``batch`` samples are several pieces."""
    encoder, found = Encoder(weights, MODEL, half=False, batch=256), []
    for pieces in (0, 3):
        encoder._pieces = pieces
        with TarReader(str(tars / "a.tar")) as reader:
            some = [[Raw(None, None), Raw(b"no picture", ""), *piece] for piece in Reading(reader, "a.tar").pieces(9)]
        found.append([np.concatenate(columns) for columns in zip(*encoder.features(some, threads=2), strict=True)])
    for alone, together in zip(*found, strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(found[0][0]) == 70 + 2 * 8 and found[1][2].sum() == 8


def test_the_verb_says_how_the_outcome_becomes_a_pool(weights, tars, tmp_path, monkeypatch, capsys):
    words = f"score checkpoint={weights} model={MODEL} shards={tars} out={tmp_path}/out feature=b32 engine.workers=1"
    outcome = dcexp(monkeypatch, capsys, words)
    assert outcome.code == 0, outcome.err
    assert "score: 79 in = 79 kept" in outcome.out and f"source.root={tars} source.scored={tmp_path}/out" in outcome.out
