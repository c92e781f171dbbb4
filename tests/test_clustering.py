"""The verb ``cluster`` and what every row's cluster is: against numpy; and that filters use what it has made."""

import re

import numpy as np
import pytest

from dcexp.artifacts.pool import Pool
from dcexp.artifacts.scores import Assigned
from dcexp.artifacts.subset import Subset
from dcexp.artifacts.uid import format_uids
from dcexp.engines.local import Local
from dcexp.filters.assignment import CentreDistance
from dcexp.filters.clustering import KMeans
from dcexp.store import Store
from tests.cli import dcexp
from tests.filters.images import Images, random_features
from tests.pools import ONE

SIZES = (40, 0, 1, 29)
POOL = "source.size=600 engine.workers=1"
RUN = f"{POOL} until=subset tracker=none"


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def assigned_by_hand(features, centres, spherical):
    """The cluster of each row and 1 - its cosine with the centre, by all pairs."""
    clusters = []
    for row in features.astype(np.float64):
        if spherical:
            nearness = [row @ centre / np.linalg.norm(centre) for centre in centres.astype(np.float64)]
        else:
            nearness = [-np.linalg.norm(row - centre) for centre in centres.astype(np.float64)]
        clusters.append(int(np.argmax(nearness)))
    return np.array(clusters), 1 - (unit(features) * unit(centres[clusters])).sum(axis=1)


def assigned(images, stage, store="store", engine=ONE):
    step, built = CentreDistance(clustering=stage).step(images.source), Store(root=str(images.root / store))
    made = built.build(step, engine)
    assert isinstance(made, Assigned)
    return made, built.find(step.steps["centroids"]).rows()


def whole(made, parts):
    return (np.concatenate([of(number) for number in range(parts)]) for of in (made.clusters, made.of_part))


@pytest.mark.parametrize("library", ["torch", "faiss"])
@pytest.mark.parametrize("spherical", [True, False])
def test_rows_are_in_the_cluster_of_their_nearest_centre(spherical, library, tmp_path):
    lengths = np.random.default_rng(0).uniform(0.3, 3, (70, 1))
    parts = np.split((np.concatenate(random_features(1, 70)) * lengths).astype(np.float16), np.cumsum(SIZES)[:-1])
    parts[0][3], parts[0][4, 2], parts[3][5] = np.nan, np.inf, 0
    pool = Images(tmp_path, parts)
    made, centres = assigned(pool, KMeans(clusters=6, iterations=10, spherical=spherical, library=library))
    clusters, distances = whole(made, len(SIZES))
    here = np.delete(np.arange(70), [3, 4, 46])
    expected, far = assigned_by_hand(pool.features[here], centres, spherical)
    assert clusters[here].tolist() == expected.tolist() and distances[here] == pytest.approx(far, abs=1e-9)
    assert clusters[[3, 4, 46]].tolist() == [-1] * 3 and np.isnan(distances[[3, 4, 46]]).all()
    sizes, facts = np.bincount(expected, minlength=6), made.summary
    assert (facts["largest"], facts["median"], facts["empty"]) == (
        sizes.max(),
        int(np.median(sizes)),
        (sizes == 0).sum(),
    )
    assert facts["counts"] == {"total": 70, "kept": 67, "dropped": 0, "missing": 3, "corrupt": 0}
    cosines = assigned_by_hand(pool.features[here], centres, True)[0]
    assert (cosines.tolist() != expected.tolist()) is not spherical


