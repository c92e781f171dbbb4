"""What is done about faces in the samples of a shard: blur them, or tell where they are."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dcexp.artifacts.entries import Entries, Tars
from dcexp.artifacts.lookup import find_in
from dcexp.artifacts.uid import format_uid
from dcexp.reshard.blur import blurred, with_boxes
from dcexp.reshard.faces import Faces

log = logging.getLogger(__name__)

Blur = Literal["none", "apply", "metadata"]
BLURRED = "webp"  # the suffix of a blurred image
IMAGES = ("jpg", "png", "jpeg", BLURRED)  # in the order in which training looks for them
TOGETHER = 128  # samples whose blurred images are in memory together


@dataclass(frozen=True, kw_only=True)
class Treated:
    """Samples whose faces are seen to.

    ``contents`` are those of members that are not as they stand in a tar, by position. ``treated`` samples have
    faces; ``lost`` ones have faces that could not be seen to, and are left out (without the repeats of a sample).
    """

    entries: Entries
    contents: dict[int, bytes]
    treated: int = 0
    lost: int = 0


def treat(entries: Entries, faces: Faces, blur: Blur) -> Treated:
    """Blur the faces in the images (``apply``), or put their boxes into the json (``metadata``)."""
    places, counts = find_in(faces.uids, entries.uids)
    editor = _Editor(entries)
    with Tars(entries) as tars:
        for sample in np.flatnonzero(counts).tolist():
            boxes = faces.of(int(places[sample]), int(counts[sample]))
            try:
                if blur == "apply":
                    editor.blur(tars, sample, boxes)
                else:
                    editor.tell(tars, sample, boxes)
            except ValueError as error:
                log.warning("%s is left out: %s", format_uid(entries.uids[sample]), error)
                editor.leave_out(sample)
    return editor.result(int(counts.astype(bool).sum()))


class _Editor:
    """Changes to some samples of a shard."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._names = list(entries.names)
        self._suffixes, self._sizes = entries.suffixes.copy(), entries.sizes.copy()
        self._kept, self._stay = np.ones(len(self._sizes), bool), np.ones(len(entries), bool)
        self._contents: dict[int, bytes] = {}
        if BLURRED not in self._names:
            self._names.append(BLURRED)

    def blur(self, tars: Tars, sample: int, boxes: list[list[float]]) -> None:
        """Replace the image by its blurred self. Raises ValueError where that cannot be done."""
        members = self._members(sample)
        images = [members[suffix] for suffix in IMAGES if suffix in members]
        if not images:
            raise ValueError(f"it has faces, and no image to blur them in: {', '.join(IMAGES)}")
        self._replace(images[0], blurred(self._read(tars, sample, images[0]), boxes))
        self._suffixes[images[0]] = self._names.index(BLURRED)
        self._kept[images[1:]] = False  # other pictures of the same faces

    def tell(self, tars: Tars, sample: int, boxes: list[list[float]]) -> None:
        """Put the boxes into the json. Raises ValueError where that cannot be done."""
        i = self._members(sample).get("json")
        if i is not None:
            self._replace(i, with_boxes(self._read(tars, sample, i), boxes))

    def leave_out(self, sample: int) -> None:
        self._stay[sample] = False
        self._kept[self._entries.starts[sample] : self._entries.ends[sample]] = False

    def result(self, with_faces: int) -> Treated:
        entries, kept = self._entries, self._kept
        order = np.argsort(self._names)  # suffixes are numbered by name, which is the order in which they are written
        rank = np.argsort(order).astype(np.int32)
        ends = np.cumsum(kept)[entries.ends - 1]
        edited = replace(
            entries,
            tars=entries.tars[self._stay],
            uids=entries.uids[self._stay],
            copies=entries.copies[self._stay],
            ends=ends[self._stay],
            offsets=entries.offsets[kept],
            sizes=self._sizes[kept],
            suffixes=rank[self._suffixes[kept]],
            names=[self._names[i] for i in order],
        )
        now = np.cumsum(kept) - 1
        contents = {int(now[i]): content for i, content in self._contents.items() if kept[i]}
        lost = entries.copies[~self._stay]
        return Treated(entries=edited, contents=contents, treated=with_faces - len(lost), lost=int((lost == 0).sum()))

    def _members(self, sample: int) -> dict[str, int]:
        first, last = int(self._entries.starts[sample]), int(self._entries.ends[sample])
        return {self._names[self._suffixes[i]]: i for i in range(first, last)}

    def _read(self, tars: Tars, sample: int, i: int) -> bytes:
        file = tars[int(self._entries.tars[sample])]
        return file.read(int(self._entries.offsets[i]), int(self._entries.sizes[i]))

    def _replace(self, i: int, content: bytes) -> None:
        self._contents[i], self._sizes[i] = content, len(content)
