"""Copy: the chosen samples of a pool, byte for byte, in webdataset tars of their own."""

import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcexp.artifacts.entries import Entries
from dcexp.artifacts.files import content_digest
from dcexp.artifacts.locations import TARS
from dcexp.artifacts.place import absolute, below, is_url, whole_place
from dcexp.artifacts.shards import TAR_NAME
from dcexp.artifacts.subset import SUBSET
from dcexp.artifacts.tarball import write_tarball
from dcexp.engines.base import Engine
from dcexp.reshard.base import Inputs, Reshard
from dcexp.reshard.faces import Faces, collect_faces
from dcexp.reshard.made import PLAN, Made, finished, noted, planned
from dcexp.reshard.treat import TOGETHER, Blur, treat
from dcexp.stage import definition

FACES = "faces"  # a folder below the plan


@dataclass(frozen=True, kw_only=True)
class Copy(Reshard):
    """Copy the chosen samples into tars.

    ``blur`` is upstream's choice for faces, whose boxes are in the metadata: ``none`` copies what is there,
    ``apply`` blurs them and writes these images anew, ``metadata`` puts the boxes into the json of the samples.
    ``to`` is a folder or URL (``s3://…``) for the tars, in a folder of their own below it; empty for the artifact.
    """

    blur: Blur = "none"
    to: str = ""

    def prepare(self, out: Path, engine: Engine, inputs: Inputs) -> None:
        """See :meth:`Reshard.prepare`. Raises ValueError where faces are wanted and not known."""
        faces = out / PLAN / FACES
        if self.blur != "none" and not Faces.are_in(faces):
            collect_faces(faces, engine, inputs.pool, inputs.subset.path / SUBSET)

    def shards(self, out: Path, engine: Engine, count: int, inputs: Inputs) -> Iterator[Made]:
        """See :meth:`Reshard.shards`."""
        folder = self.folder(inputs) or str(out)
        work = partial(_copy, out, folder, inputs.pool.path, inputs.locations.path, self.blur)
        return engine.map(work, range(count))

    def folder(self, inputs: Inputs) -> str:
        """See :meth:`Reshard.folder`. Its name is a digest of all that decides what is in it, so nothing stale is."""
        if not self.to:
            return ""
        sources = [content_digest(inputs.subset.path / SUBSET), content_digest(inputs.locations.path / TARS)]
        if self.blur != "none":
            sources.append(inputs.pool.index["metadata_digest"])  # where the faces are
        digest = hashlib.sha256(json.dumps([definition(self), *sources]).encode()).hexdigest()
        return below(absolute(self.to), digest[:12])

    def publish(self, out: Path, inputs: Inputs) -> None:
        """See :meth:`Reshard.publish`: the side files stand beside the tars too."""
        folder = self.folder(inputs)
        if not folder:
            return
        if not is_url(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
        for path in sorted(path for path in out.iterdir() if path.is_file()):
            place = below(folder, path.name)
            with _speaking_of(place), path.open("rb") as source, whole_place(place) as copy:
                shutil.copyfileobj(source, copy)

    @property
    def meta(self) -> dict[str, object]:
        """See :attr:`Reshard.meta`."""
        blur = {"apply_blur": self.blur == "apply", "inject_blur_metadata": self.blur == "metadata"}
        return {"output_shard_format": TAR_NAME, **blur}


def _copy(out: Path, folder: str, pool: Path, locations: Path, blur: Blur, number: int) -> Made:
    """Write shard ``number``, unless an earlier attempt has."""
    name = TAR_NAME.format(number)
    if done := noted(out, folder, number):
        return done
    place = below(folder, name)
    entries, tally = planned(out, pool, locations, number), Counter[str]()
    with _speaking_of("" if folder == str(out) else place):
        if blur == "none":
            made = Made(name, len(entries), write_tarball(place, [(entries, {})]))
        else:
            file = write_tarball(place, _treated(entries, Faces.load(out / PLAN / FACES), blur, tally))
            made = Made(name, tally["samples"], file, tally["faces"], tally["lost"])
    return finished(out, number, made)


@contextmanager
def _speaking_of(place: str) -> Iterator[None]:
    """Say that there is no space left at ``place``; of the store's own disk, the store says it."""
    try:
        yield
    except OSError as error:
        if not place or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"no space left for {place}: free some, or choose another reshard.to, and give the same command again"
        ) from error


def _treated(
    entries: Entries, faces: Faces, blur: Blur, tally: Counter[str]
) -> Iterator[tuple[Entries, Mapping[int, bytes]]]:
    """Some samples at a time, their faces seen to; what became of them is added up in ``tally``."""
    for first in range(0, len(entries), TOGETHER):
        part = treat(entries.part(first, min(first + TOGETHER, len(entries))), faces, blur)
        tally.update(samples=len(part.entries), faces=part.treated, lost=part.lost)
        yield part.entries, part.contents
