"""Keys: the same definition is the same key, everything that decides an outcome changes it."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcexp.artifacts.base import Artifact, Counts
from dcexp.scale import locked
from dcexp.stage import Stage, Step, canonical, decisive, definition
from tests.stages import Bind, Note, Write

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain)
def test_canonical_data_is_json_and_stable(value):
    once = canonical(value)
    assert canonical(once) == once
    assert json.loads(json.dumps(once)) == once


@given(st.integers(-(2**53), 2**53))
def test_whole_floats_and_ints_have_one_spelling(n):
    assert json.dumps(canonical(float(n))) == json.dumps(canonical(n))


@given(st.text(), st.text())
def test_keys_are_equal_exactly_when_texts_are(a, b):
    assert (Write(text=a).step().key == Write(text=b).step().key) == (a == b)


def test_key_does_not_depend_on_the_process():
    code = "from tests.stages import Write; print(Write(text='x', loud=True).step(a=Write(text='y').step()).key)"
    keys = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout.strip()
        for env in ({"PYTHONHASHSEED": "1", "PYTHONPATH": "."}, {"PYTHONHASHSEED": "2", "PYTHONPATH": "."})
    }
    assert keys == {Write(text="x", loud=True).step(a=Write(text="y").step()).key}


def test_fields_that_only_say_how_stay_out_of_the_key():
    assert Write(text="x", seconds=9.0, marks="/nowhere").step().key == Write(text="x").step().key


def test_inputs_values_class_and_version_decide(monkeypatch):
    step = Write(text="x").step()
    others = [
        Write(text="x", loud=True).step(),
        Write(text="x").step(a=Write(text="y").step()),
        Write(text="x").step(a=Write(text="z").step()),
        Write(text="x").step(seed=1),
        Write(text="x").step(seed=2),
        Bind(text="x").step(),
    ]
    keys = {step.key, *(other.key for other in others)}
    assert len(keys) == 7
    monkeypatch.setattr(Write, "version", 2)
    assert Write(text="x").step().key not in keys


def test_a_new_field_with_a_default_leaves_old_keys_valid():
    @dataclass(frozen=True, kw_only=True)
    class Old(Stage):
        makes: ClassVar[type[Artifact]] = Note
        a: int

    @dataclass(frozen=True, kw_only=True)
    class New(Old):
        b: float = 0.5
        how: int = field(default=3, compare=False)

    assert decisive(New(a=1)) == decisive(Old(a=1))
    assert decisive(New(a=1, b=0.25, how=7)) == {"a": 1, "b": 0.25}


def test_a_required_field_is_always_decisive():
    assert definition(Write(text=""))["fields"] == {"text": ""}


def test_values_name_the_artifact():
    scale = locked(**tiny())
    assert Step(Write(text="x"), {"scale": scale}).name.startswith("tiny-write-text_x-")


def test_names_are_safe_for_file_systems():
    name = Write(text="../../etc/passwd \n" + "x" * 300).step().name
    assert "/" not in name and "\n" not in name and len(name) < 100 and not name.startswith(".")


def test_upstream_lists_inputs_first_and_each_once():
    base = Write(text="base").step()
    left, right = Write(text="l").step(a=base), Write(text="r").step(a=base)
    top = Bind(text="t").step(left=left, right=right)
    assert [s.stage.text for s in top.upstream()] == ["base", "l", "r", "t"]


@pytest.mark.parametrize("field_value", [{"text": 3}, {"text": "x", "loud": "yes"}, {"text": "x", "seconds": "1"}])
def test_a_value_of_the_wrong_type_is_refused_with_what_was_wanted(field_value):
    with pytest.raises(ValueError, match=r"Write\.\w+: wanted (str|bool|float), got"):
        Write(**field_value)


def test_a_choice_outside_the_literal_lists_the_choices():
    @dataclass(frozen=True, kw_only=True)
    class Choose(Stage):
        makes: ClassVar[type[Artifact]] = Note
        arch: Literal["l14", "b32"] = "l14"

    with pytest.raises(ValueError, match=r"Choose\.arch: wanted 'l14' \| 'b32', got 'l41'"):
        Choose(arch="l41")


def test_a_field_of_several_types_lists_them_as_people_write_them():
    @dataclass(frozen=True, kw_only=True)
    class Count(Stage):
        makes: ClassVar[type[Artifact]] = Note
        clusters: int | Literal["auto"] = "auto"

    with pytest.raises(ValueError, match=r"Count\.clusters: wanted int \| 'auto', got 'many'"):
        Count(clusters="many")


@given(*[st.integers(0, 9)] * 4)
def test_counts_add_up_exactly_when_nothing_is_unaccounted_for(kept, dropped, missing, corrupt):
    total = kept + dropped + missing + corrupt
    given_counts = {"kept": kept, "dropped": dropped, "missing": missing, "corrupt": corrupt}
    assert Counts(total=total, **given_counts).add_up
    assert not Counts(total=total + 1, **given_counts).add_up


def tiny():
    from dcexp.scale import PUBLISHED

    return {"name": "tiny", **PUBLISHED["tiny"]}
