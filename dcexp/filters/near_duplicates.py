"""Near-duplicate removal: of images whose features are all but the same, the one with the best caption stays."""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from dcexp.artifacts.base import Counts, Summary
from dcexp.artifacts.files import remove_folder
from dcexp.artifacts.pool import Pool
from dcexp.artifacts.subset import Subset
from dcexp.engines.base import Engine
from dcexp.filters.base import inside
from dcexp.filters.code_search import CodeSearch
from dcexp.filters.codes import Quantizer, need_faiss
from dcexp.filters.cut import Apart
from dcexp.filters.rows import View
from dcexp.filters.score import Score

FOLDER = "codes"  # what is needed while neighbours are looked up; gone with the last score
QUALITY = "clip_l14_similarity_score"


@dataclass(frozen=True, kw_only=True)
class DuplicateDistance(Score):
    """How near a row is to being a duplicate of a better one: the least |d(x, x) - d(x, y)| / d(x, x), 0 or more.

    d(x, y) is the Euclidean distance of x's features, at length 1, to what the product-quantised code of y stands for
    (d_ADC of Webster et al., arXiv:2303.12733; DataComp, appendix K); so d(x, x) is the error of coding x. y is any of
    the ``neighbours`` rows whose codes are nearest to x that has a higher CLIP L/14 score, or the same score and an
    earlier place in the pool. Without such a y the distance is infinite. Rows without a CLIP score, or with NaN or
    infinity among their features, have no distance.

    Codes are made and searched with faiss: an ``IndexIVFPQ`` of ``lists`` lists and ``subvectors`` bytes per row,
    trained on rows that ``seed`` draws (small pools: see :class:`~dcexp.filters.codes.Quantizer`). ``probes`` lists
    are searched; a neighbour in another list is missed. Memory for N rows of width w, n rows in the largest part:
    about 4 w max(64 lists, 9984) bytes to train, N (subvectors + 16) to assemble the index, which the workers then
    map from the disk, and 8 w n + 40,000 neighbours in each worker.
    """

    neighbours: int = 1000
    lists: int = 16384
    probes: int = 16
    subvectors: int = 64
    feature: str = "l14_img"
    seed: int = 0

    columns = (QUALITY,)
    relative = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("neighbours", "lists", "probes", "subvectors"):
            if getattr(self, name) < 1:
                raise ValueError(f"filter.{name}={getattr(self, name)}: wanted 1 or more")

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one that is named."""
        return (self.feature,)

    def check_machine(self, engine: Engine, **values: Any) -> None:
        """Raise ValueError when faiss is not installed."""
        need_faiss()

    def run(self, out: Path, engine: Engine, *, pool: Pool, within: Subset | None = None, **extra: Any) -> Summary:
        """Train the codes, code all rows, and look up the neighbours of each; rows outside ``within`` do not exist.

        Each of the three reads the features anew, part by part. Raises ValueError when there are none to compare.
        """
        need_faiss()
        self.check_pool(pool)
        (out / FOLDER).mkdir(exist_ok=True)
        search = CodeSearch(
            folder=out / FOLDER,
            view=View(columns=self.columns, within=inside(within)),
            feature=self.feature,
            width=pool.features[self.feature],
            quality=QUALITY,
            quantizer=Quantizer(lists=self.lists, subvectors=self.subvectors, seed=self.seed),
            expected=within.summary["distinct"] if within else pool.rows,
            skip_corrupt=pool.skip_corrupt,
        )
        parts = list(enumerate(pool.parts))
        sizes = list(engine.map(search.sample, parts, what="near-duplicates: sample"))
        whole = [item for item, size in zip(parts, sizes, strict=True) if size >= 0]
        numbers, rows = [number for number, _ in whole], sum(size for size in sizes if size > 0)
        if rows == 0:
            raise ValueError(f"{self.label}: none of the {pool.rows:,} rows has both a {QUALITY} and finite features")
        search.train(numbers, rows)
        list(engine.map(search.encode, whole, what="near-duplicates: code"))
        search.assemble(numbers)
        firsts = accumulate((max(size, 0) for size in sizes), initial=0)
        items = [(*item, first) for item, first in zip(parts, firsts, strict=False)]
        look_up = partial(search.look_up, out, self.neighbours, self.probes)
        finite = sum(engine.map(look_up, items, what="near-duplicates: look up"))
        remove_folder(out / FOLDER)
        corrupt = sum(part.rows for (_, part), size in zip(parts, sizes, strict=True) if size < 0)
        counts = Counts(total=pool.rows, kept=rows, missing=pool.rows - rows - corrupt, corrupt=corrupt)
        return Summary(counts=counts, facts={"with_a_better_neighbour": finite})


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(Apart):
    """Drops every row that is a near-duplicate of a better one: nearer than ``threshold``.

    DataComp, appendix K, with thresholds 0.1, 0.2 and 0.5. What a threshold means depends on the codes: with an error
    e of coding x it is a distance of about e * sqrt(2 t + t * t) between the images. DataComp coded other vectors (of
    a network that compresses features, which is not published with it), so expect other numbers of duplicates. A row
    is compared with better ones whether or not these are dropped themselves. The other fields: see
    :class:`DuplicateDistance`, which is made once for all thresholds.

    After another filter, only what that has kept is compared.
    """

    threshold: float = 0.1
    neighbours: int = 1000
    lists: int = 16384
    probes: int = 16
    subvectors: int = 64
    feature: str = "l14_img"
    seed: int = 0

    def by(self) -> DuplicateDistance:
        """The distance to the nearest better row."""
        return DuplicateDistance(
            neighbours=self.neighbours,
            lists=self.lists,
            probes=self.probes,
            subvectors=self.subvectors,
            feature=self.feature,
            seed=self.seed,
        )

    def least(self) -> float:
        """The threshold."""
        return self.threshold
