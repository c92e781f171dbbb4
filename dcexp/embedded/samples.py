"""The finished samples of the digits pool: what its metadata and its shards are written from."""

import hashlib
from dataclasses import dataclass

from dcexp.embedded.dirt import Draft, drafts
from dcexp.embedded.rendering import encode, render
from dcexp.embedded.scans import Scans, scans


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture on the web and the text beside it. `image` is the JPEG that a download gets; sizes in pixels."""

    uid: str
    url: str
    text: str
    image: bytes
    sha256: str
    width: int
    height: int
    original_width: int
    original_height: int


def samples(*, size: int, seed: int) -> list[Sample]:
    """All samples of the pool, dead links included; about 1 kB of memory each."""
    pool = scans("pool")
    return [
        _sample(pool, draft, f"digits/{seed}/{index}") for index, draft in enumerate(drafts(pool, size=size, seed=seed))
    ]


def _sample(pool: Scans, draft: Draft, name: str) -> Sample:
    look = draft.look
    image = encode(render(pool.ink[draft.scan], look), format="JPEG", quality=look.quality)
    return Sample(
        uid=hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(),
        url=f"https://digits.example/{name}.jpg",
        text=draft.caption,
        image=image,
        sha256=hashlib.sha256(image).hexdigest(),
        width=look.width,
        height=look.height,
        original_width=look.width * draft.enlargement,
        original_height=look.height * draft.enlargement,
    )
