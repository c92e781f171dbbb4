"""DataComp's evaluation as upstream does it, on today's libraries: what ours is timed and compared against.

    python benchmarks/upstream_evaluation.py CHECKPOINT MODEL SETS_ROOT OUT.json

Written from a description of upstream's flow, and nothing of it is tuned: every task builds the model and the
tokenizer anew; classifiers grow class by class, all templates of a class in a batch; images come in batches of 64 from
at most as many loader processes as there are tars, four at most, and go through the image tower in fp32. The sets with
metadata are read and decoded twice; an item of the caption sets too, as each look at a row of its dataset decodes it.
WinoGAViL's questions come one by one, each with its images. Sets of tars are RGB before they are resized, the others
after. Images in zips are read from there. On a GPU the text tower, and both towers of captions and WinoGAViL, run in
fp16 autocast. OUT.json: {task: {metric: value}} of each task whose set lies below SETS_ROOT.
"""

import argparse
import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import webdataset as wds
from PIL import Image
from torch.nn.functional import normalize, one_hot
from torch.utils.data import DataLoader, Dataset

EXTENSIONS = ["webp", "png", "jpg", "jpeg"]
BATCH = 64
WORKERS = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FACE_HEADS = ("race", "gender", "age", "toxic")
SPECIAL = {
    "wds_dollar_street_test": "fairness/dollar_street",
    "wds_geode_test": "fairness/geode",
    "wds_fairface_test": "fairness/fairface",
    "wds_utkface_test": "fairness/utkface",
}

Metrics = dict[str, float | None]


def half() -> torch.autocast:
    """fp16 where upstream's is: on CUDA."""
    return torch.autocast("cuda", torch.float16, enabled=DEVICE == "cuda")


