"""The verb ``score``: features equal open_clip's own, what is missing is counted, and every feature filter runs."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from dcexp.artifacts.base import Counts
from dcexp.embedded.samples import samples as digits
from dcexp.embedded.shards import write_shards
from dcexp.engines.local import Local
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.clusters import InClusters
from dcexp.filters.imagenet import ImageNetDistance
from dcexp.model import load_model, tokenizer
from dcexp.reshard.copy import Copy
from dcexp.scoring import shard
from dcexp.scoring.request import Request, score
from dcexp.sources.commonpool import CommonPool
from dcexp.sources.webdataset import WebDataset
from dcexp.store import Store
from tests.cli import dcexp
from tests.pools import ONE, hex_uids, sample, write_tar
from tests.tasks.sets import KINDS, MODEL, checkpoint, encoded, picture

UIDS = hex_uids(70)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint").weights


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint", seed=1).weights


def pictures(count, seed=0):
    """Samples with images of every kind, and captions of every length."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        mode, extension = KINDS[i % len(KINDS)]
        rest = sample(UIDS[i], text="a picture of " * (i % 9), original_width=i)
        del rest["jpg"]
        made.append({extension: encoded(picture(rng, mode), extension), **rest})
    return made


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Two tars: more than a piece in the first, in which samples have uids; none have in the second."""
    root = tmp_path_factory.mktemp("tars")
    write_tar(root / "a.tar", pictures(70))
    write_tar(root / "b.tar", [{k: v for k, v in one.items() if k != "json"} for one in pictures(9, seed=1)])
    return root


def request(weights, tars, out, **fields):
    fields = {"feature": "l14", "engine": ONE, **fields}
    return Request(checkpoint=str(weights), model=MODEL, shards=str(tars), out=str(out), **fields)


def arrays(out, stem):
    with np.load(out / "metadata" / f"{stem}.npz") as npz:
        return dict(npz)


def table(out, stem):
    return pq.read_table(out / "metadata" / f"{stem}.parquet")


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


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


@pytest.mark.parametrize("first", ["", "l14"])
def test_a_scoring_that_is_stopped_at_any_write_ends_in_the_same_bytes(
    first, scored, weights, other_weights, tars, tmp_path, monkeypatch
):
    """Also where another model had given the same features: half of the one and half of the other is not believed."""
    out, _ = scored
    if first:
        score(request(other_weights, tars, tmp_path))
    writes = {"done": 0, "stop": 0}

    def stopping(function):
        def write(*args, **options):
            writes["done"] += 1
            if writes["done"] == writes["stop"]:
                raise KeyboardInterrupt
            return function(*args, **options)

        return write

    for name in ("whole_file", "write_json"):
        monkeypatch.setattr(shard, name, stopping(getattr(shard, name)))
    for stop in range(1, 5):
        writes.update(done=0, stop=stop)
        with pytest.raises(KeyboardInterrupt):
            score(request(weights, tars, tmp_path))
        (tmp_path / "metadata").mkdir(exist_ok=True)
        (tmp_path / "metadata" / "a.npz.1.tmp").touch()
    monkeypatch.undo()
    score(request(weights, tars, tmp_path))
    assert contents(tmp_path) == contents(out)


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


def test_what_is_missing_or_broken_is_counted_and_has_no_score(weights, tmp_path):
    good = pictures(1)[0]
    captionless, pictureless = ({k: v for k, v in good.items() if k != name} for name in ("txt", "jpg"))
    content = [
        good,
        captionless,
        pictureless,
        {**good, "jpg": b"\xff\xd8 no picture"},
        {**good, "jpg": good["jpg"][: len(good["jpg"]) // 2]},
        {**good, "json": b"{broken"},
        {**good, "txt": b"\xff"},
        {**captionless, "json": json.dumps({"caption": "from the json"}).encode()},
    ]
    write_tar(tmp_path / "tars" / "a.tar", content)
    whole = write_tar(tmp_path / "tars" / "b.tar", [good, good]).read_bytes()
    (tmp_path / "tars" / "b.tar").write_bytes(whole[: len(whole) // 3])
    write_tar(tmp_path / "tars" / "c.tar", [])
    summary = score(request(weights, tmp_path / "tars", tmp_path / "out"))
    found, columns = arrays(tmp_path / "out", "a"), table(tmp_path / "out", "a")
    pictured, captioned = (np.isfinite(found[f"l14_{tower}"]).all(axis=1).tolist() for tower in ("img", "txt"))
    assert pictured == [True, True, False, False, False, True]
    assert captioned == [True, False, True, True, True, True]
    scores = columns["clip_l14_similarity_score"].to_pylist()
    assert [value is None for value in scores] == [False, True, True, True, True, False]
    in_b = len(arrays(tmp_path / "out", "b")["l14_img"])
    assert summary.counts == Counts(total=9 + in_b, kept=2 + in_b, missing=2, corrupt=5) and summary.counts.add_up
    assert summary.facts == {"tars": 3, "damaged": 1}
    assert arrays(tmp_path / "out", "c")["l14_txt"].shape == (0, 64)


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
    write_tar(tmp_path / "a.tar", pictures(1))
    write_tar(tmp_path / "c.tar", pictures(1))
    with pytest.raises(ValueError, match=r"1 of the 2 tars in .* have no metadata .*1 files there are of other tars"):
        WebDataset(root=str(tmp_path), scored=str(out)).check(ONE)


def test_mistakes_are_said(scored, weights, tars, tmp_path):
    out, _ = scored
    with pytest.raises(ValueError, match="feature='a-b': wanted letters"):
        request(weights, tars, tmp_path, feature="a-b")
    with pytest.raises(ValueError, match="batch=0: wanted 1 or more"):
        request(weights, tars, tmp_path, batch=0)
    with pytest.raises(FileNotFoundError, match=r"no \.tar files directly in"):
        score(request(weights, tmp_path, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="no such file, and no pretrained tag"):
        score(request(tmp_path / "none.pt", tars, tmp_path / "out"))
    write_tar(tmp_path / "tars" / "z.tar", [{"txt": b"no picture"}])
    with pytest.raises(ValueError, match=r"holds 2 files that are of other tars \(a.parquet, b.parquet\)"):
        score(request(weights, tmp_path / "tars", out))
    with pytest.raises(ValueError, match=r"none of the 1 samples in .* could be scored: 1 in = 0 kept \+ 1 missing"):
        score(request(weights, tmp_path / "tars", tmp_path / "out"))


def test_a_checkpoint_of_another_architecture_or_with_nan_is_said(weights, tars, tmp_path):
    state = torch.load(weights, weights_only=True)
    cut = {name: value[:-1] if name == "visual.proj" else value for name, value in state["state_dict"].items()}
    torch.save({"state_dict": cut}, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"cut\.pt is not a checkpoint of ViT-tiny-8: .*size mismatch"):
        score(request(tmp_path / "cut.pt", tars, tmp_path / "out"))
    state["state_dict"]["text_projection"][:] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"nan\.pt \(ViT-tiny-8\): its features of texts are not finite numbers"):
        score(request(tmp_path / "nan.pt", tars, tmp_path / "out"))
    assert not list(Path(tmp_path / "out").glob("metadata/*"))


def test_the_verb_says_how_the_outcome_becomes_a_pool(weights, tars, tmp_path, monkeypatch, capsys):
    words = f"score checkpoint={weights} model={MODEL} shards={tars} out={tmp_path}/out feature=b32 engine.workers=1"
    outcome = dcexp(monkeypatch, capsys, words)
    assert outcome.code == 0, outcome.err
    assert "score: 79 in = 79 kept" in outcome.out and f"source.root={tars} source.scored={tmp_path}/out" in outcome.out
