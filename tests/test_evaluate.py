"""The verb ``evaluate``: models of any origin, several devices, tasks that fail, and what is said of it."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dcexp.artifacts.result import Result
from dcexp.engines.local import Local
from dcexp.evaluation import Request, TasksFailedError, evaluate
from dcexp.model import BrokenModelError
from dcexp.store import Store
from dcexp.tasks.pretrained import Model
from dcexp.tasks.shares import shares
from tests.cli import dcexp
from tests.tasks.families import write_families
from tests.tasks.generated import sizes, tasks
from tests.tasks.sets import MODEL, checkpoint

FOLDERS = ("wds_cifar10_test", "wds_geode_test", "wds_fairface_test")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint").weights


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return root, write_families(root, 30, only=FOLDERS)


def request(tmp_path, weights, chosen, **fields):
    fields = {"engine": Local(workers=2), "store": Store(root=str(tmp_path / "store")), **fields}
    return Request(checkpoint=str(weights), model=MODEL, tasks=chosen, folder=str(tmp_path / "run"), **fields)


def lines(made):
    return [result.line for result in made if isinstance(result, Result)]


def test_a_model_that_was_not_trained_here_is_evaluated_and_each_task_is_kept(weights, sets, tmp_path):
    chosen = tasks(*sets)
    made = evaluate(request(tmp_path, weights, chosen))
    assert [line["key"] for line in lines(made)] == [task.key for task in chosen.values()]
    report = [json.loads(line) for line in (tmp_path / "run/eval_results.jsonl").read_text().splitlines()]
    assert report == lines(made)
    means = json.loads((tmp_path / "run/aggregates.json").read_text())
    assert means["values"]["average_38"] is None and len(means["missing"]["average_38"]) == 36
    again = evaluate(request(tmp_path, weights, chosen))
    assert [r.manifest["created"] for r in again] == [r.manifest["created"] for r in made]
    fewer = evaluate(request(tmp_path, weights, {"geode": chosen["geode"]}))
    assert fewer[0].manifest["created"] == made[1].manifest["created"], "adding a task repeats none"
    lineage = made[0].manifest["lineage"]["inputs"]["checkpoint"]
    assert lineage["kind"] == "pretrained" and lineage["values"]["path"] == str(weights)


def test_a_kept_crop_serves_the_next_checkpoint_without_the_images(weights, sets, tmp_path, monkeypatch):
    from dcexp.artifacts.pictures import Pictures

    root, items = sets
    plain = lines(evaluate(request(tmp_path, weights, tasks(root, items))))
    crops = tmp_path / "crops"
    chosen = tasks(root, items, crops=str(crops))
    kept = evaluate(request(tmp_path / "kept", weights, chosen))
    assert lines(kept) == plain
    files = sorted(crops.iterdir())
    assert len(files) == 3 and all(file.stat().st_size == 30 * 32 * 32 * 3 + 16 for file in files)
    monkeypatch.setattr(Pictures, "image", None)
    other = checkpoint(tmp_path / "other", seed=7).weights
    store = request(tmp_path / "kept", weights, chosen).store
    second = lines(evaluate(request(tmp_path, other, chosen, store=store)))
    monkeypatch.undo()
    assert second != plain and second == lines(evaluate(request(tmp_path / "third", other, tasks(root, items))))
    whole = files[0].read_bytes()
    third = checkpoint(tmp_path / "more", seed=8).weights
    cut = r"\.crops: wanted 92,176 bytes, 30 crops, got 92,175; delete it"
    for content, said in ((whole[:-1], cut), (bytes(len(whole)), r"\.crops is damaged; delete it")):
        files[0].write_bytes(content)
        with pytest.raises(ValueError, match=said):
            evaluate(request(tmp_path, third, chosen, store=store))


def test_where_crops_cannot_be_kept_the_evaluation_goes_on_without(weights, sets, tmp_path, caplog):
    plain = lines(evaluate(request(tmp_path, weights, tasks(*sets))))
    (tmp_path / "file").write_text("")
    chosen = tasks(*sets, crops=str(tmp_path / "file"))
    assert lines(evaluate(request(tmp_path / "again", weights, chosen))) == plain
    assert "crops are not kept, the evaluation goes on" in caplog.text


def test_a_disk_that_fills_up_leaves_no_half_of_the_crops(tmp_path):
    import numpy as np

    from dcexp.tasks.kept import Keeper

    class Full:
        name = str(tmp_path / "a.crops.tmp")

        def write(self, content):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    with Keeper(tmp_path / "a.crops") as keeper:
        keeper._file.close()
        keeper._file = Full()
        for _ in range(2):
            keeper.kept(np.zeros((1, 2, 2, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_the_same_crops(tmp_path):
    import numpy as np

    from dcexp.tasks.kept import Keeper, kept_crops

    crops = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    with Keeper(tmp_path / "a.crops") as first, Keeper(tmp_path / "a.crops") as second:
        first.kept(crops[:1])
        second.kept(crops * 2)
        first.kept(crops[1:])
    (found,) = kept_crops(tmp_path / "a.crops", 2, (2, 2, 3), 5)
    assert (found == crops).all() and [path.name for path in tmp_path.iterdir()] == ["a.crops"]
    (tmp_path / "b.crops.tmp").write_bytes(b"left by one that was killed")
    with Keeper(tmp_path / "b.crops") as third:
        third.kept(crops)
    assert (tmp_path / "b.crops").read_bytes() == (tmp_path / "a.crops").read_bytes()


def broken_image(root, name="wds_cifar10_test"):
    """The set with one image that is none any more."""
    from dcexp.artifacts.pictures import Pictures
    from dcexp.tasks.wds import picture_columns, samples

    tar = root / name / "test/0.tar"
    found = Pictures.of(tar.parent, picture_columns("0.tar", samples(tar, ("cls",))))
    with tar.open("r+b") as file:
        file.seek(int(found.offsets[17]))
        file.write(b"x" * int(found.sizes[17]))


def test_a_task_that_fails_is_named_and_keeps_no_other_from_its_result(weights, sets, tmp_path):
    root = shutil.copytree(sets[0], tmp_path / "sets")
    broken_image(root)
    with pytest.raises(TasksFailedError, match=r"(?s)1 of 3 tasks failed; .* cifar10: .*s0000017: not a read.* format"):
        evaluate(request(tmp_path, weights, tasks(root, sets[1])))
    report = [json.loads(line)["key"] for line in (tmp_path / "run/eval_results.jsonl").read_text().splitlines()]
    assert sorted(report) == ["fairness/fairface", "fairness/geode"]


def test_sets_that_are_not_their_tasks_are_all_named_before_the_first_task_starts(weights, sets, tmp_path):
    root = shutil.copytree(sets[0], tmp_path / "sets")
    chosen = tasks(root, sets[1])
    chosen["cifar10"] = replace(chosen["cifar10"], size=31)
    (root / "wds_geode_test/zeroshot_classification_templates.txt").write_text("a photo of {}\n")
    tar = root / "wds_fairface_test/test/0.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(ValueError) as caught:
        evaluate(request(tmp_path, weights, chosen))
    for words in (
        "cifar10: ", "test samples: 30 for 31", "fairness/geode: ", "templates.txt: 'a photo of {}': wanted {c}",
        "fairness/fairface: ", "0.tar is truncated", "Nothing was evaluated",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert not (tmp_path / "store/result").exists()


def test_what_is_missing_is_said_before_the_first_task_starts(weights, sets, tmp_path):
    chosen = tasks(sets[0], sets[1])
    chosen["geode"] = replace(chosen["geode"], data=replace(chosen["geode"].data, root=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"(?s)no evaluation set in .*wds_geode_test.*download evalsets={tmp_path} "):
        evaluate(request(tmp_path, weights, chosen))
    assert not (tmp_path / "store").exists()


def test_a_set_that_changed_at_equal_size_is_noticed_and_a_moved_one_is_the_same(weights, sets, tmp_path):
    root = shutil.copytree(sets[0], tmp_path / "sets")
    items = {"wds_cifar10_test": 30}
    crops = tmp_path / "crops"
    before = evaluate(request(tmp_path, weights, tasks(root, items, crops=str(crops))))
    moved = shutil.copytree(root, tmp_path / "moved")
    there = evaluate(request(tmp_path, weights, tasks(moved, items, crops=str(crops))))
    assert there[0].manifest["inputs"] == before[0].manifest["inputs"] and len(list(crops.iterdir())) == 1
    broken_image(root)
    with pytest.raises(ValueError, match=r"test/0\.tar changed since .* rebuild=evalset"):
        evaluate(request(tmp_path, checkpoint(tmp_path / "other", seed=3).weights, tasks(root, items)))
    with pytest.raises(TasksFailedError, match="s0000017: not a readable image"):
        evaluate(request(tmp_path, weights, tasks(root, items), rebuild="evalset"))


@pytest.mark.slow
def test_two_devices_share_the_tasks_give_the_same_results_and_say_what_failed(weights, sets, tmp_path):
    alone = evaluate(request(tmp_path / "a", weights, tasks(*sets)))
    root = shutil.copytree(sets[0], tmp_path / "sets")
    engine = Local(workers=2, devices=2)
    evaluate(request(tmp_path, weights, tasks(root, {"wds_cifar10_test": 30}), engine=engine))
    before = (root / "wds_cifar10_test/test/0.tar").stat()
    broken_image(root)
    os.utime(root / "wds_cifar10_test/test/0.tar", ns=(before.st_atime_ns, before.st_mtime_ns))  # unseen
    with pytest.raises(
        TasksFailedError, match=r"(?s)1 of 3 tasks failed; .* cifar10: .*not a readable image"
    ) as caught:
        evaluate(request(tmp_path, weights, tasks(root, sets[1]), rebuild="result", engine=engine))
    assert lines(caught.value.made) == lines(alone)[1:]
    assert all(result.manifest["engine"]["devices"] == 1 for result in caught.value.made)
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".failed")]


def test_shares_are_about_even_and_hold_every_task_once(sets):
    model = Model(checkpoint="x", model=MODEL).step()
    sizes = [50, 40, 30, 20, 20, 10, 5]
    task = next(iter(tasks(*sets).values()))
    steps = [replace(task, size=size, key=f"t{i}").step(model) for i, size in enumerate(sizes)]
    found = shares(steps, 3)
    assert sorted(step.stage.size for share in found for step in share) == sorted(sizes)
    loads = [sum(step.stage.size for step in share) for share in found]
    assert max(loads) - min(loads) <= 10


def test_fast_is_another_result_and_tells_its_drift(weights, sets, tmp_path):
    exact = evaluate(request(tmp_path, weights, tasks(*sets)))
    fast = evaluate(request(tmp_path, weights, tasks(*sets, evaluation="fast")))
    assert [result.path.name for result in exact] != [result.path.name for result in fast]
    drift = fast[0].summary["drift"]
    assert drift["images"] == 30 and 0 < drift["largest"] < 0.01
    assert len({result.summary["drift"]["largest"] for result in fast}) == 3, "each task has its own"
    assert json.loads((tmp_path / "run/aggregates.json").read_text())["evaluation"] == "fast"
    assert "drift" not in exact[0].summary


def save(state, path):
    import torch

    torch.save(state, path)
    return path


def test_weights_of_another_architecture_foreign_objects_and_garbage_are_refused(weights, sets, tmp_path):
    import torch

    state = torch.load(weights, weights_only=True)["state_dict"]
    name = next(name for name in state if name.endswith("proj"))
    chosen = {"cifar10": tasks(*sets)["cifar10"]}
    cases = {
        "cut": (save({"state_dict": {**state, name: state[name][:-1]}}, tmp_path / "cut.pt"), f"is not a .*{MODEL}"),
        "less": (save({"state_dict": {k: state[k] for k in list(state)[3:]}}, tmp_path / "less.pt"), "is not a "),
        "foreign": (save({"state_dict": state, "path": Path("x")}, tmp_path / "f.pt"), "other things than tensors"),
    }
    (tmp_path / "garbage.pt").write_bytes(b"no checkpoint at all")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"state_dict": print}))
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("garbage", "old", "empty"):
        cases[name] = tmp_path / f"{name}.pt", rf"{name}\.pt"
    for name, (path, said) in cases.items():
        with pytest.raises(BrokenModelError, match=said):
            evaluate(request(tmp_path / name, path, chosen))
        assert not list((tmp_path / name / "store/result").glob("*/result.json"))


def test_features_that_are_no_numbers_end_the_evaluation_at_once(weights, sets, tmp_path):
    import torch

    state = torch.load(weights, weights_only=True)["state_dict"]
    for name, what in (("visual.proj", "images"), ("text_projection", "texts")):
        broken = save({"state_dict": {**state, name: state[name] * float("nan")}}, tmp_path / f"{what}.pt")
        with pytest.raises(
            BrokenModelError, match=rf"{what}\.pt .{MODEL}.: its features of {what} are not finite numbers"
        ):
            evaluate(request(tmp_path / what, broken, tasks(*sets)))


def test_torchscript_unknown_models_and_tags_and_quickgelu_are_refused_with_advice(weights, tmp_path):
    import torch

    engine = Local(workers=1)
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "ViT-B-32.pt")
    cases = {
        (str(tmp_path / "ViT-B-32.pt"), "ViT-B-32"): r"TorchScript.* checkpoint=openai model=ViT-B-32-quickgelu",
        (str(weights), "ViT-tiny8"): r"model=ViT-tiny8: open_clip has none of that name; near it: .*ViT-tiny-8",
        ("openai", "ViT-B-32"): r"QuickGELU, and ViT-B-32 has GELU.* model=ViT-B-32-quickgelu",
        ("nothing", "ViT-B-32"): r"no such file, and no pretrained tag .*laion2b_s34b_b79k",
        ("/nowhere/x.pt", MODEL): r"no such file, .* it has none",
    }
    for (path, model), said in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            Model(checkpoint=path, model=model).check(engine)
    Model(checkpoint="openai", model="ViT-B-32-quickgelu").check(engine)
    Model(checkpoint=str(weights), model=MODEL).check(engine)


def test_a_name_that_speaks_of_quickgelu_is_a_warning(weights, tmp_path, caplog):
    path = Path(shutil.copy(weights, tmp_path / "openai_b32.pt"))
    Model(checkpoint=str(path), model="ViT-B-32").check(Local(workers=1))
    assert "Use model=ViT-B-32-quickgelu" in caplog.text


def test_a_file_that_changed_is_another_model(weights, tmp_path):
    path = Path(shutil.copy(weights, tmp_path / "a.pt"))
    before = Model(checkpoint=str(path), model=MODEL).step()
    assert before.key == Model(checkpoint=f"{tmp_path}/x/../a.pt", model=MODEL).step().key
    path.write_bytes(b"other")
    assert before.key != Model(checkpoint=str(path), model=MODEL).step().key


def test_the_command_line_evaluates_and_shows_a_table(weights, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    ours = f"evaluate checkpoint={weights} model={MODEL}"
    shown = dcexp(monkeypatch, capsys, f"{ours} tasks=digits")
    assert shown.code == 0, shown.err
    assert "Handwritten digits" in shown.out and "eval_results.jsonl" in shown.out and "average" not in shown.out
    fits = " ".join(f"tasks.{name}.{k}={v}" for name, own in sizes(sets[1]).items() for k, v in own.items())
    wrong = dcexp(monkeypatch, capsys, f"{ours} evalsets={sets[0]} {fits}")
    assert wrong.code == 1 and "dcexp download" in wrong.err
    assert "(and 36 more evalsets: wds_vtab-cifar100_test, " in wrong.err
    none = dcexp(monkeypatch, capsys, "evaluate tasks=digits")
    assert none.code == 1 and "checkpoint" in none.err
