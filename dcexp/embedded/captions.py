"""The words around a scan: captions that fit, in English and other languages, and the web's usual rest."""

import numpy as np

from dcexp.embedded.scans import CLASS_NAMES

ENGLISH = (
    "a photo of the number {}",
    "a photo of the handwritten number {}",
    "the number {} written by hand",
    "a handwritten {} scanned from a form",
    "scan of the digit {}",
    "handwritten digit {}",
    "the digit {} in someone's handwriting",
    "close up of a {} drawn with a pen",
    "number {} written on paper",
    "postal code digit {} from an envelope",
    "how to write the number {}",
    "{} | handwriting practice sheet",
    "my kid's drawing of the number {}",
    "{}",
)
NUMERAL_SHARE = 0.3

FOREIGN_WORDS = {
    "foto del número {} escrito a mano": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "le chiffre {} écrit à la main": "zéro un deux trois quatre cinq six sept huit neuf",
    "handgeschriebene Ziffer {} auf Papier": "null eins zwei drei vier fünf sechs sieben acht neun",
    "il numero {} scritto a mano": "zero uno due tre quattro cinque sei sette otto nove",
    "o número {} escrito à mão": "zero um dois três quatro cinco seis sete oito nove",
    "odręcznie napisana cyfra {}": "zero jeden dwa trzy cztery pięć sześć siedem osiem dziewięć",
    "手写数字{}的照片": "零 一 二 三 四 五 六 七 八 九",
    "рукописная цифра {}": "ноль один два три четыре пять шесть семь восемь девять",
}

UNRELATED = (
    "Buy {a} get {b} free - summer sale ends tonight",
    "{a} bedroom apartment for rent near the station",
    "Top {b} places to visit this autumn",
    "Vintage postcard lot of {a}, good condition",
    "Free shipping on all orders over ${b}0",
    "Contact us | About | Terms of service",
    "Wedding dress with long sleeves, size {b}",
    "Best chocolate cake recipe with {a} ingredients",
    "Blue ceramic coffee mug on a wooden table",
    "Chapter {b}: the road to the north",
    "Mountain bike, {a} gears, barely used",
    "Season {a} episode {b} recap and review",
    "Portrait of a woman in a red coat",
    "Download our free e-book about gardening",
    "Sunset over the harbour, stock photo",
    "Led Zeppelin - live at the arena poster",
    "Zimmer mit Frühstück und Blick auf den See",
    "Zapatos de cuero para hombre, envío gratis",
    "Recette de tarte aux pommes facile et rapide",
    "Meeting notes of {a} {b} approved by the board",
)

BLANK = ("", " ", "…", "-", "untitled", "image", "IMG_{:04d}.jpg", "DSC{:05d}.JPG", "scan{:03d}.png", "photo {:d}")


def english(digit: int, rng: np.random.Generator) -> str:
    """An English caption that names `digit`, as a word or as a numeral."""
    name = str(digit) if rng.random() < NUMERAL_SHARE else CLASS_NAMES[digit]
    return ENGLISH[rng.integers(len(ENGLISH))].format(name)


def foreign(digit: int, rng: np.random.Generator) -> str:
    """A caption that names `digit` in another language."""
    template, words = list(FOREIGN_WORDS.items())[rng.integers(len(FOREIGN_WORDS))]
    return template.format(words.split()[digit])


def unrelated(rng: np.random.Generator) -> str:
    """Text of a page that has nothing to do with the image; a number word may turn up in it by accident."""
    a, b = rng.integers(10, size=2)
    return UNRELATED[rng.integers(len(UNRELATED))].format(a=CLASS_NAMES[a], b=b)


def blank(rng: np.random.Generator) -> str:
    """Alt text that says nothing: empty, punctuation, a file name."""
    return BLANK[rng.integers(len(BLANK))].format(int(rng.integers(1000)))
