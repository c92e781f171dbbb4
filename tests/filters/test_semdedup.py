"""SemDedup, against the published rule as a double loop; and what the rule is not."""

from types import SimpleNamespace

import numpy as np
import pytest

from dcexp.artifacts.scores import Assigned
from dcexp.artifacts.subset import SUBSET
from dcexp.engines.local import Local
from dcexp.filters import semdedup
from dcexp.filters.assignment import CentreDistance, FarFromCentre
from dcexp.filters.clustering import KMeans
from dcexp.filters.random import RandomFraction
from dcexp.filters.semdedup import SemanticDistance, SemDedup, to_earlier
from dcexp.filters.sequence import Sequence
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.pools import ONE

KMEANS = KMeans(clusters=5, iterations=10)
SIZES = (80, 0, 1, 69)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def crowded(seed, *sizes, groups=25, apart=0.25):
    """Images of which many are like others: some directions, and how far each row is off its own differs."""
    rng = np.random.default_rng(seed)
    (directions,) = random_features(seed, groups, dtype=np.float64)
    rows = directions[rng.integers(0, groups, sum(sizes))]
    rows = rows + apart * rng.random((len(rows), 1)) * rng.normal(size=rows.shape)
    return np.split(rows.astype(np.float16), np.cumsum(sizes)[:-1])


def built(images, step):
    return Store(root=str(images.root / "store")).build(step, ONE)


def centred(images, clustering):
    """The cluster of every row and its distance from the centre, by the centres in the store."""
    centres = unit(built(images, clustering.step(images.source)).rows())
    cosines = unit(images.features) @ centres.T
    return cosines.argmax(axis=1), np.array([1 - row.max() for row in cosines]).round(9)


def distances(images, clustering, keep):
    """1 - the highest cosine of every row with one before it in its cluster, by comparing all pairs."""
    clusters, from_centre = centred(images, clustering)
    x, found = unit(images.features), []
    sign = {"hard": -1, "easy": 1}[keep]
    place = [(sign * from_centre[i], images.uids[i]) for i in range(len(x))]
    for j in range(len(x)):
        before = [i for i in range(len(x)) if clusters[i] == clusters[j] and place[i] < place[j]]
        found.append(min((1 - x[i] @ x[j] for i in before), default=np.inf))
    return np.array(found)


@pytest.fixture(params=["large", "little"])
def blocks(request, monkeypatch):
    """Blocks and ranges smaller than a cluster, too."""
    if request.param == "little":
        monkeypatch.setitem(semdedup.BLOCKS, "cpu", (9, 7, 0))
        monkeypatch.setattr(SemanticDistance, "together", 10)


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_near_one_before_it_in_its_cluster_goes(seed, keep, blocks, tmp_path):
    pool = Images(tmp_path, crowded(seed, *SIZES))
    expected = distances(pool, KMEANS, keep)
    scores = built(pool, SemanticDistance(clustering=KMEANS, keep=keep).step(pool.source))
    found = np.concatenate([scores.of_part(number) for number in range(len(SIZES))])
    assert found == pytest.approx(expected, abs=1e-6) and np.isinf(found).sum() == 5
    for epsilon in (0.05, 0.3, 0.6):
        assert not ((abs(expected - epsilon) < 1e-5) & np.isfinite(expected)).any()
        kept = pool.counts(SemDedup(epsilon=epsilon, keep=keep, clustering=KMEANS))
        assert kept.tolist() == (expected >= epsilon).tolist() and 5 < kept.sum() < 150
    assert len(list((tmp_path / "store" / "scores").glob("semantic_distance*/manifest.json"))) == 1


def directions(*degrees):
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d)), *[0] * 6] for d in degrees])


