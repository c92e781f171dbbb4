"""Every experiment of conf/ composes; those that are compositions of filters keep what their papers say."""

import numpy as np
import pytest

from dcexp.artifacts.uid import format_uid
from dcexp.cli import CONF
from dcexp.engines.local import Local
from dcexp.pipeline import plan
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.parity.test_baselines import RandomPool
from tests.test_conf import composed

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
LISTS = ["filter.of.dfn.path={root}/dfn.txt", "filter.of.hype.score.table={root}/hype.csv"]
TARGET = "filter.then.target={root}/target.npy"
CLUSTERS = ["filter.first.clustering.clusters=4", "filter.first.epsilon=0.4"]
THEN_CLUSTERS = "filter.then.clustering.clusters=3"
WORDS = {
    "neg_clip_loss_norm_sim": [TARGET],
    "union_of_the_best": [*LISTS, "filter.of.ours.then.target={root}/target.npy"],
    "semdedup_clip_score": CLUSTERS,
    "semdedup_density_clip": [*CLUSTERS, THEN_CLUSTERS],
    "d4": [*CLUSTERS, THEN_CLUSTERS],
    "sieve": ["filter.score.table={root}/sieve.csv"],
}
L14 = "clip_l14_similarity_score"


class Experiments:
    """A random pool, and what experiments keep of it."""

    def __init__(self, root):
        self.root, self.pool = root, RandomPool(root, 5)
        self.rows = {row["uid"].lower(): row for row in self.pool.rows}
        self.uids = list(self.rows)
        (root / "dfn.txt").write_text("\n".join(self.uids[:9]))
        for name, column in (("hype", "score"), ("sieve", "sieve")):
            lines = [f"{uid},{number * 7 % 31 - 3}" for number, uid in enumerate(self.uids)]
            (root / f"{name}.csv").write_text("\n".join([f"uid,{column}", *lines]))

    def run(self, *words):
        words = [word.format(root=self.root) for word in words]
        return composed(*words, "assets.language_model=lid.176.ftz", f"store.root={self.root}/store")

    def kept(self, stage):
        step = stage.step(CommonPool(root=str(self.root / "pool")).step())
        return {format_uid(uid) for uid in Store(root=str(self.root / "store")).build(step, Local(workers=1)).uids()}

    def top(self, score, count):
        """The ``count`` highest, and all that equal the next (the official rule)."""
        least = sorted(score.values(), reverse=True)[count]
        return {uid for uid, value in score.items() if value >= least}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("experiments"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes(experiments, name):
    assert plan(experiments.run(f"experiment={name}", *WORDS.get(name, [])))["subset"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_cites_what_was_published_and_says_how_it_is_started(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# ")
    if name not in ("baselines", "filters", "fractions", "clip_bands"):
        assert "python -m dcexp " in text and f"experiment={name}" in text


@pytest.mark.parametrize("second", ["norm_sim", "norm_sim_d"])
def test_both_fractions_are_of_the_pool(experiments, second):
    name = f"neg_clip_loss_{second}"
    filter_ = experiments.run(f"experiment={name}", *WORDS.get(name, [])).filter
    first, kept, total = experiments.kept(filter_.first), experiments.kept(filter_), len(experiments.pool.rows)
    assert kept < first and len(first) in (int(0.3 * total), int(0.3 * total) + 1)
    assert len(kept) in (int(0.2 * total), int(0.2 * total) + 1)


def test_the_union_takes_each_uid_of_any_list_once(experiments):
    filter_ = experiments.run("experiment=union_of_the_best", *WORDS["union_of_the_best"]).filter
    ours = experiments.kept(filter_.of["ours"])
    hype = {uid: number * 7 % 31 - 3 for number, uid in enumerate(experiments.uids)}
    wanted = ours | set(experiments.uids[:9]) | experiments.top(hype, int(0.2 * len(experiments.pool.rows)))
    assert experiments.kept(filter_) == wanted > ours


def test_semdedup_comes_before_the_score(experiments):
    filter_ = experiments.run("experiment=semdedup_clip_score", *WORDS["semdedup_clip_score"]).filter
    left = experiments.kept(filter_.first)
    assert 0 < len(left) < len(experiments.uids)
    scores = {uid: experiments.rows[uid][L14] for uid in left}
    assert experiments.kept(filter_) == experiments.top(scores, int(0.3 * len(experiments.pool.rows)))


def test_exact_duplicates_go_before_the_score(experiments):
    filter_ = experiments.run("experiment=exact_duplicates_clip_score").filter
    best = {}
    for uid in sorted(experiments.uids):
        row = experiments.rows[uid]
        if row["sha256"] not in best or row[L14] > experiments.rows[best[row["sha256"]]][L14]:
            best[row["sha256"]] = uid
    assert experiments.kept(filter_.first) == set(best.values())
    scores = {uid: experiments.rows[uid][L14] for uid in best.values()}
    total = int(0.3 * len(experiments.pool.rows))
    assert experiments.kept(filter_) == (experiments.top(scores, total) if total < len(scores) else set(scores))


@pytest.mark.parametrize("name, fraction", [("semdedup_density_clip", 0.8), ("d4", 0.75)])
def test_a_fraction_after_semdedup_is_one_of_what_is_left(experiments, name, fraction):
    filter_ = experiments.run(f"experiment={name}", *WORDS[name]).filter
    left, kept = experiments.kept(filter_.first), experiments.kept(filter_)
    assert kept < left and abs(len(kept) - fraction * len(left)) <= 2


def test_sieve_weighs_both_scores_alike(experiments):
    filter_ = experiments.run("experiment=sieve", *WORDS["sieve"]).filter
    sieve = np.array([number * 7 % 31 - 3 for number in range(len(experiments.uids))], float)
    clip = np.array([experiments.rows[uid][L14] for uid in experiments.uids])
    fused = sum(0.5 * (x - x.min()) / (x.max() - x.min()) for x in (sieve, clip))
    scores = dict(zip(experiments.uids, fused.round(9).tolist(), strict=True))
    kept = experiments.kept(filter_)
    assert kept == experiments.top(scores, int(0.2 * len(experiments.pool.rows)))
