"""A synthetic CommonPool: metadata files with the columns, the sizes and the kind of captions of the real one.

    python benchmarks/pool.py /data/synthetic 1280000               # metadata/*.parquet, 26 files
    python benchmarks/pool.py /data/synthetic 128000 --features     # and metadata/*.npz with l14_img

The same arguments give the same samples. Shares are near CommonPool's (DataComp, Table 26: 49 % are English, 68 % have
long enough captions, 61 % large enough images, 23 % all of these; here 49, 76, 63 and 23). Captions are English, of
eleven other languages, or junk (file names, numbers); words come by Zipf's law, with capitals and punctuation, and new
ones keep coming, several hundred thousand in a million captions. Some hold what breaks programs: line breaks, foreign
spaces, emoji, NUL, nothing at all.
"""

import argparse
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ENGLISH = 0.60  # shares of captions; what is left is in the other languages
JUNK = 0.30
LANGUAGES = {
    "de": "der die und mit für von das eine Haus ist nicht Bild schöne alte Garten Küche neue Wohnung Straße kaufen",
    "fr": "le la les des et une pour avec dans sur maison votre jardin voiture nouvelle cuisine française été chez",
    "es": "de la el en con para los una por casa niños nuevo cocina mejor cómo fotos mujer coche precio España",
    "pt": "de para com uma em não os casa você mais fotos como melhor preço mulher criança São cozinha carro nova",
    "it": "di il per con una della casa nel gli cucina vendita nuovo come donna bambini prezzo migliore città più foto",
    "nl": "de het een van met voor op huis niet mooie nieuwe keuken tuin kopen bij kinderen oude straat zijn fiets",
    "pl": "w na z do się dla dom nie zdjęcie nowy jak kuchnia dzieci ogród sprzedaż mieszkanie samochód jest cena są",
    "ru": "в на с и для дом как не фото новый купить кухня дети машина цена квартира женщина город своими руками",
    "tr": "ve bir için ile ev yeni nasıl çok fiyat kadın çocuk mutfak resim araba güzel en iyi satılık şehir değil",
    "ja": "写真 の 家 新しい 料理 に は を 画像 日本 東京 価格 です した 女性 車 人気 おすすめ 無料 について",
    "zh": "图片 的 家 新 料理 在 是 北京 价格 女人 汽车 我们 中国 免费 下载 设计 公司 我 产品 最好",
}
DRESSES = {"{}": 0.69, "{}s": 0.04, "{}'s": 0.01, "{},": 0.05, "{}.": 0.02, "({})": 0.01}  # and the rest by case
CASES = {"capitalize": 0.16, "upper": 0.02}
SYLLABLES = "ba bel chi da den el fer gan ha im jo ka lan lu mar mi na no or pe qui ra ri sa son ta ti ul va wen yo zed"
ODD = [
    "line\nbreak",
    "\n",
    "tab\there",
    "tea\u3000house",
    "no\u00a0break",
    "\x0b",
    "\x85",
    "nul\x00byte",
    "🙂",
    "❤️",
    "\u200b",
]
ODD += [
    "\r\n",
    "&amp;",
    "<b>sale</b>",
    "it\u2019s",
    "-",
    "|",
    "…",
    "ﬁne",
    "İstanbul",
    "\u2028",
    "%20",
    "e\u0301te",
    "\ufeff",
]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """What to generate. Without ``text`` only what a score filter reads is there, which is quick at any size."""

    rows: int
    files: int = 26
    seed: int = 0
    text: bool = True
    features: bool = False

    def write(self, root: Path) -> None:
        """Write the pool to ``root``, whole or not at all; one that is there already must be this one, or have more."""
        said = root / "synthetic.json"
        if root.exists():
            if not said.is_file() or not self._part_of(Synthetic(**json.loads(said.read_text()))):
                raise ValueError(f"{root} is there and is not {self}: name another folder, or delete it")
            return
        partial = root.with_name(f"{root.name}.partial")
        (partial / "metadata").mkdir(parents=True)
        for number in range(self.files):
            self._write_part(partial / "metadata" / f"{number:08d}", number)
        (partial / said.name).write_text(json.dumps(asdict(self)))
        partial.rename(root)

    def _part_of(self, other: "Synthetic") -> bool:
        same = (self.rows, self.files, self.seed) == (other.rows, other.files, other.seed)
        return same and self.text <= other.text and self.features <= other.features

    def _write_part(self, stem: Path, number: int) -> None:
        import pyarrow.parquet as pq

        rows = self.rows // self.files + (number < self.rows % self.files)
        rng = np.random.default_rng([self.seed, number])
        pq.write_table(self._table(rng, rows), stem.with_suffix(".parquet"))
        if self.features:
            np.savez(stem.with_suffix(".npz"), l14_img=features(rng, rows))

    def _table(self, rng: np.random.Generator, rows: int) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.compute as pc

        columns: dict[str, Any] = {"uid": hex_digits(rng, rows, 32)}
        if self.text:
            columns["url"] = pc.binary_join_element_wise("https://images.example.com/", columns["uid"], ".jpg", "")
            columns["text"] = self._captions.draw(rng, rows)
        columns["original_width"], columns["original_height"] = image_sizes(rng, rows)
        columns |= clip_scores(rng, rows)
        if self.text:
            columns["face_bboxes"] = face_boxes(rng, rows)
            columns["sha256"] = hex_digits(rng, rows, 64)
        return pa.table(columns)

    @cached_property
    def _captions(self) -> "Captions":
        return Captions()