def chain(root, towards):
    """a, b, c at 0, 20 and 40 degrees, and rows unlike each other that draw the only centre to ``towards`` degrees."""
    others = 0.9 * np.repeat(directions(towards), 6, axis=0) + 0.6 * np.eye(8)[2:]
    rows = np.concatenate([directions(0, 20, 40), others])
    return Images(root, [rows.astype(np.float32)])


def of_chain(pool, **how):
    """Which of a, b and c stay where images are alike up to 0.1, of 26 degrees."""
    kept = pool.counts(SemDedup(epsilon=0.1, clustering=KMeans(clusters=1), **how))
    assert kept[3:].all()
    return "".join(name for name, taken in zip("abc", kept, strict=False) if taken)


def survivors_only(order):
    """The other rule: only rows that stay drop others."""
    alike, stay = {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}, []
    for row in order:
        if not any((row, other) in alike for other in stay):
            stay.append(row)
    return "".join(sorted(stay))


def test_of_a_chain_the_order_decides_what_stays(tmp_path):
    """Neither one image for each group of connected ones, nor a rule by which only those that stay drop others."""
    below, middle = chain(tmp_path / "below", -40), chain(tmp_path / "middle", 20)
    assert [of_chain(below, keep=keep) for keep in ("hard", "easy")] == ["c", "a"]
    assert [survivors_only(order) for order in ("cba", "abc")] == ["ac", "ac"]
    assert [of_chain(middle, keep=keep) for keep in ("hard", "easy")] == ["ac", "b"], "all three are connected"
    random = [of_chain(below, keep="random", seed=seed) for seed in range(12)]
    assert set(random) == {"a", "b", "c", "ac"}
    assert random[0] == of_chain(chain(tmp_path / "again", -40), keep="random", seed=0)


def test_of_the_same_images_the_one_with_the_lowest_uid_stays(tmp_path):
    (features,) = random_features(3, 30)
    pool = Images(tmp_path, [np.concatenate([features, features[:20]]), features[:10]])
    for keep in ("hard", "easy"):
        kept = pool.counts(SemDedup(epsilon=1e-4, keep=keep, clustering=KMEANS)) > 0
        copies = [[i, *([i + 30] if i < 20 else []), *([i + 50] if i < 10 else [])] for i in range(30)]
        assert sorted(np.flatnonzero(kept)) == sorted(min(same, key=lambda i: pool.uids[i]) for same in copies)


def test_a_pool_of_one_image_keeps_it_once(tmp_path):
    pool = Images(tmp_path, [np.repeat(random_features(0, 1)[0], 40, axis=0)])
    kept = pool.counts(SemDedup(clustering=KMeans(clusters=3)))
    assert kept.sum() == 1 and pool.uids[int(kept.argmax())] == min(pool.uids)


def test_rows_without_a_direction_are_missing(tmp_path):
    parts = crowded(4, *SIZES)
    parts[0][3], parts[0][4, 2], parts[3][5] = np.nan, np.inf, 0
    pool = Images(tmp_path, parts)
    subset = pool.build(SemDedup(epsilon=0.3, clustering=KMEANS))
    counts = subset.summary["counts"]
    assert counts["missing"] == 3 and counts["dropped"] > 20
    assert pool.counts(SemDedup(epsilon=0.3, clustering=KMEANS))[[3, 4, 86]].tolist() == [0, 0, 0]


def test_workers_and_the_names_of_files_do_not_change_the_outcome(tmp_path):
    parts, stage = crowded(5, *SIZES), SemDedup(epsilon=0.3, clustering=KMEANS)
    pool = Images(tmp_path, parts)
    one, two = pool.build(stage), pool.build(stage, engine=Local(workers=2), store="two")
    names = iter(np.split(np.array(pool.uids), np.cumsum(SIZES)[:-1]))
    turned = sorted(zip((3, 1, 0, 2), parts, names, strict=True), key=lambda part: part[0])
    other = Images(tmp_path / "turned", [p for _, p, _ in turned], named=[u for *_, own in turned for u in own])
    made = [(subset.path / SUBSET).read_bytes() for subset in (one, two, other.build(stage))]
    assert made[0] == made[1] == made[2]
    assert one.summary["counts"]["dropped"] > 20


