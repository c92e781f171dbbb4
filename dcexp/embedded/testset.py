"""The evaluation set of the digits data set, in the layout of DataComp's webdataset evaluation sets."""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np

from dcexp.embedded.files import write_folder
from dcexp.embedded.rendering import draw_look, encode, render
from dcexp.embedded.scans import CLASS_NAMES, scans

TEMPLATES = ("a photo of the number {c}", "a handwritten {c}", "the digit {c} written by hand")
RENDERINGS = 2
LOOK_SEED = 450


def write_testset(out: Path) -> None:
    """Write the 450 test scans, each drawn twice without dirt (900 samples, 10 classes, one shard), to `out`.

    `out` then holds `classnames.txt`, `zeroshot_classification_templates.txt` and `test/`; the bytes are always
    the same, and what an interrupted attempt left in `test/` is replaced.
    """
    write_folder(out / "test", [("nshards.txt", partial(_write_lines, ("1",))), ("0.tar", _write_tar)])
    _write_lines(CLASS_NAMES, out / "classnames.txt")
    _write_lines(TEMPLATES, out / "zeroshot_classification_templates.txt")


def _write_lines(lines: tuple[str, ...], path: Path) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _write_tar(path: Path) -> None:
    rng, test = np.random.default_rng(LOOK_SEED), scans("test")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, row in enumerate(np.tile(np.arange(len(test)), RENDERINGS)):
            image = encode(render(test.ink[row], draw_look(rng)), format="PNG")
            for extension, content in (("png", image), ("cls", b"%d" % test.digits[row])):
                member = tarfile.TarInfo(f"s{key:07d}.{extension}")
                member.size, member.mode = len(content), 0o444
                tar.addfile(member, io.BytesIO(content))
