"""Density-based pruning, against the published definitions and a general solver; and the least prototypical images."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dcexp.filters.assignment import FarFromCentre
from dcexp.filters.clustering import KMeans
from dcexp.filters.density import DensityPruning, shared_out, softmax, to_neighbours
from dcexp.filters.random import RandomFraction
from dcexp.filters.sequence import Sequence
from dcexp.store import Store
from tests.filters.images import Images, random_features
from tests.pools import ONE

KMEANS = KMeans(clusters=6, iterations=10)
SIZES = (120, 0, 1, 79)


def bounds(sizes, wanted, balance):
    """At least a part of an equal share, or one row where there is no balance, and at most what there is."""
    least = int(wanted / len(sizes) * balance) if balance else 1
    return [(max(min(least, size - 1), 0), size) for size in sizes]


def solved(shares, sizes, wanted, balance):
    """The quadratic program, by a general solver: min x'x / 2 - (P N)'x where x adds up to N, within the bounds."""
    limits = np.array(bounds(sizes, wanted, balance)) / wanted
    low, room = limits[:, 0], limits[:, 1] - limits[:, 0]
    found = minimize(
        lambda x: x @ x / 2 - shares @ x, low + room * (1 - low.sum()) / room.sum(), jac=lambda x: x - shares,
        method="SLSQP", bounds=limits, options={"maxiter": 1000, "ftol": 1e-12},
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(len(x))},
    )  # fmt: skip
    assert found.success, found.message
    return wanted * found.x


def enumerated(shares, sizes, wanted, balance):
    """The same by trying which of the bounds hold: the best of all points where the rest are moved by one number."""
    aim, limits, points = np.asarray(shares) * wanted, bounds(sizes, wanted, balance), []
    for sides in product((0, 1, None), repeat=len(sizes)):
        x = np.array([limit[side] if side is not None else np.nan for limit, side in zip(limits, sides, strict=True)])
        free = np.isnan(x)
        if free.any():
            x[free] = aim[free] + (wanted - np.nansum(x) - aim[free].sum()) / free.sum()
        inside = all(low - 1e-9 <= v <= high + 1e-9 for v, (low, high) in zip(x, limits, strict=True))
        if inside and abs(x.sum() - wanted) < 1e-6:
            points.append(x)
    return min(points, key=lambda x: x @ x / 2 - aim @ x)


@settings(max_examples=150, deadline=None)
@given(
    clusters=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12)), min_size=1, max_size=5),
    part=st.floats(0, 1),
    balance=st.sampled_from([0, 0.1, 0.5, 1]),
)
def test_sizes_are_those_of_the_quadratic_program(clusters, part, balance):
    weights, sizes = (np.array(column) for column in zip(*clusters, strict=True))
    shares, wanted = weights / weights.sum(), int(part * sizes.sum())
    found = shared_out(shares, sizes, wanted, balance)
    if not balance and wanted < sum(low for low, _ in bounds(sizes, wanted, 0)):
        assert found.tolist() == [low for low, _ in bounds(sizes, wanted, 0)]  # fewer rows are wanted than one of each
        return
    if wanted == sizes.sum():
        assert found.tolist() == sizes.tolist()
        return
    assert found == pytest.approx(enumerated(shares, sizes, wanted, balance), abs=0.5 + 1e-6)
    assert all(low <= x <= high for x, (low, high) in zip(found, bounds(sizes, wanted, balance), strict=True))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_general_solver_finds_the_same_of_many_clusters(seed, balance):
    rng = np.random.default_rng(seed)
    sizes, shares = rng.integers(0, 400, 40), rng.dirichlet(np.full(40, 0.5))
    for wanted in (300, 4000, int(sizes.sum()) - 5):
        exact = solved(shares, sizes, wanted, balance)
        found = shared_out(shares, sizes, wanted, balance)
        clear = abs(exact % 1 - 0.5) > 1e-3
        assert clear.mean() > 0.8 and (found[clear] == np.rint(exact[clear])).all()
        assert abs(found.sum() - wanted) <= 20
    assert shared_out(shares, sizes, int(sizes.sum()) + 1, balance).tolist() == sizes.tolist()


def test_halves_are_rounded_to_even_numbers_as_by_the_authors():
    assert shared_out(np.array([0.25, 0.75]), np.array([9, 9]), 2, 0.1).tolist() == [0, 2]
    assert shared_out(np.array([0.5, 0.5]), np.array([9, 9]), 3, 0.1).tolist() == [2, 2]


@pytest.mark.parametrize("clusters, neighbours", [(30, 20), (30, 1), (30, 29), (10, 20), (2, 20), (1100, 3)])
def test_neighbours_are_the_nearest_other_centres_by_cosine(clusters, neighbours):
    (centres,) = random_features(clusters, clusters, width=5, dtype=np.float32)
    centres *= np.random.default_rng(0).uniform(0.5, 2, (clusters, 1)).astype(np.float32)
    x = centres.astype(np.float64) / np.linalg.norm(centres.astype(np.float64), axis=1, keepdims=True)
    expected = []
    for i in range(clusters):
        others = sorted(np.delete(1 - x @ x[i], i))[:neighbours]
        expected.append(sum(others) / len(others))
    assert to_neighbours(centres, neighbours) == pytest.approx(expected, abs=1e-9)


def test_one_centre_has_no_neighbours():
    assert np.isnan(to_neighbours(np.ones((1, 3), np.float32), 20)).tolist() == [True]


def test_softmax_and_what_no_cluster_has():
    values = np.array([0.1, np.nan, 900.0, 899.0])
    filled = [0.1, (0.1 + 900 + 899) / 3, 900.0, 899.0]
    powers = [np.exp(v - 900) for v in filled]
    assert softmax(values) == pytest.approx([p / sum(powers) for p in powers], abs=1e-12)
    assert softmax(np.array([np.nan, np.nan])).tolist() == [0.5, 0.5]


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def uneven(seed, *sizes):
    """Rows around some directions, close around some and far around others."""
    rng = np.random.default_rng(seed)
    (directions,) = random_features(seed, 6, dtype=np.float64)
    own = rng.integers(0, 6, sum(sizes))
    rows = directions[own] + 0.08 * (own + 1)[:, None] * rng.normal(size=(len(own), 16))
    return np.split(rows.astype(np.float16), np.cumsum(sizes)[:-1])


def measured(images, clustering):
    """The centres in the store, the cluster of every row, and its distance from the centre."""
    made = Store(root=str(images.root / "store")).build(clustering.step(images.source), ONE).rows()
    rows, centres = images.features.astype(np.float64), made.astype(np.float64)
    if clustering.spherical:
        clusters = (unit(rows) @ unit(centres).T).argmax(axis=1)
    else:
        clusters = np.array([np.linalg.norm(centres - row, axis=1).argmin() for row in rows])
    return centres, clusters, (1 - (unit(rows) * unit(centres[clusters])).sum(axis=1)).round(9)


def pruned(images, clustering, wanted, temperature, balance, neighbours, easy=False):
    """What the published method keeps, step by step."""
    centres, clusters, distances = measured(images, clustering)
    count = len(centres)
    sizes = [int((clusters == c).sum()) for c in range(count)]
    intra = [distances[clusters == c].mean() for c in range(count)]
    x = unit(centres)
    inter = [np.mean(sorted(1 - x[c] @ x[o] for o in range(count) if o != c)[:neighbours]) for c in range(count)]
    powers = np.exp([a * b / temperature for a, b in zip(intra, inter, strict=True)])
    exact = solved(powers / powers.sum(), sizes, wanted, balance)
    assert (abs(exact % 1 - 0.5) > 1e-4).all()
    kept = np.zeros(len(clusters), int)
    for c in range(count):
        members = np.flatnonzero(clusters == c)
        order = sorted(members, key=lambda i: (distances[i] if easy else -distances[i], images.uids[i]))
        kept[order[: int(np.rint(exact[c]))]] = 1
    return kept


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"fraction": 0.4, "temperature": 0.05},
        {"fraction": 0.2, "temperature": 0.02, "balance": 0.0, "neighbours": 2},
        {"fraction": 0.5, "temperature": 0.05, "balance": 1.0, "keep": "easy"},
        {"fraction": 0.3, "temperature": 0.05, "clustering": KMeans(clusters=6, iterations=10, spherical=False)},
    ],
)
def test_each_cluster_gives_its_share_of_hard_ones(how, tmp_path):
    pool, stage = Images(tmp_path, uneven(1, *SIZES)), DensityPruning(**{"clustering": KMEANS, **how})
    wanted = int(200 * stage.fraction)
    expected = pruned(
        pool, stage.clustering, wanted, stage.temperature, stage.balance, stage.neighbours, easy=stage.keep == "easy"
    )
    assert pool.counts(stage).tolist() == expected.tolist() and abs(expected.sum() - wanted) <= 3
    clusters = measured(pool, stage.clustering)[1]
    given = [expected[clusters == c].mean() for c in range(6)]
    assert max(given) > min(given) + 0.1
    facts = pool.build(stage).summary
    assert facts["wanted"] == wanted and facts["whole_clusters"] == sum(share == 1 for share in given)


def test_random_ones_are_drawn_by_seed(tmp_path):
    pool = Images(tmp_path, uneven(1, *SIZES))
    hard, zero, one = (
        pool.counts(DensityPruning(fraction=0.4, temperature=0.05, clustering=KMEANS, **how))
        for how in ({}, {"keep": "random"}, {"keep": "random", "seed": 1})
    )
    clusters = measured(pool, KMEANS)[1]
    sizes = [[int(kept[clusters == c].sum()) for c in range(6)] for kept in (hard, zero, one)]
    assert sizes[0] == sizes[1] == sizes[2] and len({hard.tobytes(), zero.tobytes(), one.tobytes()}) == 3


@pytest.mark.parametrize("of, wanted", [("pool", 80), ("input", 40)])
def test_after_another_filter_the_fraction_is_of_what_is_said(of, wanted, tmp_path):
    pool = Images(tmp_path, uneven(2, *SIZES))
    first = RandomFraction(fraction=0.5)
    left = np.flatnonzero(pool.counts(first))
    alone = Images(tmp_path / "left", [pool.features[left]], named=[pool.uids[i] for i in left])
    then = DensityPruning(fraction=0.4, temperature=0.05, clustering=KMEANS)
    subset = pool.build(Sequence(first=first, then=then, fraction_of=of))
    expected = pruned(alone, KMEANS, wanted, 0.05, 0.5, 20)
    kept = pool.counts(Sequence(first=first, then=then, fraction_of=of))
    assert kept[left].tolist() == expected.tolist() and kept.sum() == expected.sum()
    counts = subset.summary["counts"]
    assert (counts["missing"], counts["dropped"]) == (0, 200 - kept.sum()) and subset.summary["wanted"] == wanted
    assert sorted(subset.summary["funnel"].values()) == sorted([100, 100 - kept.sum()])


def test_more_places_than_rows_are_told(tmp_path, caplog):
    pool = Images(tmp_path, uneven(2, *SIZES))
    first = RandomFraction(fraction=0.3)
    assert (pool.counts(Sequence(first=first, then=DensityPruning(clustering=KMEANS))) == pool.counts(first)).all()
    assert "there are only 60 candidates for 160 places; all stay" in caplog.text


def test_empty_clusters_one_cluster_and_all_rows(tmp_path):
    same = Images(tmp_path / "same", [np.repeat(random_features(0, 2)[0], 20, axis=0)])
    assert same.build(DensityPruning(fraction=0.5, clustering=KMeans(clusters=4))).summary["taken"] == 20
    pool = Images(tmp_path / "one", uneven(3, *SIZES))
    only = pool.counts(DensityPruning(fraction=0.5, clustering=KMeans(clusters=1)))
    _, _, far = measured(pool, KMeans(clusters=1))
    assert set(np.flatnonzero(only)) == set(np.argsort(-far)[:100])
    assert pool.counts(DensityPruning(fraction=1.0, clustering=KMEANS)).tolist() == [1] * 200


def test_rows_without_a_direction_are_missing_and_count_in_the_fraction(tmp_path):
    parts = uneven(4, *SIZES)
    parts[0][3], parts[0][4, 2], parts[3][5] = np.nan, np.inf, 0
    pool = Images(tmp_path, parts)
    subset = pool.build(DensityPruning(fraction=0.5, clustering=KMEANS))
    assert subset.summary["counts"]["missing"] == 3 and subset.summary["wanted"] == 100
    assert abs(subset.summary["taken"] - 100) <= 3
    assert pool.counts(DensityPruning(fraction=1.0, clustering=KMEANS)).sum() == 197


@pytest.mark.parametrize(
    "field, value",
    [
        ("fraction", 0.0),
        ("fraction", 1.1),
        ("temperature", 0.0),
        ("balance", -0.1),
        ("balance", 1.1),
        ("neighbours", 0),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"filter\.{field}={value}.*: wanted"):
        DensityPruning(**{field: value}, clustering=KMEANS)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("ties, skip", [("include", 0.0), ("exact", 0.0), ("exact", 0.1)])
def test_the_least_prototypical_are_the_furthest_from_their_centres(spherical, ties, skip, tmp_path):
    clustering = KMeans(clusters=6, iterations=10, spherical=spherical)
    pool = Images(tmp_path, uneven(5, *SIZES))
    _, _, far = measured(pool, clustering)
    order = np.argsort(-far)
    kept = pool.counts(FarFromCentre(fraction=0.3, skip=skip, ties=ties, clustering=clustering))
    assert set(np.flatnonzero(kept)) == set(order[int(200 * skip) : 61 if ties == "include" else 60])
