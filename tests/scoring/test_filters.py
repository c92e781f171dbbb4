"""Tars without features, scored: every filter of conf/filter that needs features runs on them, whichever there are."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

from dcexp.artifacts.uid import format_uid
from dcexp.embedded.samples import samples as digits
from dcexp.scoring.request import score
from dcexp.sources.webdataset import WebDataset
from dcexp.store import Store
from tests.filters.test_contract import MAY_REPEAT, OPTIONS, WORDS, weighed_columns
from tests.pools import ONE, write_tar
from tests.scoring.scored import arrays, request, table
from tests.test_conf import REQUIRED, composed

COUNT, SHARD = 150, 60  # samples, and how many are in a tar
BROKEN = range(5)  # their images cannot be decoded
HERE = {  # what an option needs to run on this pool, where the words of tests/filters/test_contract.py do not do
    "clip_score_threshold": ["filter.threshold=0"],
    "laion2b": ["filter.of.clip_score_threshold.threshold=-1"],
    "threshold": ["filter.score.column=clip_l14_similarity_score", "filter.threshold=0"],
    "sample": ["filter.score.column=original_width"],
}
KNOWN = {"image_based", "image_based_sampling", "imagenet_distance", "in_clusters", "near_duplicates", "norm_sim"}
KNOWN |= {"image_based_and_clip_score", "neg_clip_loss", "norm_sim_d"}  # to need features; new ones are found


class Scored:
    """Digits in tars and their features and scores in ``root/mine``; in ``root/bare`` the same without features."""

    def __init__(self, root, weights):
        self.root, self.store = root, Store(root=str(root / "store"))
        everything = digits(size=COUNT, seed=0)
        self.uids = [one.uid for one in everything]
        for start in range(0, COUNT, SHARD):
            numbers = range(start, min(start + SHARD, COUNT))
            write_tar(root / "tars" / f"{start}.tar", [self._members(n, everything[n]) for n in numbers])
        for feature in ("l14", "b32"):
            self.counts = score(request(weights, root / "tars", root / "mine", feature=feature)).counts
        shutil.copytree(root / "mine", root / "bare", ignore=shutil.ignore_patterns("*.npz"))
        self._write_files()

    def _members(self, number, one):
        info = {name: getattr(one, name) for name in ("uid", "url", "sha256", "original_width", "original_height")}
        image = b"\xff\xd8 no picture" if number in BROKEN else one.image
        return {"jpg": image, "json": json.dumps(info).encode(), "txt": one.text.encode()}

    def _write_files(self):
        """What filters are given beside the pool."""
        stems = [str(start) for start in range(0, COUNT, SHARD)]
        features = np.concatenate([arrays(self.root / "mine", stem)["l14_img"] for stem in stems]).astype(np.float32)
        found = features[np.isfinite(features).all(axis=1)]
        np.save(self.root / "target.npy", found[:9])
        np.save(self.root / "centroids.npy", found[::7])
        (self.root / "list.txt").write_text("\n".join(self.uids[:30]))
        for name, columns in {"scores": ["score"], "m_flyt": weighed_columns()}.items():
            numbers = np.random.default_rng(0).random((COUNT, len(columns))).astype(str)
            lines = [["uid", *columns], *([uid, *row] for uid, row in zip(self.uids, numbers, strict=True))]
            (self.root / f"{name}.csv").write_text("\n".join(map(",".join, lines)))

    def build(self, option, scored):
        words = HERE.get(option, WORDS.get(option, REQUIRED.get(option, [])))
        words = [word.format(root=self.root) for word in words]
        stage = composed(f"filter={option}", "assets.language_model=lid.176.ftz", *words).filter
        pool = WebDataset(root=str(self.root / "tars"), scored=str(self.root / scored)).step()
        return self.store.build(stage.step(pool), ONE)


@pytest.fixture(scope="module")
def scored(weights, tmp_path_factory):
    return Scored(tmp_path_factory.mktemp("scored"), weights)


@pytest.fixture(params=OPTIONS)
def option(request):
    if request.param == "laion2b" and importlib.util.find_spec("gcld3") is None:
        pytest.skip("needs gcld3")
    return request.param


def test_what_needs_features_says_so_without_and_runs_with_them(option, scored):
    """Whether it needs them is asked of the filter itself: what runs on scores alone is another test's."""
    try:
        scored.build(option, "bare")
    except ValueError as error:
        assert "needs the feature 'l14_" in str(error)
    else:
        assert option not in KNOWN
        return
    subset = scored.build(option, "mine")
    taken = {format_uid(uid) for uid in subset.uids()}
    counts, facts = subset.summary["counts"], subset.summary
    assert 0 < len(taken) < COUNT and taken.isdisjoint(scored.uids[: len(BROKEN)]) and taken <= set(scored.uids)
    assert counts["total"] == COUNT == sum(counts[name] for name in ("kept", "dropped", "missing", "corrupt"))
    assert counts["kept"] == len(taken) and (facts["taken"] == len(taken) or option in MAY_REPEAT)
    assert facts["pool"] == {"metadata": COUNT, "available": COUNT} and facts["unavailable"] == 0


def test_the_rows_behind_this(scored):
    assert (scored.counts.total, scored.counts.kept, scored.counts.corrupt) == (COUNT, COUNT - len(BROKEN), len(BROKEN))
    assert table(scored.root / "mine", "0")["uid"].to_pylist() == scored.uids[:SHARD]