class Captions:
    """Captions, drawn for a whole file at once: numbers of words first, then one gather of the words themselves.

    A word is (word of a language) x (dress), or one of the rare words that are made up anew for each file.
    """

    def __init__(self) -> None:
        languages = [english_words(), *(foreign_words(line.split()) for line in LANGUAGES.values())]
        self._sizes = np.array([len(words) for words in languages])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._words = [dressed for words in languages for word in words for dressed in dresses(word)]
        shares = [*DRESSES.values(), *CASES.values()]
        self._dresses = np.array(shares) / sum(shares)

    def draw(self, rng: np.random.Generator, rows: int) -> "pa.StringArray":
        """``rows`` captions."""
        import pyarrow as pa

        junk = rng.random(rows) < JUNK
        lengths = np.exp(rng.normal(2.2, 0.7, rows)).astype(np.int64).clip(1, 80)
        lengths = np.where(junk, 1 + lengths // 6, lengths) * (rng.random(rows) > 0.001)
        rare = list(rare_words(rng, rows * 2 // 5 + 100))
        words, ends = self._numbers(rng, junk, lengths, len(rare)), np.cumsum(lengths)
        everything = self._words + rare
        words[ends[lengths > 0] - 1] += len(everything)  # the last word of a caption has no space behind it
        texts = pa.array([f"{word} " for word in everything] + everything).take(pa.array(words))
        _, offsets, data = texts.buffers()
        starts = np.frombuffer(offsets, dtype=np.int32)[np.append(0, ends)]
        return pa.StringArray.from_buffers(rows, pa.py_buffer(starts.tobytes()), data)

    def _numbers(self, rng: np.random.Generator, junk: np.ndarray, lengths: np.ndarray, rare: int) -> np.ndarray:
        """The number of each word of each caption, one after the other; the rare ones come last."""
        chances = [ENGLISH, *[(1 - ENGLISH) / len(LANGUAGES)] * len(LANGUAGES)]
        language = np.repeat(rng.choice(len(chances), len(junk), p=chances), lengths)
        rarity = np.repeat(np.where(junk, 1.0, rng.beta(0.5, 1.5, len(junk))), lengths)
        words = self._starts[language] + zipf(rng, self._sizes[language])
        dress = rng.choice(len(self._dresses), len(words), p=self._dresses)
        made_up = len(self._words) + zipf(rng, np.full(len(words), rare))
        return np.where(rng.random(len(words)) < rarity, made_up, words * len(self._dresses) + dress)


def zipf(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """For each size n, a number below n, where k comes about as often as 1 / (k + 1)."""
    return (sizes ** rng.random(len(sizes))).astype(np.int64) - 1


def english_words() -> list[str]:
    """The words of timm's names and definitions of ImageNet's classes, most frequent first."""
    found = importlib.util.find_spec("timm")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "data" / "_info"
    counts: Counter[str] = Counter()
    for name in ("imagenet_synset_to_definition.txt", "imagenet_synset_to_lemma.txt"):
        counts.update(re.findall(r"[A-Za-z][\w'-]*", (folder / name).read_text(encoding="utf-8")))
    return sorted(counts, key=lambda word: (-counts[word], word))


def foreign_words(words: list[str]) -> list[str]:
    """A language of a few words and all their pairs."""
    return words + [first + second for second in words for first in words]


def dresses(word: str) -> list[str]:
    """The ways a word stands in a caption, in the order of ``DRESSES`` and ``CASES``."""
    return [form.format(word) for form in DRESSES] + [getattr(word, case)() for case in CASES]


def rare_words(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Names, numbers, file names and oddities."""
    syllables = SYLLABLES.split()
    kinds, numbers = rng.integers(0, 10, count).tolist(), rng.integers(0, 10**7, count).tolist()
    parts = rng.integers(0, len(syllables), (count, 3)).tolist()
    for i, (kind, number, part) in enumerate(zip(kinds, numbers, parts, strict=True)):
        if i % 50 == 20:
            yield ODD[number % len(ODD)]
        elif kind < 5:
            yield "".join(syllables[k] for k in part).capitalize()
        elif kind < 7:
            yield str(number % 10**kind)
        else:
            yield ("IMG_{:04d}.jpg", "{}x{}", "SKU-{:06X}")[kind - 7].format(number, number % 1000)


def hex_digits(rng: np.random.Generator, rows: int, digits: int) -> "pa.StringArray":
    """Random hexadecimal strings."""
    import pyarrow as pa

    offsets = np.arange(0, (rows + 1) * digits, digits, dtype=np.int32)
    data = rng.bytes(rows * digits // 2).hex().encode()
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data))


def image_sizes(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights, often round; about 60 % are at least 200 on both sides and at most three to one."""
    width = np.exp(rng.normal(5.8, 0.8, rows))
    height = width * np.exp(rng.normal(-0.1, 0.5, rows))
    step = np.where(rng.random(rows) < 0.4, 50, 1)
    return tuple((np.maximum(1, np.rint(side / step)) * step).astype(np.int64) for side in (width, height))  # type: ignore[return-value]


def clip_scores(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Correlated scores with CommonPool's quantiles: the top 30 % begin at .281 (B/32) and .243 (L/14)."""
    b32, other = rng.normal(size=(2, rows))
    scores = {"b32": 0.248 + 0.062 * b32, "l14": 0.204 + 0.073 * (0.8 * b32 + 0.6 * other)}
    return {f"clip_{arch}_similarity_score": score for arch, score in scores.items()}


def face_boxes(rng: np.random.Generator, rows: int) -> "pa.ListArray":
    """A list of boxes for each image, empty for most."""
    import pyarrow as pa

    faces = np.append(0, np.cumsum(rng.poisson(0.2, rows)))
    boxes = pa.ListArray.from_arrays(np.arange(0, 4 * faces[-1] + 1, 4, dtype=np.int32), rng.random(4 * faces[-1]))
    return pa.ListArray.from_arrays(pa.array(faces, pa.int32()), boxes)


def features(rng: np.random.Generator, rows: int, width: int = 768) -> np.ndarray:
    """Random directions, in half precision as CommonPool's are."""
    vectors = rng.standard_normal((rows, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("--files", type=int, default=26)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-text", dest="text", action="store_false", help="only uids, sizes and scores")
    parser.add_argument("--features", action="store_true", help="l14_img beside each file")
    values = vars(parser.parse_args())
    root = values.pop("root")
    Synthetic(**values).write(root)


if __name__ == "__main__":
    main()