def test_workers_do_not_change_the_clusters(tmp_path):
    pool = Images(tmp_path, random_features(2, *SIZES))
    one, two = (
        assigned(pool, KMeans(clusters=6), store=str(n), engine=Local(workers=n))[0].manifest["files"] for n in (1, 2)
    )
    assert one == two and len(one) == 2 * len(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all that follows is made: the pool only once."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture
def said(folder, monkeypatch, capsys):
    """What a command line says."""

    def say(words, code=0):
        monkeypatch.chdir(folder)
        outcome = dcexp(monkeypatch, capsys, words)
        assert outcome.code == code, outcome.err
        return outcome.out if code == 0 else outcome.err

    return say


def printed(folder, text):
    """The counts that the verb prints, the centroids' file and the folder of what rows are assigned to."""
    counts = re.match(
        r"(\d+) clusters of (\d+) rows: the largest has (\d+), the median (\d+), (\d+) are empty\n", text
    ).groups()
    paths = re.search(r"image_based: (\S+)\n.*centres: (\S+)\n", text).groups()
    return [int(count) for count in counts], *(folder / path for path in paths)


def digits(folder):
    """The pool's uids and features."""
    (path,) = (folder / "outputs/store/pool").glob("*/index.json")
    parts = Pool(path.parent).parts
    return np.concatenate([part.uids() for part in parts]), np.concatenate([part.features("l14_img") for part in parts])


def made(folder, kind):
    return {
        path.parent.name: path.stat().st_mtime_ns for path in (folder / "outputs/store" / kind).glob("*/manifest.json")
    }


@pytest.mark.parametrize("library", ["torch", "faiss"])
def test_the_verb_says_what_is_where(library, folder, said):
    counts, centroids, rows = printed(
        folder, said(f"cluster {POOL} clustering.clusters=7 clustering.library={library}")
    )
    _, features = digits(folder)
    centres = np.load(centroids)
    expected, far = assigned_by_hand(features, centres, True)
    sizes = np.bincount(expected, minlength=7)
    assert centres.shape == (7, 64) and counts == [7, 600, sizes.max(), int(np.median(sizes)), (sizes == 0).sum()]
    found = Assigned(rows)
    parts = len(list(rows.glob("*.clusters.npy")))
    clusters, distances = whole(found, parts)
    assert clusters.tolist() == expected.tolist() and distances == pytest.approx(far, abs=1e-9)


def test_semdedup_uses_what_the_verb_has_made_and_the_verb_makes_nothing_twice(folder, said):
    said(f"cluster {POOL} clustering.clusters=7")
    before = {kind: made(folder, kind) for kind in ("pool", "centroids", "scores")}
    said(f"{RUN} filter=semdedup filter.clustering.clusters=7")
    said(f"{RUN} filter=density_clip filter.clustering.clusters=7")
    said(f"{RUN} filter=far_from_centre filter.clustering.clusters=7")
    said(f"cluster {POOL} clustering.clusters=7")
    after = {kind: made(folder, kind) for kind in before}
    assert after["pool"] == before["pool"] and after["centroids"] == before["centroids"]
    assert before["scores"].items() <= after["scores"].items()
    assert sorted(re.sub("-.*", "", name) for name in after["scores"].keys() - before["scores"].keys()) == [
        "cluster_place",
        "semantic_distance",
    ]


def test_the_clusters_of_what_a_filter_keeps_are_those_that_come_after_it(folder, said):
    counts, _, _ = printed(folder, said(f"cluster {POOL} filter=clip_score clustering.clusters=5"))
    assert counts[:2] == [5, 181]
    before = made(folder, "centroids"), made(folder, "scores")
    then = "+filter@filter.first=clip_score +filter@filter.then=semdedup filter.then.clustering.clusters=5"
    said(f"{RUN} filter=sequence {then}")
    assert made(folder, "centroids") == before[0] and len(made(folder, "scores")) == len(before[1]) + 1


def test_the_centroids_are_those_that_image_based_takes(folder, said):
    _, centroids, _ = printed(folder, said(f"cluster {POOL} clustering.clusters=7"))
    uids, features = digits(folder)
    target = features[[5, 50, 500]] + np.float16(0.01)
    np.save(folder / "target.npy", target)
    own, wanted = (assigned_by_hand(rows, np.load(centroids), True)[0] for rows in (features, target))
    said(f"{RUN} filter=in_clusters filter.centroids={centroids} filter.target={folder}/target.npy")
    words = f"filter.of.in_clusters.centroids={centroids} filter.of.in_clusters.target={folder}/target.npy"
    said(f"{RUN} filter=image_based assets.language_model=lid.176.ftz {words}")
    (in_clusters,), (image_based,) = (
        [
            Subset(folder / "outputs/store/subset" / name).uids()
            for name in made(folder, "subset")
            if name.startswith(kind)
        ]
        for kind in ("in_clusters", "image_based")
    )
    kept = format_uids(uids[np.isin(own, wanted)])
    assert format_uids(in_clusters) == sorted(kept) and 0 < len(kept) < 600
    assert set(format_uids(image_based)) < set(kept)


@pytest.mark.parametrize(
    "words, answer",
    [
        ("clustering.clusters=0", "clusters=0: wanted 1 or more, or auto"),
        ("clustering.clusters=601", "601 clusters are to be found in 600 rows that have 'l14_img'"),
        ("clustering.feature=mine", "KMeans needs the feature 'mine', which not every metadata file"),
        ("clustering.library=sklearn", "library"),
        ("clustering.cluster=3", "did you mean 'clustering.clusters'?"),
        ("filter=clip_score filter.fraction=2", "filter.fraction=2"),
    ],
)
def test_mistakes_are_said(words, answer, said):
    assert answer in said(f"cluster {POOL} {words}", code=1)
