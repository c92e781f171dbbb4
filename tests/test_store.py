"""The store makes each artifact once, whole or not at all, and goes on after a crash."""

import json
import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dcexp.engines.local import Local
from dcexp.store import Store
from tests.stages import Bind, Write

ENGINE = Local(workers=1)


@pytest.fixture
def store(tmp_path):
    return Store(root=str(tmp_path / "store"))


@pytest.fixture
def marks(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def runs(marks):
    return len(list(marks.iterdir()))


def make_notes_come_out_otherwise(monkeypatch):
    original = Write.run

    def changed(self, out, engine, **inputs):
        summary = original(self, out, engine, **inputs)
        if type(self) is Write:
            (out / "note.txt").write_text("other")
        return summary

    monkeypatch.setattr(Write, "run", changed)


def test_a_step_is_made_once_and_found_afterwards(store, marks):
    step = Bind(text="b", marks=str(marks)).step(a=Write(text="a", marks=str(marks)).step())
    assert store.build(step, ENGINE).text == "a+b"
    assert runs(marks) == 2
    assert Store(root=store.root).build(step, ENGINE).text == "a+b"
    assert runs(marks) == 2


def test_the_manifest_says_where_it_came_from(store):
    source = Write(text="a").step()
    artifact = store.build(Bind(text="b").step(a=source, seed=3), ENGINE)
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["lineage"]["inputs"]["a"]["stage"]["fields"] == {"text": "a", "loud": False}
    assert manifest["lineage"]["values"] == {"seed": 3}
    assert manifest["inputs"] == {"a": store.find(source).manifest["digest"]}
    assert manifest["summary"]["counts"]["kept"] == 1
    assert set(manifest["files"]) == {"note.txt", "half.txt"}
    assert manifest["seconds"] >= 0 and manifest["peak_memory_bytes"] > 1e6
    assert {"git", "versions", "code", "engine"} <= manifest.keys()


def test_an_artifact_outlives_what_it_was_made_from(store, marks):
    source = Write(text="a", marks=str(marks)).step()
    step = Bind(text="b").step(a=source)
    store.build(step, ENGINE)
    for file in (path := store.path(source)).iterdir():
        file.unlink()
    path.rmdir()
    assert store.build(step, ENGINE).text == "a+b"
    assert runs(marks) == 1


def test_lost_samples_are_never_passed_over(store):
    with pytest.raises(AssertionError, match="lost count"):
        store.build(Write(text="x", fail="count").step(), ENGINE)
    assert store.find(Write(text="x").step()) is None


def test_a_killed_attempt_leaves_no_artifact_and_the_next_continues(store, tmp_path):
    code = (
        "import sys; from tests.stages import *; from dcexp.store import Store; from dcexp.engines.local import Local;"
        "Store(root=sys.argv[1]).build(Write(text='x', fail='kill').step(), Local(workers=1))"
    )
    killed = subprocess.run([sys.executable, "-c", code, store.root], check=False)
    assert killed.returncode == -9
    assert store.find(Write(text="x").step()) is None
    started = time.monotonic()
    artifact = store.build(Write(text="x").step(), ENGINE)
    assert artifact.summary["continued"] is True and artifact.text == "x"
    assert time.monotonic() - started < 5, "a dead process on this machine is known at once"
    assert not [p for p in artifact.path.parent.iterdir() if p != artifact.path]


def test_a_full_disk_says_so_and_leaves_nothing_finished(store):
    with pytest.raises(OSError, match="no space left for note/write-text_x-"):
        store.build(Write(text="x", fail="full").step(), ENGINE)
    assert store.find(Write(text="x").step()) is None
    assert store.build(Write(text="x").step(), ENGINE).text == "x"


def test_two_processes_make_one_artifact(store, marks):
    code = (
        "import sys; from tests.stages import *; from dcexp.store import Store; from dcexp.engines.local import Local;"
        "how = {'seconds': 1.0, 'marks': sys.argv[2]};"
        "step = Bind(text='b', **how).step(a=Write(text='a', **how).step());"
        "print(Store(root=sys.argv[1]).build(step, Local(workers=1)).text)"
    )
    words = [sys.executable, "-c", code, store.root, str(marks)]
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda _: subprocess.run(words, capture_output=True, text=True, check=True), range(4)))
    assert [out.stdout.strip() for out in outs] == ["a+b"] * 4
    assert runs(marks) == 2