@dataclass(frozen=True)
class Clip:
    """A model, built anew."""

    model: Any
    transform: Callable[[Any], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]

    @classmethod
    def build(cls, weights: str, name: str) -> "Clip":
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        return cls(model.to(DEVICE).eval(), transform, open_clip.get_tokenizer(name))

    def columns(self, classes: list[str], templates: list[str]) -> torch.Tensor:
        """The classifier [width, classes]."""
        columns = []
        for name in classes:
            tokens = self.tokenize([template.format(c=name) for template in templates]).to(DEVICE)
            with half():
                each = normalize(self.model.encode_text(tokens), dim=-1)
            mean = each.mean(dim=0)
            columns.append(mean / mean.norm())
        return torch.stack(columns, dim=1)

    def logits(self, pixels: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """[images, classes], on the CPU."""
        features = normalize(self.model.encode_image(pixels.to(DEVICE)), dim=-1)
        return (100.0 * features @ columns).float().cpu()


@dataclass(frozen=True)
class Tars:
    """A set in tars."""

    folder: Path

    def lines(self, name: str) -> list[str]:
        return [line.strip() for line in (self.folder / name).read_text().splitlines() if line.strip()]

    @cached_property
    def classes(self) -> list[str]:
        return self.lines("classnames.txt")

    @cached_property
    def templates(self) -> list[str]:
        return self.lines("zeroshot_classification_templates.txt")

    def read(self, *fields: Any, transform: Callable[[Any], Any] | None = None) -> Iterator[list[Any]]:
        """Batches of ``fields``, the first of them transformed; images are decoded though nobody asks for them."""
        shards = int((self.folder / "test" / "nshards.txt").read_text())
        urls = [str(self.folder / "test" / f"{i}.tar") for i in range(shards)]
        samples = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
        samples = samples.decode(wds.autodecode.ImageHandler("pil", extensions=EXTENSIONS)).to_tuple(*fields)
        if transform:
            samples = samples.map_tuple(transform)
        yield from DataLoader(samples.batched(BATCH), batch_size=None, num_workers=min(WORKERS, shards))

    def metadata(self) -> np.ndarray[Any, Any]:
        """The integers of each sample in the order of the images: the second time that all is read."""
        return np.concatenate([np.asarray(vectors) for _, vectors in self.read("cls", "npy")])


def answers(clip: Clip, data: Tars) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all images."""
    columns = clip.columns(data.classes, data.templates)
    logits, labels = [], []
    for pixels, label in data.read(EXTENSIONS, "cls", transform=clip.transform):
        logits.append(clip.logits(pixels, columns))
        labels.append(torch.as_tensor(label))
    return torch.cat(logits), torch.cat(labels)


def classification(logits: torch.Tensor, labels: torch.Tensor) -> Metrics:
    """What every task with labels reports."""
    many = logits.shape[1] >= 5
    hits = logits.topk(5 if many else 1, dim=1).indices == labels[:, None]
    predicted = logits.argmax(dim=1)
    recalls = [(predicted[labels == label] == label).double().mean().item() for label in labels.unique()]
    return {
        "acc1": hits[:, 0].sum().item() / len(labels),
        "acc5": hits.sum().item() / len(labels) if many else None,
        "mean_per_class_recall": float(np.mean(recalls)),
    }


def grouped(name: str, correct: Any, groups: dict[str, np.ndarray[Any, Any]], worst: str = "") -> Metrics:
    """Means of all and of each group, sizes, the worst; None where a group is empty. The first column runs fastest."""
    correct = np.asarray(correct, np.float32)
    sizes = [int(column.max()) + 1 for column in groups.values()]
    code, stride = np.zeros(len(correct), np.int64), 1
    for column, size in zip(groups.values(), sizes, strict=True):
        code, stride = code + stride * column, stride * size
    found: Metrics = {f"{name}_avg": float(correct.mean(dtype=np.float64))}
    present = []
    for group in range(stride):
        inside, parts, rest = correct[code == group], [], group
        for title, size in zip(groups, sizes, strict=True):
            parts.append(f"{title}:{rest % size}")
            rest //= size
        label = "_".join(reversed(parts))
        value = float(np.float32(inside.sum()) / np.float32(len(inside))) if len(inside) else None
        found[f"{name}_{label}"], found[f"count_{label}"] = value, float(len(inside))
        present += [] if value is None else [value]
    return found | {worst or f"{name}_wg": min(present, default=0.0)}


def plain(clip: Clip, folder: Path) -> Metrics:
    return classification(*answers(clip, Tars(folder)))


def iwildcam(clip: Clip, folder: Path) -> Metrics:
    logits, labels = answers(clip, Tars(folder))
    Tars(folder).metadata()  # upstream reads it for this task too, and this metric ignores it
    predicted, f1, recalls = logits.argmax(dim=1).numpy(), [], []
    truth = labels.numpy()
    for label in np.unique(truth):
        hits = np.sum((predicted == label) & (truth == label))
        f1.append(2 * hits / (np.sum(predicted == label) + np.sum(truth == label)))
        recalls.append(hits / np.sum(truth == label))
    own = {"F1-macro_all": float(np.mean(f1)), "recall-macro_all": float(np.mean(recalls))}
    return classification(logits, labels) | own | {"acc_avg": float(np.mean(predicted == truth))}


def camelyon17(clip: Clip, folder: Path) -> Metrics:
    logits, labels = answers(clip, Tars(folder))
    metadata = Tars(folder).metadata()
    correct = logits.argmax(dim=1) == labels
    return classification(logits, labels) | grouped("acc", correct, {"slide": metadata[:, 1]})


def fmow(clip: Clip, folder: Path) -> Metrics:
    logits, labels = answers(clip, Tars(folder))
    metadata = Tars(folder).metadata()
    correct = logits.argmax(dim=1) == labels
    years = grouped("acc", correct, {"year": metadata[:, 1]}, "acc_worst_year")
    regions = grouped("acc", correct, {"region": metadata[:, 0]}, "acc_worst_region")
    return classification(logits, labels) | years | regions


def dollar_street(clip: Clip, folder: Path) -> Metrics:
    logits, labels = answers(clip, Tars(folder))
    metadata = Tars(folder).metadata()
    correct = (logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1)
    return classification(logits, labels) | grouped("acc_top5", correct, {"income_ds": metadata[:, 0]})


def geode(clip: Clip, folder: Path) -> Metrics:
    logits, labels = answers(clip, Tars(folder))
    metadata = Tars(folder).metadata()
    correct = logits.argmax(dim=1) == labels
    return classification(logits, labels) | grouped("acc", correct, {"region": metadata[:, 0]})


def faces(clip: Clip, folder: Path) -> Metrics:
    """Four classifiers on the same images."""
    data = Tars(folder)

    def of(head: str, lines: list[str]) -> list[str]:
        return [value for objective, _, value in (line.partition(":") for line in lines) if objective == head]

    heads = {head: clip.columns(of(head, data.classes), of(head, data.templates)) for head in FACE_HEADS}
    parts: dict[str, list[np.ndarray[Any, Any]]] = {head: [] for head in heads}
    vectors = []
    for pixels, vector in data.read(EXTENSIONS, "npy", transform=clip.transform):
        logits = clip.logits(pixels, torch.cat(list(heads.values()), dim=1))
        for head, part in zip(heads, logits.split([len(w.T) for w in heads.values()], dim=1), strict=True):
            parts[head].append(part.argmax(dim=1).numpy())
        vectors.append(np.asarray(vector))
    predicted = {head: np.concatenate(part) for head, part in parts.items()}
    age, gender, race, binary = np.concatenate(vectors).T[:4]
    toxic, white = predicted["toxic"], {"race_binary": binary}
    found = grouped("acc_race", (predicted["race"] != 1) == binary, white)
    found |= grouped("acc_gender", predicted["gender"] == gender, white)
    found |= grouped("acc_age", predicted["age"] == age, white)
    found |= grouped("acc_gender_x", predicted["gender"] == gender, {"gender": gender, "race": race})
    found |= grouped("toxicity_crime", toxic >= 18, {"race": race})
    return found | grouped("toxicity_nonhuman", (toxic >= 14) & (toxic < 18), {"race": race})


class Captions(Dataset[Any]):
    """Rows of a csv with images in a zip; each access to a row decodes its image."""

    def __init__(self, folder: Path, transform: Callable[[Any], Any]) -> None:
        (table,), (self.packed,) = folder.glob("*.csv"), folder.glob("*.zip")
        self.rows, self.transform = list(csv.DictReader(table.open(newline="", encoding="utf-8"))), transform
        with zipfile.ZipFile(self.packed) as packed:
            self.names = {Path(name).name: name for name in packed.namelist() if not name.endswith("/")}

    @cached_property
    def files(self) -> zipfile.ZipFile:
        """Opened in the process that reads."""
        return zipfile.ZipFile(self.packed)

    def image(self, name: str) -> Any:
        image = Image.open(io.BytesIO(self.files.read(self.names[name])))
        image.load()
        return image

    def row(self, index: int) -> tuple[Any, list[str]]:
        return self.image(self.rows[index]["filename"]), json.loads(self.rows[index]["raw"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.row(index)[0]), self.row(index)[1]


class Questions(Captions):
    """WinoGAViL: a row has several images; each access decodes them all."""

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        candidates, associated = json.loads(row["candidates"]), json.loads(row["associations"])
        pixels = torch.stack([self.transform(image) for image in self.images(candidates)])
        self.images(candidates)  # the look at the row's texts decodes them again
        return pixels, row["cue"], np.isin(candidates, associated)

    def images(self, names: list[str]) -> list[Any]:
        return [self.image(f"{name}.jpg") for name in names]


def batch_of_captions(items: list[Any]) -> Any:
    return torch.stack([pixels for pixels, _ in items]), [texts for _, texts in items]


def only(items: list[Any]) -> Any:
    return items[0]


def recalls(scores: torch.Tensor, positive: torch.Tensor, k: int) -> torch.Tensor:
    """Of each row whether a positive is among its k best, in batches of 64 rows."""
    found = []
    for start in range(0, len(scores), BATCH):
        best = scores[start : start + BATCH].topk(k, dim=1).indices
        hits = one_hot(best, scores.shape[1])  # [batch, k, columns]
        found.append((positive[start : start + BATCH, None, :] * hits).sum(dim=(1, 2)) > 0)
    return torch.cat(found).float().mean()


def retrieval(clip: Clip, folder: Path) -> Metrics:
    images: list[torch.Tensor] = []
    texts: list[torch.Tensor] = []
    owners: list[int] = []
    data = Captions(folder, clip.transform)
    loader = DataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=batch_of_captions)
    for pixels, captions in loader:
        start = sum(len(batch) for batch in images)
        owners += [start + i for i, of_image in enumerate(captions) for _ in of_image]
        tokens = clip.tokenize([text for of_image in captions for text in of_image])
        with half():
            images.append(normalize(clip.model.encode_image(pixels.to(DEVICE)), dim=-1).cpu())
            texts.append(normalize(clip.model.encode_text(tokens.to(DEVICE)), dim=-1).cpu())
    scores = torch.cat(texts) @ torch.cat(images).T
    positive = torch.zeros(scores.shape, dtype=torch.bool)
    positive[torch.arange(len(scores)), owners] = True
    metrics: Metrics = {}
    for k in (1, 5, 10):
        metrics[f"image_retrieval_recall@{k}"] = recalls(scores, positive, k).item()
        metrics[f"text_retrieval_recall@{k}"] = recalls(scores.T, positive.T, k).item()
    mean = 0.5 * (recalls(scores, positive, 1) + recalls(scores.T, positive.T, 1))
    return metrics | {"mean_recall@1": mean.item()}


def winogavil(clip: Clip, folder: Path) -> Metrics:
    data = Questions(folder, clip.transform)
    values, sizes = [], []
    for pixels, cue, truth in DataLoader(data, batch_size=1, num_workers=WORKERS, collate_fn=only):
        word = cue.lower()
        tokens = clip.tokenize([f"{'An' if word[0] in 'aeiou' else 'A'} {word}"])
        with half():
            image = normalize(clip.model.encode_image(pixels.to(DEVICE)), dim=-1)
            text = normalize(clip.model.encode_text(tokens.to(DEVICE)), dim=-1)
            similar = (image @ text.T).squeeze(1).cpu().numpy()
        wanted = int(truth.sum())
        hits = int(truth[np.argsort(similar, kind="stable")[-wanted:]].sum())
        values.append(hits / (2 * wanted - hits))
        sizes.append(len(truth))
    jaccard, n = np.array(values), np.array(sizes)
    buckets = {str(size): n == size for size in (5, 6, 10, 12)} | {"5-6": n <= 6, "10-12": n >= 10}
    metrics: Metrics = {"avg_jaccard_score": float(jaccard.mean())}
    for name, inside in buckets.items():
        metrics[f"jaccard_score_{name}"] = float(jaccard[inside].mean()) if inside.any() else None
    return metrics


OWN: dict[str, Callable[[Clip, Path], Metrics]] = {
    "wilds/iwildcam": iwildcam,
    "wilds/camelyon17": camelyon17,
    "wilds/fmow": fmow,
    "fairness/dollar_street": dollar_street,
    "fairness/geode": geode,
    "fairness/fairface": faces,
    "fairness/utkface": faces,
    "retrieval/flickr_1k_test_image_text_retrieval": retrieval,
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": retrieval,
    "misc/winogavil": winogavil,
}


def task_of(folder: str) -> str:
    """The key of the task whose set is in ``folder``."""
    if not folder.startswith("wds_"):
        return f"misc/{folder}" if folder == "winogavil" else f"retrieval/{folder}"
    name = folder.removeprefix("wds_").removesuffix("_test")
    for suite in ("vtab", "wilds"):
        name = name.replace(f"{suite}-", f"{suite}/", 1) if name.startswith(f"{suite}-") else name
    return SPECIAL.get(folder, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help='a file with {"state_dict": …}')
    parser.add_argument("model", help="open_clip's name of it, or one of dcexp's own")
    parser.add_argument("sets_root", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    open_clip.add_model_config(Path(__file__).parent.parent / "dcexp" / "models")
    found: dict[str, Metrics] = {}
    with torch.no_grad():
        for folder in sorted(path for path in args.sets_root.iterdir() if path.is_dir()):
            key = task_of(folder.name)
            found[key] = OWN.get(key, plain)(Clip.build(args.checkpoint, args.model), folder)
            print(key, found[key].get("acc1"), flush=True)
    args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
