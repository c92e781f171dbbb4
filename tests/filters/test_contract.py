"""What every option of conf/filter keeps to: the same bytes whoever works, and after an interruption at any file."""

import importlib.util
from collections import Counter

import numpy as np
import pytest
import yaml

from dcexp.artifacts import files
from dcexp.artifacts.subset import EXAMPLES, SUBSET
from dcexp.artifacts.uid import format_uid, is_sorted
from dcexp.cli import CONF
from dcexp.engines.local import Local
from dcexp.sources.commonpool import CommonPool
from dcexp.store import Store
from tests.parity.test_baselines import RandomPool
from tests.pools import sample, write_tar
from tests.test_conf import REQUIRED, composed

OPTIONS = sorted(path.stem for path in (CONF / "filter").glob("*.yaml"))
SAMPLING = {"image_based_sampling", "text_based_sampling", "sample", "hard_cap", "soft_cap", "m_flyt"}
MAY_REPEAT = {*SAMPLING, "sum", "repeat"}
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

    def build(self, option, store, engine=None):
        words = [word.format(root=self.root) for word in WORDS.get(option, REQUIRED.get(option, []))]
        stage = composed(f"filter={option}", "assets.language_model=lid.176.ftz", *words).filter
        step, engine = stage.step(CommonPool(root=str(self.root / "pool")).step()), engine or Local(workers=1)
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


class Stopped(BaseException):
    """What a kill is to the process that it hits, as far as files are concerned: nothing after it happens."""


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
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(files.Path, "replace", _stopping(files.Path.replace, nth))
            contract.build(option, store)
            raise Stopped  # it needed fewer files than that
        assert _bytes(contract.build(option, store)) == _bytes(whole)


def _stopping(replace, nth):
    """``Path.replace`` that is never reached by the nth file and all that come after it."""
    seen = 0

    def stopping(self, target):
        nonlocal seen
        seen += 1
        if seen >= nth:
            raise Stopped
        return replace(self, target)

    return stopping


def _available(contract):
    return {format_uid(uid) for uid in np.load(next(contract.root.glob("one/pool/*/available.npy")))}


def _bytes(subset):
    return (subset.path / SUBSET).read_bytes()