def test_rebuild_makes_the_kind_anew_and_only_what_really_changed_after_it(store, marks):
    source = Write(text="a").step()
    step = Bind(text="b", marks=str(marks)).step(a=source)
    store.build(step, ENGINE)
    before = store.find(source).manifest["created"]
    Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"note"}))
    assert store.find(source).manifest["created"] > before
    assert runs(marks) == 1, "the note came out the same, so the book stands"
    Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"book"}))
    assert runs(marks) == 2


def test_rebuild_follows_a_changed_input(store, marks, monkeypatch):
    source = Write(text="a").step()
    step = Bind(text="b", marks=str(marks)).step(a=source)
    store.build(step, ENGINE)
    make_notes_come_out_otherwise(monkeypatch)
    assert Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"note"})).text == "other+b"
    assert runs(marks) == 2


def test_rebuild_makes_a_shared_step_once_per_run(store, marks):
    source = Write(text="a", marks=str(marks)).step()
    steps = [Bind(text=t).step(a=source) for t in "xyz"]
    for step in steps:
        store.build(step, ENGINE, rebuild=frozenset({"note", "book"}))
    assert runs(marks) == 1


def test_a_hit_made_by_other_code_warns_and_names_the_remedy(store, caplog):
    step = Write(text="x").step()
    manifest = store.build(step, ENGINE).path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "code": "0123"}))
    with caplog.at_level(logging.WARNING):
        Store(root=store.root).build(step, ENGINE)
    assert "rebuild=note" in caplog.text


def test_the_same_inputs_give_the_same_digest(tmp_path):
    digests = {
        Store(root=str(tmp_path / name)).build(Write(text="x").step(), ENGINE).manifest["digest"] for name in "ab"
    }
    assert len(digests) == 1


def test_what_was_left_by_an_attempt_on_other_inputs_is_not_continued(store, monkeypatch):
    source = Write(text="a").step()
    step = Bind(text="b").step(a=source)
    with pytest.raises(OSError):
        store.build(Bind(text="b", fail="full").step(a=source), ENGINE)
    make_notes_come_out_otherwise(monkeypatch)
    store.build(source, ENGINE, rebuild=frozenset({"note"}))
    artifact = Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"note"}))
    assert artifact.text == "other+b" and artifact.summary["continued"] is False


def test_rebuild_does_not_continue_what_an_earlier_build_left(store):
    step = Write(text="x").step()
    store.build(step, ENGINE)
    with pytest.raises(OSError):
        Store(root=store.root).build(Write(text="x", fail="full").step(), ENGINE, rebuild=frozenset({"note"}))
    again = Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"note"}))
    assert again.summary["continued"] is True, "the same rebuild goes on"
    partial = again.path.with_name(f"{again.path.name}.partial")
    partial.mkdir()
    (partial / "half.txt").write_text("of unknown origin")
    last = Store(root=store.root).build(step, ENGINE, rebuild=frozenset({"note"}))
    assert last.summary["continued"] is False


def test_an_input_that_is_rebuilt_meanwhile_is_noticed(store, monkeypatch):
    source = Write(text="a").step()
    store.build(source, ENGINE)
    original = Bind.run

    def run(self, out, engine, **inputs):
        manifest = store.path(source) / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "digest": "another"}))
        return original(self, out, engine, **inputs)

    monkeypatch.setattr(Bind, "run", run)
    with pytest.raises(RuntimeError, match="was rebuilt meanwhile"):
        store.build(Bind(text="b").step(a=source), ENGINE)
    assert store.find(Bind(text="b").step(a=source)) is None


def test_killed_between_the_two_renames_of_a_rebuild(store, monkeypatch):
    step = Write(text="x").step()
    path = store.build(step, ENGINE).path
    path.rename(path.with_name(f"{path.name}.abc.old"))
    assert store.find(step) is None
    assert store.build(step, ENGINE).text == "x"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json"])
def test_a_damaged_manifest_is_named_with_the_remedy(store, content):
    path = store.build(Write(text="x").step(), ENGINE).path
    (path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* makes it anew"):
        Store(root=store.root).build(Write(text="x").step(), ENGINE)


def test_the_code_that_decides_is_in_the_digest():
    from dcexp.provenance import _imports, _source, code_digest

    def reached(module, seen):
        if module not in seen and (source := _source(module)):
            seen.add(module)
            for name in _imports(source):
                if name.startswith("dcexp."):
                    reached(name, seen)
        return seen

    assert "dcexp.embedded.dirt" in reached("dcexp.sources.digits", set())
    assert "dcexp.model" in reached("dcexp.training.train", set())
    assert code_digest("dcexp.sources.digits") != code_digest("dcexp.sources.commonpool")
