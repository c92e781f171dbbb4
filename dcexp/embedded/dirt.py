"""What a sample of the digits pool is before it is drawn, and how it is spoilt: the web's dirt, in known doses."""

from bisect import bisect
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import numpy as np

from dcexp.embedded import captions
from dcexp.embedded.rendering import Look, draw_look
from dcexp.embedded.scans import Scans

CAPTION_SHARES = {"english": 0.50, "foreign": 0.06, "wrong": 0.19, "unrelated": 0.18, "blank": 0.07}
EXACT_DUPLICATE_SHARE, NEAR_DUPLICATE_SHARE = 0.04, 0.03
TINY_SHARE, STRETCHED_SHARE = 0.03, 0.03
DEAD_LINK_SHARE = 0.015


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One sample: the scan (position in its split), how it is drawn, and its caption.

    `enlargement` is the size of the picture on the web over the size stored in the shard.
    """

    scan: int
    look: Look
    caption: str
    enlargement: int


def drafts(scans: Scans, *, size: int, seed: int) -> list[Draft]:
    """`size` samples over `scans`; sample i does not depend on `size`."""

    @cache
    def draft(index: int) -> Draft:
        rng = np.random.default_rng([seed, index])
        scan, look, enlargement = int(rng.integers(len(scans))), draw_misshapen(rng), int(rng.integers(3, 21))
        duplicate, source = rng.random(), int(rng.integers(max(index, 1)))
        if index and duplicate < EXACT_DUPLICATE_SHARE + NEAR_DUPLICATE_SHARE:
            original = draft(source)
            scan, look, enlargement = original.scan, original.look, original.enlargement
            if duplicate >= EXACT_DUPLICATE_SHARE:
                look = replace(look, noise_seed=int(rng.integers(2**32)), quality=int(rng.integers(40, 95)))
        caption = draw_caption(int(scans.digits[scan]), rng)
        return Draft(scan=scan, look=look, caption=caption, enlargement=enlargement)

    return [draft(index) for index in range(size)]


def draw_caption(digit: int, rng: np.random.Generator) -> str:
    """A caption for a picture of `digit`; about half do not match it in English."""
    kind = list(CAPTION_SHARES)[bisect(list(accumulate(CAPTION_SHARES.values()))[:-1], rng.random())]
    if kind == "english":
        return captions.english(digit, rng)
    if kind == "foreign":
        return captions.foreign(digit, rng)
    if kind == "wrong":
        return captions.english((digit + int(rng.integers(1, 10))) % 10, rng)
    return captions.unrelated(rng) if kind == "unrelated" else captions.blank(rng)


def draw_misshapen(rng: np.random.Generator) -> Look:
    """A look as the web has them: some are thumbnails of a few pixels, some are stretched."""
    look, shape = draw_look(rng), rng.random()
    if shape < TINY_SHARE:
        side = int(rng.integers(6, 13))
        return replace(look, width=side, height=side)
    if shape < TINY_SHARE + STRETCHED_SHARE:
        long, short = int(rng.integers(60, 97)), int(rng.integers(12, 21))
        return (
            replace(look, width=long, height=short) if rng.random() < 0.5 else replace(look, width=short, height=long)
        )
    return look


def dead_links(*, size: int, seed: int) -> frozenset[int]:
    """The samples whose picture can no longer be downloaded: about 1.5 %, and at least one."""
    count = max(1, round(size * DEAD_LINK_SHARE))
    rng = np.random.default_rng([seed, size, 404])
    return frozenset(int(i) for i in rng.choice(size, size=min(count, size), replace=False))
