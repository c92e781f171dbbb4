"""Every family of tasks, from files in upstream's layout to its metrics, against upstream's flow written plainly."""

import math

import pytest
import upstream_evaluation as upstream

from dcexp.engines.local import Local
from tests.tasks.families import FLICKR, FOLDERS, write_families
from tests.tasks.generated import tasks
from tests.tasks.sets import MODEL, checkpoint, line_of

IMAGES = 50


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return root, write_families(root, IMAGES)


def evaluate(task, trained, out, threads=2):
    (out / "evalset").mkdir(parents=True)
    engine = Local(workers=threads)
    summary = task.data.run(out / "evalset", engine)
    assert summary.counts.add_up
    made = task.data.makes(out / "evalset")
    task.run(out, engine, checkpoint=trained, evalset=made)
    return line_of(out)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_family_gives_the_metrics_of_upstreams_flow(folder, sets, trained, tmp_path, monkeypatch):
    import torch

    from dcexp.model import model_names

    root, items = sets
    (task,) = tasks(root, {folder: items[folder]}).values()
    found = evaluate(task, trained, tmp_path)
    assert MODEL in model_names()  # and so known to open_clip, too
    monkeypatch.setattr(upstream, "WORKERS", 0)
    with torch.no_grad():
        clip = upstream.Clip.build(str(trained.weights), MODEL)
        wanted = upstream.OWN.get(found["key"], upstream.plain)(clip, root / folder)
    assert (found["key"], found["dataset"]) == (task.key, task.name)
    metrics = dict(found["metrics"])
    main = metrics.pop("main_metric")
    assert main == (pytest.approx(wanted[task.metric], abs=1e-7) if task.metric else None)
    metrics.pop("acc_worst_region_without_other", None)  # ours
    assert metrics.keys() == wanted.keys()
    for name, value in wanted.items():
        assert metrics[name] == (value if value is None else pytest.approx(value, abs=1e-6)), name
    numbers = {value for name, value in metrics.items() if value is not None and not name.startswith("count_")}
    assert len(numbers) >= 2, "metrics that are all alike say nothing"


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.startswith("wds_")])
def test_tars_and_threads_change_nothing_to_the_bit(folder, sets, trained, tmp_path):
    root, items = sets
    write_families(tmp_path / "more", IMAGES, shards=7, only=[folder])
    found = [evaluate(next(iter(tasks(root, {folder: items[folder]}).values())), trained, tmp_path / "one", 1)]
    for threads in (0, 1, 2):
        (task,) = tasks(tmp_path / "more", {folder: items[folder]}).values()
        found.append(evaluate(task, trained, tmp_path / str(threads), threads))
    assert all(line == found[0] for line in found[1:])


def test_captions_of_any_length_and_number_are_fine(trained, tmp_path):
    items = write_families(tmp_path, 23, only=[FLICKR])
    (task,) = tasks(tmp_path, items).values()
    metrics = evaluate(task, trained, tmp_path / "out")["metrics"]
    assert not any(value is None or math.isnan(value) for value in metrics.values())


def test_fewer_images_than_ten_cannot_be_searched(trained, tmp_path):
    items = write_families(tmp_path, 9, only=[FLICKR])
    (task,) = tasks(tmp_path, items).values()
    with pytest.raises(ValueError, match="10"):
        evaluate(task, trained, tmp_path / "out")


def test_a_set_with_too_few_integers_is_refused(trained, tmp_path):
    folder = "wds_wilds-fmow_test"
    items = write_families(tmp_path, 20, only=[folder])
    (task,) = tasks(tmp_path, items).values()
    (tmp_path / "out").mkdir()
    from dataclasses import replace

    from dcexp.artifacts.evalset import ClassSet, read_columns, write_columns

    task.data.run(tmp_path / "out", Local(workers=1))
    columns = read_columns(tmp_path / "out/pictures.parquet")
    write_columns(tmp_path / "out/pictures.parquet", {**columns, "metadata": [[0]] * 20})
    with pytest.raises(ValueError, match=r"year.*1"):
        task.run(tmp_path, Local(workers=1), checkpoint=trained, evalset=ClassSet(tmp_path / "out"))
    assert replace(task, mode="fast").label == "wilds/fmow-fast"


def test_features_of_a_text_do_not_depend_on_who_asked_before(trained):
    import torch

    from dcexp.tasks.clip import PROMPTS, Clip

    texts = [f"a photo of {i} things{' and more' * (i % 7)}" for i in range(2 * PROMPTS + 3)]
    one, other = (Clip(trained.weights, MODEL, "parity") for _ in range(2))
    together = one.texts(texts, "")
    assert torch.equal(
        torch.cat([other.texts(texts[i::11], "") for i in range(11)]),
        together[[j for i in range(11) for j in range(i, len(texts), 11)]],
    )
    assert torch.equal(one.texts(texts[5:7] * 2, ""), together[[5, 6, 5, 6]])


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_images_with_captions_are_resized_before_they_become_rgb(folder, sets, monkeypatch):
    asked = []
    monkeypatch.setattr("dcexp.tasks.crops.image_features", lambda *_, **how: asked.append(how))
    (task,) = tasks(sets[0], {folder: sets[1][folder]}).values()
    task.image_features(None, None, 1)
    in_tars = folder.startswith("wds_")
    assert [(how["rgb_first"], how["half"]) for how in asked] == [(in_tars, not in_tars)]
