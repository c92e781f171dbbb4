"""WordNet as a look-up: the first synset of a word, as nltk's ``wordnet.synsets(word)[0].offset()`` gives it."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcexp.published import wordnet_files

Suffixes = Literal["repeated", "once"]
FirstOffset = Callable[[str], int | None]

# How the end of an inflected form is replaced to find a base form (WordNet's manual, morphy(7WN); "ves" and "men"
# are nltk's). The order, of the parts of speech and of the rules, decides which synset is the first.
RULES = {
    "noun": ("s>", "ses>s", "ves>f", "xes>x", "zes>z", "ches>ch", "shes>sh", "men>man", "ies>y"),
    "verb": ("s>", "ies>y", "es>e", "es>", "ed>e", "ed>", "ing>e", "ing>"),
    "adj": ("er>", "est>", "er>e", "est>e"),
    "adv": (),
}


@functools.cache
def wordnet(home: Path, suffixes: Suffixes) -> FirstOffset:
    """The look-up in WordNet's files at ``home``, a folder or zip: the offset of a word's first synset, or None.

    The first part of speech that knows the word, in lower case, decides: as it stands, else by the list of exceptions,
    else with its end replaced. ``suffixes`` says whether that is done once, as nltk does since 3.9, or again and again
    until something is found, as nltk 3.8.1 did.
    """
    files = wordnet_files(home)
    speeches = [_speech(files[f"index.{pos}"], files[f"{pos}.exc"], rules) for pos, rules in RULES.items()]
    listed = {word for speech in speeches for word in (*speech.offsets, *speech.exceptions)}
    endings = tuple({old for speech in speeches for old, _ in speech.rules})

    def first_offset(word: str) -> int | None:
        word = word.lower()
        if word not in listed and not word.endswith(endings):
            return None
        for speech in speeches:
            if (offset := speech.first(word, repeat=suffixes == "repeated")) is not None:
                return offset
        return None

    return first_offset


@dataclass(frozen=True)
class Speech:
    """One part of speech: the first offset of every lemma, irregular forms with their lemmas, pairs of endings."""

    offsets: dict[str, int]
    exceptions: dict[str, list[str]]
    rules: list[tuple[str, str]]

    def first(self, form: str, *, repeat: bool) -> int | None:
        """The first synset's offset for a form."""
        if (offset := self.offsets.get(form)) is not None:
            return offset
        if (lemmas := self.exceptions.get(form)) is not None:
            return self._any(lemmas)
        forms = self._stripped([form])
        while forms:
            if (offset := self._any(forms)) is not None or not repeat:
                return offset
            forms = self._stripped(forms)
        return None

    def _stripped(self, forms: Iterable[str]) -> list[str]:
        return [form[: -len(old)] + new for form in forms for old, new in self.rules if form.endswith(old)]

    def _any(self, forms: Iterable[str]) -> int | None:
        for form in forms:
            if form in self.offsets:
                return self.offsets[form]
        return None


def _speech(index: bytes, exceptions: bytes, rules: Iterable[str]) -> Speech:
    """Read the files (formats: wndb(5WN)). A line of the index ends in the offsets, by sense; field 2 counts them."""
    lemmas = (line.split() for line in index.decode().split("\n") if line and line[0] != " ")
    irregular = (line.split() for line in exceptions.decode().split("\n") if line)
    return Speech(
        {fields[0]: int(fields[-int(fields[2])]) for fields in lemmas},
        {form: bases for form, *bases in irregular},
        [(old, new) for old, _, new in (rule.partition(">") for rule in rules)],
    )
