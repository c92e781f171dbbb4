"""The embedded digits: the same bytes every time, CommonPool's layout, and dirt that the scores see but do not know."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from PIL import Image
from pyarrow import parquet

from dcexp.embedded.dirt import drafts
from dcexp.embedded.encoder import B32, L14, fitted, thumbnails
from dcexp.embedded.pool import write_pool
from dcexp.embedded.scans import CLASS_NAMES, scans
from dcexp.embedded.testset import write_testset

SIZE, SEED, SHARD_SIZE = 1000, 5, 150
ENCODERS = {"b32": B32, "l14": L14}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    write_pool(out, size=SIZE, seed=SEED, shard_size=SHARD_SIZE)
    return out


@pytest.fixture(scope="module")
def testset(tmp_path_factory):
    out = tmp_path_factory.mktemp("evalset")
    write_testset(out)
    return out


@pytest.fixture(scope="module")
def rows(pool):
    """The metadata, and the features of both encoders, of all parts."""
    parts = sorted((pool / "metadata").glob("*.parquet"))
    features = [np.load(part.with_suffix(".npz"), allow_pickle=False) for part in parts]
    table = pa.concat_tables([parquet.read_table(part) for part in parts])
    return table, {name: np.concatenate([part[name] for part in features]) for name in features[0].files}


@pytest.fixture(scope="module")
def stored(pool):
    """The samples in the shards, in order."""
    tars = [str(tar) for tar in sorted((pool / "shards").glob("*.tar"))]
    return list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_another_process_with_one_thread_writes_the_same_bytes(tmp_path, pool, testset):
    program = (
        "import sys, pathlib\n"
        "from dcexp.embedded.pool import write_pool\n"
        "from dcexp.embedded.testset import write_testset\n"
        "out = pathlib.Path(sys.argv[1])\n"
        f"write_pool(out / 'pool', size={SIZE}, seed={SEED}, shard_size={SHARD_SIZE})\n"
        "write_testset(out / 'testset')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
    assert contents(tmp_path / "pool") == contents(pool)
    assert contents(tmp_path / "testset") == contents(testset)


def test_leftovers_of_an_interrupted_attempt_leave_no_trace(tmp_path, pool):
    write_pool(tmp_path, size=SIZE, seed=SEED + 1, shard_size=SHARD_SIZE // 2)
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:100])
    for name in ("metadata/0.parquet.partial", "metadata/0.npz", "shards/00000099.tar", "shards/00000001.tar.partial"):
        (tmp_path / name).write_bytes(b"half")
    write_pool(tmp_path, size=SIZE, seed=SEED, shard_size=SHARD_SIZE)
    assert contents(tmp_path) == contents(pool)


def test_half_a_test_set_is_completed(tmp_path, testset):
    write_testset(tmp_path)
    (tmp_path / "test" / "0.tar").write_bytes(b"half")
    (tmp_path / "test" / "1.tar").write_bytes(b"stray")
    (tmp_path / "classnames.txt").write_text("zero\n")
    write_testset(tmp_path)
    assert contents(tmp_path) == contents(testset)


def test_another_seed_is_another_pool(tmp_path, rows):
    write_pool(tmp_path, size=50, seed=SEED + 1)
    other = pa.concat_tables([parquet.read_table(path) for path in (tmp_path / "metadata").glob("*.parquet")])
    for column in ("uid", "url", "sha256"):
        assert not set(other[column].to_pylist()) & set(rows[0][column].to_pylist())


@pytest.mark.parametrize("wrong", [{"size": 0}, {"seed": -1}, {"shard_size": 0}, {"shard_size": 10_001}])
def test_impossible_pools_are_refused(tmp_path, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        write_pool(tmp_path, **{"size": 10, "seed": 0, "shard_size": 5, **wrong})
    assert not list(tmp_path.iterdir())


def test_one_sample_is_a_pool_too(tmp_path):
    write_pool(tmp_path, size=1, seed=0)
    assert len(list((tmp_path / "metadata").glob("*.parquet"))) == 1


def test_the_splits_are_fixed_and_share_no_scan():
    ids = {name: scans(name).ids for name in ("clean", "test", "pool")}
    assert {name: len(split) for name, split in ids.items()} == {"clean": 300, "test": 450, "pool": 1047}
    assert sorted(np.concatenate(list(ids.values()))) == list(range(1797))
    assert hashlib.sha256(ids["test"].tobytes()).hexdigest()[:12] == "693e096bb82c"
    for name in ids:
        assert set(scans(name).digits) == set(range(10))


def test_columns_are_commonpools(rows):
    table, _ = rows
    assert {field.name: str(field.type) for field in table.schema} == {
        "uid": "string",
        "url": "string",
        "text": "string",
        "original_width": "int64",
        "original_height": "int64",
        "clip_b32_similarity_score": "float",
        "clip_l14_similarity_score": "float",
        "face_bboxes": "list<element: list<element: double>>",
        "sha256": "string",
    }
    uids = table["uid"].to_pylist()
    assert len(set(uids)) == SIZE
    assert all(re.fullmatch("[0-9a-f]{32}", uid) for uid in uids)
    assert all(url.startswith("https://digits.example/") for url in table["url"].to_pylist())
    assert not any(table["face_bboxes"].to_pylist())


def test_each_part_has_its_features_row_by_row(pool):
    parts = sorted((pool / "metadata").glob("*.parquet"))
    assert len(parts) > 1
    assert sorted((pool / "metadata").iterdir()) == sorted([*parts, *(p.with_suffix(".npz") for p in parts)])
    for part in parts:
        assert re.fullmatch("[0-9a-f]{32}", part.stem)
        members = zipfile.ZipFile(part.with_suffix(".npz")).namelist()
        assert members == ["b32_img.npy", "b32_txt.npy", "l14_img.npy", "l14_txt.npy"]
        count = parquet.read_metadata(part).num_rows
        arrays = np.load(part.with_suffix(".npz"), allow_pickle=False)
        assert {name: arrays[name].shape for name in arrays.files} == {
            **{"b32_img": (count, 32), "b32_txt": (count, 32)},
            **{"l14_img": (count, 64), "l14_txt": (count, 64)},
        }


def test_scores_are_cosines_of_unit_features(rows):
    table, features = rows
    assert {array.dtype for array in features.values()} == {np.dtype(np.float16)}
    for name in ENCODERS:
        image, text = features[f"{name}_img"].astype(np.float64), features[f"{name}_txt"].astype(np.float64)
        assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=2e-3)
        assert np.allclose(np.linalg.norm(text, axis=1), 1, atol=2e-3)
        score = table[f"clip_{name}_similarity_score"].to_numpy()
        assert np.allclose(score, (image * text).sum(1), atol=2e-3)
        assert score.std() > 0.03


def test_features_come_from_the_stored_pixels_and_text_alone(rows, stored):
    table, features = rows
    row_of = {uid: row for row, uid in enumerate(table["uid"].to_pylist())}
    chosen = [row_of[json.loads(sample["json"])["uid"]] for sample in stored]
    for name, design in ENCODERS.items():
        encoder = fitted(design)
        images = encoder.images(thumbnails([sample["jpg"] for sample in stored]))
        texts = encoder.texts([sample["txt"].decode() for sample in stored])
        assert np.abs(features[f"{name}_img"][chosen] - images).max() < 1e-3
        assert np.abs(features[f"{name}_txt"][chosen] - texts).max() < 1e-3


def test_scores_tell_matching_captions_and_l14_better(rows):
    table, _ = rows
    names = [{CLASS_NAMES[digit], str(digit)} for digit in truth(table["url"].to_pylist())]
    words = [set(re.findall(r"\w+", text.lower())) for text in table["text"].to_pylist()]
    matching = np.array([bool(mine & said) for mine, said in zip(names, words, strict=True)])
    assert 0.4 < matching.mean() < 0.6
    order = {name: ranking(table[f"clip_{name}_similarity_score"].to_numpy(), matching) for name in ENCODERS}
    assert order["l14"] > 0.93
    assert 0.85 < order["b32"] < order["l14"] - 0.02


def truth(urls: list[str]) -> list[int]:
    """The digit in each picture, which nothing in the pool says; a url ends in the sample's number."""
    pool, made = scans("pool"), drafts(scans("pool"), size=SIZE, seed=SEED)
    return [int(pool.digits[made[int(Path(url).stem)].scan]) for url in urls]


