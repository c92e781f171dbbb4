"""Models that were not trained here: any checkpoint of open_clip, as a step that tasks can be applied to."""

import difflib
import logging
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dcexp.artifacts.base import INDEX, Artifact, Counts, Summary
from dcexp.artifacts.files import content_digest, write_json
from dcexp.artifacts.listing import file_state
from dcexp.artifacts.pretrained import Pretrained
from dcexp.engines.base import Engine
from dcexp.model import model_names
from dcexp.stage import Stage, Step, Value

log = logging.getLogger(__name__)

QUICK = "-quickgelu"


@dataclass(frozen=True, kw_only=True)
class Model(Stage):
    """``checkpoint`` is a file (``.pt`` of plain tensors, ``.safetensors``) or a tag; ``model`` its architecture."""

    makes: ClassVar[type[Artifact]] = Pretrained

    checkpoint: str = field(compare=False)
    model: str

    @property
    def label(self) -> str:
        return f"{self.model}-{Path(self.checkpoint).stem}"

    def step(self) -> Step:
        """The step, with the absolute path, size and time of change of a file: another file is another model."""
        path = Path(self.checkpoint).expanduser().resolve()
        if not path.is_file():
            return Step(self, {"tag": self.checkpoint})
        return Step(self, {"path": str(path), "state": file_state(path)})

    def check(self, engine: Engine, **values: Value) -> None:
        """Raise ValueError for an unknown model, FileNotFoundError for a checkpoint that is neither file nor tag.

        Raises ValueError, too, for weights that were trained with QuickGELU and a model that has GELU: open_clip would
        load them without a word, and every score would be wrong.
        """
        if self.model not in (known := model_names()):
            near = difflib.get_close_matches(self.model, known, n=3)
            raise ValueError(f"model={self.model}: open_clip has none of that name; near it: {', '.join(near) or '–'}")
        path = Path(self.checkpoint).expanduser()
        if path.is_file():
            _check_file(path, self.model)
            return
        import open_clip

        if not (tags := open_clip.list_pretrained_tags_by_model(self.model)) or self.checkpoint.lower() not in tags:
            raise FileNotFoundError(
                f"checkpoint={self.checkpoint}: no such file, and no pretrained tag that open_clip has for "
                f"{self.model}: {', '.join(tags) or 'it has none'}"
            )
        if open_clip.get_pretrained_cfg(self.model, self.checkpoint).get("quick_gelu") and QUICK not in self.model:
            raise ValueError(_quick(f"checkpoint={self.checkpoint}", self.model))

    def run(self, out: Path, engine: Engine, **values: Any) -> Summary:
        self.check(engine)
        known = self.identity()
        write_json(out / INDEX, known)
        return Summary(counts=Counts(total=0, kept=0), facts={"model": self.model, "sha256": known["sha256"]})

    def identity(self) -> dict[str, str]:
        """``weights`` (an absolute path, or the tag), ``model``, and the ``sha256`` of the file of weights."""
        path = Path(self.checkpoint).expanduser().resolve()
        weights = str(path) if path.is_file() else self.checkpoint
        file = path if path.is_file() else self._downloaded()
        return {"weights": weights, "model": self.model, "sha256": content_digest(file)}

    def _downloaded(self) -> Path:
        import open_clip

        try:
            cfg = open_clip.get_pretrained_cfg(self.model, self.checkpoint)
            return Path(open_clip.download_pretrained(cfg, prefer_hf_hub=True))
        except Exception as error:  # whatever open_clip's ways of downloading raise
            raise OSError(
                f"checkpoint={self.checkpoint}: the weights of {self.model} could not be downloaded ({error}). "
                "Download them elsewhere and give the file: checkpoint=/path"
            ) from None


def _check_file(path: Path, model: str) -> None:
    """Raise ValueError for TorchScript; warn where the name speaks of weights that need QuickGELU."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise ValueError(
                    f"{path} is a TorchScript archive, as OpenAI published its models; wanted a file of tensors. "
                    f"For those: checkpoint=openai model={model.removesuffix(QUICK)}{QUICK}"
                )
    twin = f"{model}{QUICK}"
    if twin in model_names() and any(word in path.stem.lower() for word in ("openai", "metaclip", "dfn")):
        log.warning("%s", _quick(f"{path.name}, by its name,", model))


def _quick(what: str, model: str) -> str:
    return (
        f"{what} was trained with QuickGELU, and {model} has GELU: it would load, and every score would be wrong. "
        f"Use model={model}{QUICK}"
    )
