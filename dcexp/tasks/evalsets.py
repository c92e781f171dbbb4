"""Evaluation sets that were downloaded: indexed where they lie."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.evalset import LAYOUT, EvalSetIndex, listing, test_tars
from dcexp.engines.base import Engine
from dcexp.stage import Step, Value
from dcexp.tasks.base import EvalSource
from dcexp.tasks.examples import count_examples


@dataclass(frozen=True, kw_only=True)
class LocalEvalSet(EvalSource):
    """The evaluation set in ``<root>/<folder>``, in upstream's layout (``wds_<name>_test``); nothing is copied.

    Indexing reads the headers of the tars: a truncated one is found here, before a model is loaded.
    """

    root: str = field(compare=False)
    folder: str

    def step(self) -> Step:
        """The step, with the absolute path and a digest of the listing: other files are another set."""
        folder = Path(self.root).expanduser().resolve() / self.folder
        try:
            files = json.dumps(listing(folder), sort_keys=True)
        except (FileNotFoundError, NotADirectoryError):
            files = "missing"
        return Step(self, {"path": str(folder), "listing": hashlib.sha256(files.encode()).hexdigest()})

    @property
    def label(self) -> str:
        return self.folder

    def check(self, engine: Engine, **values: Value) -> None:
        """Raise FileNotFoundError, saying where it was looked for and how to get it, if any file is missing."""
        folder = Path(self.root).expanduser() / self.folder
        try:
            listing(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"no evaluation set in {folder.absolute()}: {error.filename} is not there.\n"
                f"Wanted: {LAYOUT}. To get it:\n"
                f"  hf download djghosh/{self.folder} --repo-type dataset --local-dir {folder}\n"
                "or say where it lies: evalsets=DIR"
            ) from None

    def run(self, out: Path, engine: Engine, **inputs: Any) -> Summary:
        self.check(engine)
        folder = (Path(self.root).expanduser() / self.folder).resolve()
        samples = sum(engine.map(count_examples, test_tars(folder), what=f"index {self.folder}"))
        index = EvalSetIndex.of(folder, samples, as_root=str(folder))
        index.write(out)
        facts = {"root": index.root, "classes": index.classes, "templates": index.templates}
        return Summary(counts=Counts(total=samples, kept=samples), facts=facts)
