"""Zero-shot classification against a slow reference that shares no code with it, and its refusals."""

import warnings

import numpy as np
import pytest

from dcexp.artifacts.evalset import ClassSet
from dcexp.artifacts.result import Result
from dcexp.engines.local import Local
from dcexp.stage import Step
from dcexp.store import Store
from dcexp.tasks.evalsets import ClassFolder
from dcexp.tasks.zeroshot import ZeroShot
from tests.tasks.sets import CLASSES, MODEL, TEMPLATES, Untrained, checkpoint, line_of, samples, write_set

ENGINE = Local(workers=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint")


def task_on(root, size, classes=7, **fields):
    data = ClassFolder(root=str(root.parent), folder=root.name)
    return ZeroShot(key="vtab/zoo", name="The zoo", size=size, classes=classes, data=data, **fields)


def evalset_of(task, out):
    out.mkdir()
    task.data.run(out, ENGINE)
    return ClassSet(out)


def evaluate(root, size, trained, tmp_path, **fields):
    task = task_on(root, size, **fields)
    evalset = evalset_of(task, tmp_path / "evalset")
    summary = task.run(tmp_path, ENGINE, checkpoint=trained, evalset=evalset)
    return summary, line_of(tmp_path)


def by_hand(image, size=32):
    """The evaluation transform, step by step: RGB, resize the short side, cut the middle, scale, normalise."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = image.size
    scale = size / min(width, height)
    wide, high = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    assert min(wide, high) == size and scale > 0
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / np.float32(255)
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)


def reference(trained, shards, classes):
    """One class and one image at a time, with open_clip alone: logits [n, classes] and labels [n]."""
    import io

    import open_clip
    import torch
    from PIL import Image

    from dcexp.model import load_model

    model, _ = load_model(trained.weights, MODEL)
    tokenize = open_clip.get_tokenizer(MODEL)
    columns, logits, labels = [], [], []
    with torch.no_grad():
        for name in classes:
            each = model.encode_text(tokenize([t.replace("{c}", name) for t in TEMPLATES]))
            mean = (each / each.norm(dim=1, keepdim=True)).sum(dim=0) / len(TEMPLATES)
            columns.append(mean / mean.norm())
        for sample in [s for shard in shards for s in shard]:
            image = Image.open(io.BytesIO(next(v for k, v in sample.items() if k != "cls")))
            feature = model.encode_image(torch.from_numpy(by_hand(image))[None])[0]
            logits.append([100 * float(feature @ c / feature.norm()) for c in columns])
            labels.append(int(sample["cls"]))
    return np.array(logits), np.array(labels)


@pytest.mark.parametrize("classes", [3, 5, 7])
def test_results_equal_a_slow_reference(classes, trained, tmp_path):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

    shards = [samples(31, classes, seed=1), samples(20, classes, seed=2)]
    root = write_set(tmp_path / "wds_zoo_test", shards, CLASSES[:classes])
    summary, line = evaluate(root, 51, trained, tmp_path, classes=classes, metric="mean_per_class_recall")
    logits, labels = reference(trained, shards, CLASSES[:classes])
    predicted = logits.argmax(1)
    assert len(set(predicted)) >= 3, "the reference says nothing if all its answers are alike"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recall = balanced_accuracy_score(labels, predicted)
        acc5 = top_k_accuracy_score(labels, logits, k=5, labels=range(classes)) if classes > 5 else 1.0
    assert line == {
        "key": "vtab/zoo",
        "dataset": "The zoo",
        "metrics": {
            "acc1": accuracy_score(labels, predicted),
            "acc5": None if classes < 5 else acc5,
            "mean_per_class_recall": recall,
            "main_metric": recall,
        },
    }
    assert (summary.counts.total, summary.counts.kept) == (51, 51)


def test_pixels_and_columns_equal_the_reference(trained, tmp_path):
    import io

    import torch
    from PIL import Image

    from dcexp.tasks.ahead import lone_threads
    from dcexp.tasks.classifier import class_columns
    from dcexp.tasks.clip import Clip
    from dcexp.tasks.crops import _batches

    shard = samples(14, seed=3)
    root = write_set(tmp_path / "wds_zoo_test", [shard])
    clip = Clip(trained.weights, MODEL, "parity")
    evalset = evalset_of(task_on(root, 14), tmp_path / "evalset")
    with lone_threads(2) as pool:
        (crops,) = _batches(clip, evalset, True, pool, "")
    assert crops.dtype == np.uint8 and crops.shape == (14, *clip.crop_shape)
    for pixels, sample in zip(clip._normalize(torch.from_numpy(crops).to(clip.device)).cpu(), shard, strict=True):
        image = Image.open(io.BytesIO(next(v for k, v in sample.items() if k != "cls")))
        np.testing.assert_allclose(pixels.numpy(), by_hand(image), atol=1e-6)
    columns = class_columns(clip, [[t.format(c=name) for t in TEMPLATES] for name in CLASSES], "").cpu()
    assert columns.shape == (64, 7) and columns.dtype == torch.float32
    texts = clip._tokenize([t.replace("{c}", CLASSES[2]) for t in TEMPLATES]).to(clip.device)
    with torch.no_grad():
        each = torch.nn.functional.normalize(clip._model.encode_text(texts)).mean(0).cpu()
    tolerance = 1e-6 if clip.device == "cpu" else 1e-2
    np.testing.assert_allclose(columns[:, 2], each / each.norm(), atol=tolerance)


def test_more_images_than_one_batch_and_than_are_read_ahead_come_in_order(trained, tmp_path, monkeypatch):
    from dcexp.tasks import classifier, crops
    from dcexp.tasks.clip import _loaded

    root = write_set(tmp_path / "wds_zoo_test", [samples(40), samples(21, seed=5)])
    _, whole = evaluate(root, 61, trained, tmp_path)
    monkeypatch.setattr("dcexp.tasks.clip.IMAGES", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(crops, "AT_ONCE", 2)
    monkeypatch.setattr(classifier, "ROWS", 7)
    monkeypatch.setattr("dcexp.tasks.clip.PROMPTS", 2)
    _loaded.cache_clear()  # it knows these prompts already
    (tmp_path / "again").mkdir()
    assert evaluate(root, 61, trained, tmp_path / "again")[1] == whole


def test_the_precision_a_training_has_set_does_not_reach_the_evaluation_and_is_left_as_it_was(trained, tmp_path):
    import torch

    from dcexp.fp32 import full_fp32

    root = write_set(tmp_path / "wds_zoo_test", [samples(9)])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with full_fp32():
            assert torch.get_float32_matmul_precision() == "highest"
        evaluate(root, 9, trained, tmp_path)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "size, classes, said",
    [
        (10, 7, "is not the set of task vtab/zoo: test samples: 9 for 10"),
        (8, 7, "test samples: 9 for 8"),
        (9, 6, "classes: 7 for 6"),
    ],
)
def test_a_set_of_another_size_is_refused_before_a_model_is_loaded(size, classes, said, tmp_path):
    root = write_set(tmp_path / "wds_zoo_test", [samples(9)])
    task = task_on(root, size, classes)
    with pytest.raises(ValueError, match=said):  # None as a checkpoint: it is not looked at
        task.run(tmp_path, ENGINE, checkpoint=None, evalset=evalset_of(task, tmp_path / "evalset"))


def test_an_unreadable_image_stops_the_task_and_no_result_is_written(trained, tmp_path):
    shard = samples(30)
    shard[17] = {"jpg": b"broken", "cls": b"0"}
    root = write_set(tmp_path / "wds_zoo_test", [shard])
    with pytest.raises(ValueError, match=r"0\.tar: s0000017: not a readable image"):
        evaluate(root, 30, trained, tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("template", ["a {}", "a {d}", "a {c", "a {0}", "a photo", "a {{c}}", "{c.x}"])
def test_a_template_without_the_class_name_is_refused(template, trained, tmp_path):
    root = write_set(tmp_path / "wds_zoo_test", [samples(2)], templates=[template])
    with pytest.raises(ValueError, match=r"templates\.txt: .* wanted .c. where the class name goes"):
        evaluate(root, 2, trained, tmp_path)


def test_data_must_make_an_evalset(tmp_path):
    with pytest.raises(ValueError, match=r"ZeroShot\.data: wanted EvalSource, got Untrained"):
        ZeroShot(key="t", name="T", size=1, classes=2, data=Untrained())


def test_in_a_store_a_task_is_made_once_and_a_changed_set_is_noticed(tmp_path):
    root = write_set(tmp_path / "wds_zoo_test", [samples(12)])
    store, task = Store(root=str(tmp_path / "store")), task_on(root, 12, random=0.1)
    scale = {"name": "tiny", "recipe": {"model": MODEL}}
    first, second = (Step(Untrained(), {"scale": scale, "seed": seed}) for seed in (0, 1))
    made = store.build(task.step(first), ENGINE)
    assert isinstance(made, Result)
    assert made.path.parent.name == "result" and made.path.name.startswith("vtab_zoo-")
    assert made.summary["counts"]["kept"] == 12 and made.summary["random"] == 0.1
    assert made.summary["main_metric"] == made.line["metrics"]["acc1"]
    assert list(made.manifest["lineage"]["inputs"]) == ["checkpoint", "evalset"]
    assert store.build(task.step(first), ENGINE).manifest["created"] == made.manifest["created"]
    assert task.step(first).key == task_on(root, 12, random=0.5).step(first).key, "guessing changes no result"
    assert task.step(first).key != task.step(second).key
    planned = task.step(second)
    (root / "classnames.txt").write_text("\n".join(reversed(CLASSES)))
    with pytest.raises(ValueError, match=r"classnames\.txt changed since .* rebuild=evalset"):
        store.build(planned, ENGINE)
    again = store.build(task.step(first), ENGINE)
    assert again.manifest["key"] != made.manifest["key"], "a result of the old class names was kept"


@pytest.mark.gpu
def test_a_gpu_gives_the_answers_of_the_cpu(trained, tmp_path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    shards = [samples(70, seed=8)]
    root = write_set(tmp_path / "wds_zoo_test", shards)
    _, line = evaluate(root, 70, trained, tmp_path)
    logits, labels = reference(trained, shards, CLASSES)
    assert line["metrics"]["acc1"] == pytest.approx((logits.argmax(1) == labels).mean(), abs=2 / 70)
