"""Image-based filtering and ImageNet distance: upstream's rules on random pools, against plain loops."""

import json

import numpy as np
import pytest
import torch

from dcexp.artifacts.clusters import Clusters
from dcexp.artifacts.subset import SUBSET
from dcexp.assets import Assets
from dcexp.engines.local import Local
from dcexp.filters.captions import CaptionLength
from dcexp.filters.clip_score import ClipScoreFraction
from dcexp.filters.clusters import InClusters, PoolCentroids, TargetClusters
from dcexp.filters.imagenet import ImageNetDistance, TargetSimilarity
from dcexp.filters.intersection import Intersection
from dcexp.filters.language import Language
from dcexp.filters.sequence import Sequence
from dcexp.published import ASSETS, Asset, File, file_digest
from dcexp.store import Store
from tests.filters.captions import WEB
from tests.filters.images import Images, random_features
from tests.filters.test_captions import tokenized
from tests.filters.test_rows import file_of
from tests.pools import ONE, as_pairs

WIDTH, CLUSTERS = 16, 40


@pytest.fixture
def files(tmp_path):
    """Centroids as upstream saves them, and a target in two files."""
    rng = np.random.default_rng(5)
    centroids = rng.normal(size=(CLUSTERS, WIDTH)).astype(np.float32) * rng.uniform(0.8, 1.2, (CLUSTERS, 1)).astype(
        "f4"
    )
    torch.save(centroids, tmp_path / "centroids.pt", pickle_protocol=4)
    (tmp_path / "target").mkdir()
    target = np.concatenate(random_features(6, 9, 4))
    torch.save({"image_features": torch.tensor(target[:9])}, tmp_path / "target" / "in_0.pt")
    np.save(tmp_path / "target" / "in_1.npy", target[9:])
    return tmp_path, centroids, target


@pytest.fixture
def stage(files):
    return InClusters(centroids=str(files[0] / "centroids.pt"), target=str(files[0] / "target"))


def images(root, seed=0, sizes=(200, 1, 85), **columns):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    texts = [WEB[i] for i in rng.integers(0, len(WEB), total)]
    columns = {"text": texts, "clip_l14_similarity_score": rng.random(total).tolist(), **columns}
    return Images(root, random_features(seed, *sizes), **columns), columns


def nearest_by_hand(features, centroids):
    """The index of the highest inner product of each row, in plain Python."""
    return [
        max(range(len(centroids)), key=lambda c: (float(np.dot(f.astype(float), centroids[c].astype(float))), -c))
        for f in features
    ]


def upstreams(pool, texts, centroids, target):
    """Uids of upstream's image_based, row by row: language, words, characters, cluster."""
    import fasttext

    (path,) = Assets().files("lid_176_ftz")
    model = fasttext.load_model(str(path))
    wanted = set(nearest_by_hand(target, centroids))
    ids = nearest_by_hand(pool.features, centroids)
    kept = []
    for uid, text, cluster in zip(pool.uids, texts, ids, strict=True):
        english = model.predict(text.replace("\n", " "))[0][0] == "__label__en"
        if english and len(tokenized(text)) > 1 and len(text) > 5 and cluster in wanted:
            kept.append(uid)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_image_based_writes_upstreams_file(seed, files, stage, tmp_path):
    pool, columns = images(tmp_path, seed)
    parts = {
        "english": Language(model="lid.176.ftz"),
        "caption_length": CaptionLength(words=1, chars=5, split="fasttext"),
        "in_clusters": stage,
    }
    wanted = upstreams(pool, columns["text"], *files[1:])
    assert 10 < len(wanted) < len(pool.uids) / 2
    subset = pool.build(Intersection(of=parts))
    assert (subset.path / SUBSET).read_bytes() == file_of(as_pairs(wanted))
    both = pool.build(Intersection(of={"image_based": Intersection(of=parts), "clip_score": ClipScoreFraction()}))
    scores = columns["clip_l14_similarity_score"]
    threshold = sorted(scores, reverse=True)[int(len(scores) * 0.3)]
    good = {uid for uid, score in zip(pool.uids, scores, strict=True) if score >= threshold}
    assert (both.path / SUBSET).read_bytes() == file_of(as_pairs([uid for uid in wanted if uid in good]))


