"""What every option of conf/filter keeps to: the same bytes whoever works, and after an interruption at any file."""

import importlib.util
from collections import Counter

import numpy as np
import pytest
import yaml

from dcexp.artifacts.subset import EXAMPLES, SUBSET
from dcexp.artifacts.uid import format_uid, is_sorted
from dcexp.cli import CONF
from dcexp.engines.local import Local
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.filters.stopped import stopped_at, stopped_cleaning_up
from tests.parity.test_baselines import RandomPool
from tests.pools import sample, write_tar
from tests.test_conf import REQUIRED, composed

OPTIONS = sorted(path.stem for path in (CONF / "filter").glob("*.yaml"))
SAMPLING = {"image_based_sampling", "text_based_sampling", "sample", "hard_cap", "soft_cap", "m_flyt"}
MAY_REPEAT = {*SAMPLING, "sum", "repeat"}
OF_ALL = ("pieces", "merged")  # folders that every filter works in
WORKING = {
    "norm_sim_d",
    "near_duplicates",
    "sample",
    "soft_cap",
    "hard_cap",
    "fusion",
    "m_flyt",
    "imported",
    "semdedup",
}
SCORE = "clip_l14_similarity_score"
CLUSTERS = ("centroids={root}/centroids.npy", "target={root}/target.npy")
WORDS = {  # what an option needs to run on this pool
    "in_clusters": [f"filter.{word}" for word in CLUSTERS],
    "image_based": [f"filter.of.in_clusters.{word}" for word in CLUSTERS],
    "image_based_and_clip_score": [f"filter.of.image_based.of.in_clusters.{word}" for word in CLUSTERS],
    "image_based_sampling": [f"filter.{word}" for word in CLUSTERS],
    "imagenet_distance": ["filter.target={root}/target.npy"],
    "norm_sim_d": ["filter.rounds=7"],
    "norm_sim": ["filter.target={root}/target.npy"],
    "near_duplicates": ["filter.subvectors=4"],
    "uids": ["filter.path={root}/list.txt"],
    "fusion": [f"filter.score.weights={{{{{SCORE}: 1, clip_b32_similarity_score: 0.5}}}}"],
    "hard_cap": [f"filter.score.column={SCORE}"],
    "soft_cap": [f"filter.score.column={SCORE}", "filter.batch=10"],
    "m_flyt": ["filter.score.table={root}/m_flyt.csv", "filter.batch=10"],
    "imported": ["filter.score.table={root}/scores.csv"],
    "sample": [f"filter.score.column={SCORE}"],
    "top_fraction": [f"filter.score.column={SCORE}"],
    "threshold": [f"filter.score.column={SCORE}", "filter.threshold=0.5"],
}


def weighed_columns():
    """The columns that M-FLYT weighs."""
    return list(yaml.safe_load((CONF / "filter" / "m_flyt.yaml").read_text())["score"]["weights"])


class Contract:
    """A random pool, of which two thirds are in the shards, and filters of it built in stores of their own."""

    def __init__(self, root):
        self.root, self.pool = root, RandomPool(root, 7)
        uids = [row["uid"] for row in self.pool.rows]
        write_tar(root / "pool" / "shards" / "0.tar", [sample(uid) for uid in uids[::3] + uids[1::3]])
        (root / "list.txt").write_text("\n".join(uids[:30]))
        lines = [f"{uid},{number % 40}" for number, uid in enumerate(dict.fromkeys(uids))]
        (root / "scores.csv").write_text("\n".join(["uid,score", *lines]))
        names = weighed_columns()
        lines = [
            ",".join([uid, *(f"{(n * 7 + k) % 13 / 13}" for k in range(len(names)))])
            for n, uid in enumerate(dict.fromkeys(uids))
        ]
        (root / "m_flyt.csv").write_text("\n".join([",".join(["uid", *names]), *lines]))
        self.uids = {uid.lower() for uid in uids}
        self.source = CommonPool(root=str(root / "pool")).step()

    def build(self, option, store, engine=None):
        words = [word.format(root=self.root) for word in WORDS.get(option, REQUIRED.get(option, []))]
        stage = composed(f"filter={option}", "assets.language_model=lid.176.ftz", *words).filter
        step, engine = stage.step(self.source), engine or Local(workers=1)
        stage.check(engine, **step.values)
        return Store(root=str(self.root / store)).build(step, engine)


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return Contract(tmp_path_factory.mktemp("contract"))


@pytest.fixture(params=OPTIONS)
def option(request):
    if request.param == "laion2b" and importlib.util.find_spec("gcld3") is None:
        pytest.skip("needs gcld3")
    return request.param


def test_a_filter_keeps_the_contract(contract, option, monkeypatch):
    whole = contract.build(option, "one")
    uids = whole.uids()
    taken = Counter(format_uid(uid) for uid in uids)
    counts, facts = whole.summary["counts"], whole.summary
    assert is_sorted(uids) and set(taken) <= contract.uids
    assert option in MAY_REPEAT or max(taken.values()) == 1
    assert (counts["kept"], facts["taken"], facts["distinct"]) == (len(taken), len(uids), len(taken))
    assert counts["total"] == sum(counts[name] for name in ("kept", "dropped", "missing", "corrupt")) == 103
    assert facts["pool"] == {"metadata": 103, "available": 69}
    there = {uid for uid in taken if uid in _available(contract)}
    assert facts["unavailable"] == len(taken) - len(there)
    assert (whole.path / EXAMPLES).is_file()
    assert _bytes(contract.build(option, "two", Local(workers=2))) == _bytes(whole)
    for nth in (1, 4, 9, 16):
        store = f"stopped-{option}-{nth}"
        stopped_at(monkeypatch, nth, lambda store=store: contract.build(option, store))
        assert _bytes(contract.build(option, store)) == _bytes(whole)


def test_a_filter_that_is_stopped_while_it_cleans_up_goes_on(contract, option, monkeypatch):
    whole, store = contract.build(option, "one"), f"cleaning-{option}"
    Store(root=str(contract.root / store)).build(contract.source, Local(workers=1))
    if stopped_cleaning_up(monkeypatch, lambda: contract.build(option, store), OF_ALL):
        assert _bytes(contract.build(option, store)) == _bytes(whole)
    else:
        assert option not in WORKING


def _available(contract):
    return {format_uid(uid) for uid in np.load(next(contract.root.glob("one/pool/*/available.npy")))}


def _bytes(subset):
    return (subset.path / SUBSET).read_bytes()