def test_what_comes_after_semdedup_is_clustered_anew(tmp_path):
    """D4: prototypes of the clusters of what SemDeDup has left."""
    pool = Images(tmp_path, crowded(6, *SIZES))
    first = SemDedup(epsilon=0.3, clustering=KMEANS)
    then = FarFromCentre(fraction=0.5, ties="exact", clustering=KMeans(clusters=3))
    left = np.flatnonzero(pool.counts(first))
    alone = Images(tmp_path / "left", [pool.features[left]], named=[pool.uids[i] for i in left])
    found = pool.taken(Sequence(first=first, then=then, fraction_of="input"))
    assert found == alone.taken(then) and len(found) == len(left) // 2
    _, far = centred(alone, KMeans(clusters=3))
    assert set(found) == {alone.uids[i] for i in np.argsort(-far)[: len(left) // 2]}
    assert len(list((tmp_path / "store" / "centroids").glob("*/manifest.json"))) == 2


def test_a_cluster_that_does_not_fit_into_memory_is_refused_before_the_work(tmp_path, monkeypatch):
    pool = Images(tmp_path, crowded(7, 150))
    sizes = built(pool, CentreDistance(clustering=KMEANS).step(pool.source)).summary
    bytes_of = 2 * 4 * 16 * sizes["largest"]  # float32, twice
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=bytes_of - 1))
    with pytest.raises(
        ValueError, match=rf"the largest of the clusters has {sizes['largest']} rows.*clustering\.clusters="
    ):
        SemanticDistance(clustering=KMEANS).run(
            tmp_path, ONE, pool=built(pool, pool.source), assigned=assigned(pool), centroids=None
        )
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=bytes_of))
    assert pool.counts(SemDedup(clustering=KMEANS)).any()


def assigned(pool):
    made = built(pool, CentreDistance(clustering=KMEANS).step(pool.source))
    assert isinstance(made, Assigned)
    return made


def test_large_clusters_are_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(semdedup, "LARGE", 10)
    Images(tmp_path, crowded(7, 150)).counts(SemDedup(clustering=KMEANS))
    assert "more clusters are faster: filter.clustering.clusters=" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_any_floating_type(dtype):
    rows = np.concatenate(random_features(8, 20)).astype(dtype)
    x = unit(rows)
    expected = [min((1 - x[i] @ x[j] for i in range(j)), default=np.inf) for j in range(20)]
    assert to_earlier(rows) == pytest.approx(expected, abs=1e-6) and to_earlier(rows[:1]).tolist() == [np.inf]


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 2.0])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"filter\.epsilon=.*wanted a cosine distance, above 0 and below 2"):
        SemDedup(epsilon=epsilon, clustering=KMEANS)


def test_clusters_and_order_are_in_the_key_and_epsilon_is_not_in_that_of_the_distances(tmp_path):
    source = Images(tmp_path, random_features(0, 2)).source
    stages = [
        {},
        {"keep": "easy"},
        {"keep": "random"},
        {"keep": "random", "seed": 1},
        {"clustering": KMeans(clusters=6)},
        {"clustering": KMeans(clusters=5, iterations=10, feature="b32_img")},
    ]
    steps = [SemDedup(**{"clustering": KMEANS, **fields}).step(source) for fields in stages]
    within = SemDedup(clustering=KMEANS).step(source, RandomFraction(fraction=0.5).step(source))
    assert (
        len({step.key for step in [*steps, within]})
        == len({step.steps["scores"].key for step in [*steps, within]})
        == 7
    )
    other = SemDedup(epsilon=0.2, clustering=KMEANS).step(source)
    assert other.key != steps[0].key and other.steps["scores"].key == steps[0].steps["scores"].key