def ranking(score: np.ndarray, matching: np.ndarray) -> float:
    """The share of (matching, other) pairs with the matching one scored higher: the area under the ROC curve."""
    return float((score[matching][:, None] > score[~matching]).mean())


def test_shards_are_img2datasets(pool, rows, stored):
    table, _ = rows
    row_of = {row["uid"]: row for row in table.drop_columns(["face_bboxes"]).to_pylist()}
    tars = sorted((pool / "shards").glob("*.tar"))
    assert [tar.name for tar in tars] == [f"{number:08d}.tar" for number in range(7)]
    for sample in stored:
        record = json.loads(sample["json"])
        row, key = row_of[record["uid"]], sample["__key__"]
        assert {name for name in sample if not name.startswith("_")} == {"jpg", "json", "txt"}
        assert record["key"] == key and re.fullmatch(r"\d{12}", key) and key[:8] == Path(sample["__url__"]).stem
        assert record["status"] == "success" and record["exif"] == "{}"
        assert sample["txt"].decode() == record["caption"] == row["text"]
        assert record["sha256"] == row["sha256"] == hashlib.sha256(sample["jpg"]).hexdigest()
        assert record["url"] == row["url"]
        assert (record["original_width"], record["original_height"]) == (row["original_width"], row["original_height"])
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (record["width"], record["height"]))
            image.load()