def test_workers_and_numbers_of_files_do_not_matter(files, stage, tmp_path):
    pool, _ = images(tmp_path, 1)
    one = pool.build(stage)
    two = pool.build(stage, engine=Local(workers=2), store="another")
    assert (one.path / SUBSET).read_bytes() == (two.path / SUBSET).read_bytes()
    assert one.path.name == two.path.name


def test_the_target_is_counted_by_cluster(files, stage, tmp_path):
    _, centroids, target = files
    steps = stage.extra(images(tmp_path)[0].source)
    clusters = Store(root=str(tmp_path / "store")).build(steps["clusters"], ONE)
    assert isinstance(clusters, Clusters)
    assert clusters.counts().tolist() == np.bincount(nearest_by_hand(target, centroids), minlength=CLUSTERS).tolist()
    assert clusters.summary["counts"]["kept"] == 13


def test_centroids_and_target_are_made_once_and_shared(files, stage, tmp_path):
    pool, _ = images(tmp_path)
    pool.build(stage)
    pool.build(Sequence(first=ClipScoreFraction(fraction=0.5), then=stage))
    made = [json.loads(p.read_text())["kind"] for p in (tmp_path / "store").glob("*/*/manifest.json")]
    assert (made.count("centroids"), made.count("clusters"), made.count("subset")) == (1, 1, 3)


def test_after_another_filter_only_its_survivors_are_kept(files, stage, tmp_path):
    pool, _ = images(tmp_path)
    first = ClipScoreFraction(fraction=0.5)
    assert set(pool.taken(Sequence(first=first, then=stage))) == set(pool.taken(first)) & set(pool.taken(stage))


def test_keys_know_contents_and_not_paths(files, tmp_path):
    root, pool = files[0], images(tmp_path)[0].source
    (root / "copy.pt").write_bytes((root / "centroids.pt").read_bytes())

    def key(**fields):
        return InClusters(**{"centroids": str(root / "centroids.pt"), "target": str(root / "target"), **fields}).step(
            pool
        )

    assert (key().key, key().name) == (
        key(centroids=str(root / "copy.pt")).key,
        key(centroids=str(root / "copy.pt")).name,
    )
    assert (
        len({key(**f).key for f in ({}, {"target": "imagenet_l14"}, {"centroids": "medium"}, {"feature": "b32_img"})})
        == 4
    )
    assert key().key == key(assets=Assets(cache="/elsewhere")).key
    assert "in_clusters-medium-imagenet_l14" in key(centroids="medium", target="imagenet_l14").name
    np.save(root / "target" / "in_1.npy", np.ones((1, WIDTH), np.float16))
    assert key().key != key(target="imagenet_l14").key


def test_published_files_are_used_by_their_names(files, stage, tmp_path, monkeypatch):
    root, *_ = files
    for name, folder, names in (
        ("centroids_small", root, ["centroids.pt"]),
        ("imagenet_l14", root / "target", ["in_0.pt", "in_1.npy"]),
    ):
        published = [File(url=f"https://example.org/{n}", sha256=file_digest(folder / n)) for n in names]
        monkeypatch.setitem(ASSETS, name, Asset(what=name, files=tuple(published)))
    assets = Assets(centroids_small=str(root / "centroids.pt"), imagenet_l14=str(root / "target"))
    pool, _ = images(tmp_path)
    assert pool.taken(InClusters(centroids="small", assets=assets)) == pool.taken(stage)


def test_missing_files_are_refused_before_any_work(files, tmp_path):
    centroids = PoolCentroids(centroids="tiny")
    with pytest.raises(FileNotFoundError, match=r"filter.centroids=tiny: no such file.*Wanted small, medium"):
        centroids.check(ONE, **centroids.step().values)
    target = TargetClusters(target=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"filter.target=.*none: no such file.*Wanted imagenet_l14"):
        target.check(ONE, **target.step(centroids.step()).values)
    score = TargetSimilarity(target=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"filter.target=.*none"):
        score.check(ONE)


