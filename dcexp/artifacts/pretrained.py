"""The pretrained model: a CLIP that was not trained here, known by its file or by open_clip's tag."""

from dcexp.artifacts.base import Indexed


class Pretrained(Indexed):
    """``index.json``: ``weights``, a file or a tag of open_clip; the file's ``sha256``; ``model``, the architecture."""

    kind = "pretrained"

    @property
    def weights(self) -> str:
        """What open_clip takes as ``pretrained``."""
        return str(self.index["weights"])

    @property
    def model(self) -> str:
        """open_clip's name of the architecture."""
        return str(self.index["model"])