def test_dead_links_are_in_the_metadata_only(pool, rows, stored):
    everything, alive = set(rows[0]["uid"].to_pylist()), [json.loads(sample["json"])["uid"] for sample in stored]
    assert len(alive) == len(set(alive))
    assert set(alive) < everything
    assert 0.01 <= 1 - len(alive) / SIZE <= 0.02
    stats = [json.loads(path.read_text()) for path in sorted((pool / "shards").glob("*_stats.json"))]
    assert len(stats) == 7
    assert [s["count"] for s in stats] == [150] * 6 + [100]
    in_tar = Counter(Path(sample["__url__"]).stem for sample in stored)
    assert [s["successes"] for s in stats] == [in_tar[f"{number:08d}"] for number in range(7)]
    for s in stats:
        assert s["failed_to_download"] == s["count"] - s["successes"] == sum(s["status_dict"].values()) - s["successes"]
        assert s["failed_to_resize"] == s["duration"] == 0
        assert s["status_dict"]["success"] == s["successes"]


def test_shards_and_metadata_differ_in_order(pool, stored):
    in_shards = [json.loads(sample["json"])["uid"] for sample in stored]
    place = {uid: number for number, uid in enumerate(in_shards)}
    for part in (pool / "metadata").glob("*.parquet"):
        uids = parquet.read_table(part)["uid"].to_pylist()
        places = [place[uid] for uid in uids if uid in place]
        assert places != sorted(places)


def test_the_dirt_of_the_web_is_there(rows):
    table, _ = rows
    texts = table["text"].to_pylist()
    widths, heights = table["original_width"].to_numpy(), table["original_height"].to_numpy()
    captions_of: dict[str, set[str]] = {}
    for sha256, text in zip(table["sha256"].to_pylist(), texts, strict=True):
        captions_of.setdefault(sha256, set()).add(text)
    assert 0.02 < 1 - len(captions_of) / SIZE < 0.08
    assert max(map(len, captions_of.values())) > 1
    assert 0.01 < np.mean(np.maximum(widths, heights) / np.minimum(widths, heights) > 3) < 0.06
    assert 0.1 < np.mean(np.minimum(widths, heights) < 200) < 0.4
    assert any("écrit" in text for text in texts) and any("手写" in text for text in texts)
    assert any(text.strip() == "" for text in texts) and any(text.startswith("IMG_") for text in texts)


def test_the_test_set_is_a_webdataset_evaluation_set(testset):
    assert sorted(contents(testset)) == [
        "classnames.txt",
        "test/0.tar",
        "test/nshards.txt",
        "zeroshot_classification_templates.txt",
    ]
    assert (testset / "test" / "nshards.txt").read_text().strip() == "1"
    assert (testset / "classnames.txt").read_text().splitlines() == list(CLASS_NAMES)
    templates = (testset / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert templates and all("{c}" in template for template in templates)
    samples = list(webdataset.WebDataset(str(testset / "test" / "0.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"s{number:07d}" for number in range(900)]
    digits = Counter(int(sample["cls"]) for sample in samples)
    assert digits == Counter({digit: 2 * count for digit, count in Counter(scans("test").digits.tolist()).items()})
    for sample in samples:
        with Image.open(io.BytesIO(sample["png"])) as image:
            assert image.format == "PNG" and image.mode == "RGB" and min(image.size) >= 28
    assert len({sample["png"] for sample in samples}) == 900