def test_widths_that_differ_are_refused(files, stage, tmp_path):
    pool = Images(tmp_path, random_features(0, 10, width=8))
    with pytest.raises(ValueError, match=r"0000.npz: 'l14_img' is 8 wide, but the centroids are 16 wide"):
        pool.build(stage)
    with pytest.raises(ValueError, match=r"'l14_img' is 8 wide, but the target's features in .*in_0.pt are 16 wide"):
        pool.build(ImageNetDistance(target=str(tmp_path / "target")))
    np.save(tmp_path / "target" / "in_1.npy", np.ones((2, 5), np.float16))
    with pytest.raises(ValueError, match=r"in_1.npy is 5 wide, but the centroids are 16 wide"):
        pool.build(stage)


def test_empty_and_broken_targets_are_refused(files, stage, tmp_path):
    pool, _ = images(tmp_path)
    np.save(tmp_path / "target" / "in_1.npy", np.ones((0, WIDTH), np.float16))
    with pytest.raises(ValueError, match=r"in_1.npy: wanted features of shape.*got shape \(0, 16\)"):
        pool.build(stage)
    np.save(tmp_path / "target" / "in_1.npy", np.full((1, WIDTH), np.nan, np.float16))
    with pytest.raises(ValueError, match=r"in_1.npy: row 0 holds NaN"):
        pool.build(ImageNetDistance(target=str(tmp_path / "target")))


def test_a_pool_without_the_feature_is_refused(files, stage, tmp_path):
    pool, _ = images(tmp_path)
    own = {"centroids": stage.centroids, "target": stage.target, "feature": "b32_img"}
    with pytest.raises(ValueError, match=r"InClusters needs the feature 'b32_img'.*they all have: l14_img"):
        pool.build(InClusters(**own))


def test_features_that_changed_after_indexing_are_noticed(files, stage, tmp_path):
    pool, _ = images(tmp_path)
    Store(root=str(tmp_path / "store")).build(pool.source, ONE)
    np.savez(tmp_path / "pool" / "metadata" / "0000.npz", l14_img=pool.features[:50])
    with pytest.raises(ValueError, match=r"0000.npz: 'l14_img' has shape \(50, 16\).*one row for each of the 200"):
        pool.build(stage)


def test_rows_that_are_not_finite_are_in_no_cluster(files, stage, tmp_path):
    parts = random_features(0, 60, 1, 45)
    whole = Images(tmp_path / "whole", parts)
    kept = np.flatnonzero(whole.counts(stage))
    parts[0][kept[0], 3] = np.nan
    assert Images(tmp_path / "broken", parts).counts(stage)[kept].tolist() == [0] + [1] * (len(kept) - 1)


@pytest.mark.parametrize("fraction", [0.2, 0.3, 1.0])
def test_imagenet_distance_keeps_the_highest_cosines(fraction, files, tmp_path):
    target = files[2].astype(np.float64)
    pool, _ = images(tmp_path)
    a = pool.features.astype(np.float64)
    cosines = [max(float(x @ t / np.linalg.norm(x) / np.linalg.norm(t)) for t in target) for x in a]
    order = np.argsort(cosines)[::-1][: int(len(a) * fraction) + 1]  # upstream's rule keeps one more
    taken = pool.taken(ImageNetDistance(fraction=fraction, target=str(tmp_path / "target")))
    assert taken == sorted(pool.uids[i] for i in order)


def test_distances_are_made_once_for_all_fractions_and_missing_for_broken_rows(files, tmp_path):
    parts = random_features(0, 60, 1, 45)
    parts[2][4] = np.inf
    pool = Images(tmp_path, parts)
    for fraction in (0.2, 0.4, 1.0):
        subset = pool.build(ImageNetDistance(fraction=fraction, target=str(tmp_path / "target")))
    assert subset.summary["counts"] == {"total": 106, "kept": 105, "dropped": 0, "missing": 1, "corrupt": 0}
    assert len(list((tmp_path / "store" / "scores").glob("*/manifest.json"))) == 1


def test_a_target_that_changes_while_the_run_is_going_is_refused(files, tmp_path):
    pool, _ = images(tmp_path)
    step = ImageNetDistance(target=str(tmp_path / "target")).step(pool.source)
    np.save(tmp_path / "target" / "in_1.npy", np.ones((1, WIDTH), np.float16))
    with pytest.raises(ValueError, match="was changed while the run was going"):
        Store(root=str(tmp_path / "store")).build(step, ONE)
