"""What a pool lacks for a filter is said before any work, once the pool is known."""

import pytest

from dcexp.pipeline import execute
from tests.cli import dcexp
from tests.filters.images import Images, random_features
from tests.test_conf import composed

SCORE = "clip_l14_similarity_score"
FIRST = "filter=sequence +filter@filter.first=random +filter@filter.then"
TWO = "+filter@filter.of.a=random +filter@filter.of.b"
LACKING = {  # words, and what is not in the pool
    f"{FIRST}=top_fraction filter.then.score.column=my_scoer": "TopFraction needs the column 'my_scoer'",
    f"{FIRST}=semdedup filter.then.clustering.feature=b32_img": "KMeans needs the feature 'b32_img'",
    f"{FIRST}=norm_sim_d filter.then.feature=b32_img": "NormSimD needs the feature 'b32_img'",
    f"{FIRST}=neg_clip_loss": "NegClipLoss needs the feature 'l14_txt'",
    f"{FIRST}=soft_cap filter.then.score.column=a": "SoftCap needs the column 'a'",
    f"{FIRST}=hard_cap filter.then.score.column=a": "HardCap needs the column 'a'",
    f"{FIRST}=exact_duplicates": "CopyPlace needs the column 'sha256'",
    f"{FIRST}=image_size": "ImageSize needs the column 'original_width'",
    f"{FIRST}=fusion filter.then.score.weights={{a:1}}": "Fusion needs the column 'a'.*filter.score.table=",
    f"filter=intersection {TWO}=image_size": "ImageSize needs the column",
    f"filter=union {TWO}=threshold filter.of.b.threshold=1 filter.of.b.score.column=a": "Threshold needs the column",
}


@pytest.fixture
def words(tmp_path):
    """What chooses a pool with image features and one score, in a store where it is known."""
    images = Images(tmp_path, random_features(0, 20), **{SCORE: [i / 20 for i in range(20)]}, text=["a"] * 20)
    words = ["source=commonpool", f"source.root={images.root / 'pool'}", f"store.root={tmp_path / 'store'}"]
    words += ["tracker=none", "engine.workers=1"]
    execute(composed(*words, "until=pool"))
    return words


@pytest.mark.parametrize("wrong", LACKING)
def test_what_a_pool_lacks_is_said_before_any_work(wrong, words, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){LACKING[wrong]}"):
        execute(composed(*words, *wrong.split(), "until=subset"))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["pool"]


def test_the_plan_says_so_too(words, monkeypatch, capsys):
    plan = dcexp(monkeypatch, capsys, f"plan {' '.join(words)} filter=semdedup filter.clustering.feature=b32_img")
    assert "KMeans needs the feature" in " ".join(plan.out.split())


def test_a_pool_that_is_to_be_made_anew_is_not_asked(words, tmp_path):
    """It may have then what it lacks now."""
    (manifest,) = tmp_path.glob("store/pool/*/manifest.json")
    before = manifest.read_text()
    with pytest.raises(ValueError, match="ImageSize needs the column"):
        execute(composed(*words, "filter=image_size", "until=subset", "rebuild=pool"))
    assert manifest.read_text() != before
