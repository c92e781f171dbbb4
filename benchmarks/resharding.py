"""Time resharding, subset to training shards, against upstream's resharder and a program that only reads and writes.

    python benchmarks/resharding.py make /data/100k --samples 100000
    python benchmarks/resharding.py compare /data/100k --upstream 'resharder.py -i {shards} -o {out} -s {subset} -j 2'

``make`` writes a synthetic pool in CommonPool's layout, tars as img2dataset writes them; the same arguments give the
same bytes. ``compare`` takes a random subset and lets three take turns: upstream's command; ours, ``until=shards`` with
a fresh store that holds everything up to the subset; and ``plain``, which reads all tars in big pieces and writes the
same share of them, nothing else: what the machine can do. Before each timed run the disk is idle and the tars are in
the page cache, or with ``--cold`` nothing is.

Each time is that of a whole process, from start to exit. "Own" is what each says itself: the time upstream prints, the
seconds in the manifests of ours, the loop of the plain program. Samples a second are those of the pool, not of the
subset. Memory is the peak of all processes together (RSS; a page that two processes share counts twice) and that of the
largest. What ours and upstream wrote is compared once. Each run goes to stderr, the table of medians to stdout.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from pool import Synthetic
from selection import Cost, cpu_seconds

TARS_PER_FILE = 5  # of metadata; a tar never holds samples of two files
LATE = 64  # downloads end in another order than they began: a sample may be this many places away from its own
EXIF = {
    "Image Make": "Canon",
    "Image Model": "Canon EOS 5D Mark III",
    "Image Orientation": "Horizontal (normal)",
    "Image XResolution": "300",
    "Image YResolution": "300",
    "Image ResolutionUnit": "Pixels/Inch",
    "Image Software": "Adobe Photoshop CS6 (Macintosh)",
    "Image DateTime": "2014:06:21 14:05:37",
    "EXIF ColorSpace": "sRGB",
    "EXIF ExposureTime": "1/250",
}
PIECE = 4 * 2**20  # bytes that the plain program reads at a time
CONTESTANTS = ("upstream", "ours", "plain")
HEAD = ("", "wall s", "best s", "own s", "CPU s", "samples/s", "speed", "all MiB", "largest MiB")


class Jpeg(NamedTuple):
    """An image file."""

    data: bytes
    width: int
    height: int

    def signed(self, uid: str) -> bytes:
        """The same image with the uid in a comment, so that no two samples have the same bytes."""
        comment = uid.encode()
        return self.data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + self.data[2:]


class Part(NamedTuple):
    """The rows of one tar."""

    number: int
    metadata: Path
    start: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Tarred:
    """A pool with its tars. Metadata as in ``pool.py``; ``images`` different images come again and again."""

    samples: int
    per_tar: int = 10_000
    images: int = 300
    seed: int = 0

    def write(self, root: Path, workers: int) -> None:
        """Write the pool to ``root``, whole or not at all; one that is there already must be this one."""
        said = root / "resharding.json"
        if root.exists():
            if not said.is_file() or json.loads(said.read_text()) != asdict(self):
                raise SystemExit(f"{root} is there and is not {self}: name another folder, or delete it")
            return
        partial_root = root.with_name(f"{root.name}.making")
        shutil.rmtree(partial_root, ignore_errors=True)
        files = -(-self.samples // (self.per_tar * TARS_PER_FILE))
        Synthetic(rows=self.samples, files=files, seed=self.seed).write(partial_root)
        (partial_root / "shards").mkdir()
        # not forked: pyarrow's threads are running
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in pool.imap_unordered(partial(self._write_tar, partial_root / "shards"), self._parts(partial_root)):
                pass
        (partial_root / said.name).write_text(json.dumps(asdict(self)))
        partial_root.rename(root)
        os.sync()

    def _parts(self, root: Path) -> Iterator[Part]:
        import pyarrow.parquet as pq

        number = 0
        for path in sorted((root / "metadata").glob("*.parquet")):
            rows = pq.read_metadata(path).num_rows
            for start in range(0, rows, self.per_tar):
                yield Part(number, path, start, min(self.per_tar, rows - start))
                number += 1

    def _write_tar(self, folder: Path, part: Part) -> None:
        import pyarrow.parquet as pq

        rows = pq.read_table(part.metadata).slice(part.start, part.rows).to_pylist()
        rng = np.random.default_rng([self.seed, 1, part.number])
        images = jpegs(self.images, self.seed)
        pictures = rng.integers(0, len(images), part.rows).tolist()
        tags = rng.integers(5, len(EXIF) + 1, part.rows).tolist()
        mtimes = (1_670_000_000 + 1000 * part.number + np.cumsum(rng.exponential(0.01, part.rows))).tolist()
        order = np.argsort(np.arange(part.rows) + LATE * rng.random(part.rows))
        with (folder / f"{part.number:08d}.tar").open("wb", buffering=2**20) as tar:
            for index, mtime in zip(order.tolist(), mtimes, strict=True):
                row, image = rows[index], images[pictures[index]]
                key = f"{part.number:05d}{index:04d}"
                tar.write(member(f"{key}.jpg", image.signed(row["uid"]), mtime))
                tar.write(member(f"{key}.json", described(row, key, image, tags[index]), mtime + 0.0001))
                tar.write(member(f"{key}.txt", row["text"].encode(), mtime + 0.0002))
            tar.write(bytes(2 * tarfile.BLOCKSIZE))
            tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
        (folder / f"{part.number:08d}_stats.json").write_text(json.dumps({"successes": part.rows}))


def member(name: str, data: bytes, mtime: float) -> bytes:
    """A file in a tar as webdataset writes it: the fraction of a second takes a header of its own."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), mtime, 0o444
    info.uname = info.gname = "bigdata"
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def described(row: dict[str, Any], key: str, image: Jpeg, tags: int) -> bytes:
    """The json of a sample."""
    meta = {
        "uid": row["uid"],
        "face_bboxes": row["face_bboxes"],
        "caption": row["text"],
        "url": row["url"],
        "key": key,
        "status": "success",
        "error_message": None,
        "width": image.width,
        "height": image.height,
        "original_width": row["original_width"],
        "original_height": row["original_height"],
        "exif": json.dumps(dict(list(EXIF.items())[:tags])),
        "sha256": row["sha256"],
    }
    return json.dumps(meta, indent=4).encode()


@cache
def jpegs(count: int, seed: int) -> list[Jpeg]:
    """Images of 512 pixels on the longer side and about 30 kB."""
    rng = np.random.default_rng([seed, 2])
    return [jpeg(rng, size) for size in np.exp(rng.normal(10.18, 0.5, count)).clip(8_000, 100_000)]


def jpeg(rng: np.random.Generator, size: float) -> Jpeg:
    """Smooth noise, saved with the quality that makes about ``size`` bytes."""
    import io

    from PIL import Image

    width, height = (512, int(rng.integers(256, 513)))[:: rng.choice([1, -1])]

    def noise(columns: int, rows: int) -> Image.Image:
        pixels = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)

    image = Image.blend(noise(6, 6), noise(width // 4, height // 4), 0.2)

    def saved(quality: int) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()

    qualities = range(10, 98)
    place = bisect_left(qualities, size, key=lambda quality: len(saved(quality)))
    return Jpeg(saved(qualities[min(place, len(qualities) - 1)]), width, height)


@dataclass(frozen=True)
class Run(Cost):
    """What a whole process took, the memory of its largest process, and the seconds it gives itself."""

    largest: float
    own: float = 0.0

    def __str__(self) -> str:
        return f"{super().__str__()} (largest {self.largest:6.0f}) {self.own:7.2f} s own"


@dataclass(frozen=True, kw_only=True)
class Race:
    """What all contestants are given. Each method is one run; it says what it took and where its tars are."""

    root: Path
    subset: Path
    fraction: float
    workers: int
    cold: bool
    command: str

    @property
    def tars(self) -> list[Path]:
        return sorted((self.root / "shards").glob("*.tar"))

    def upstream(self, folder: Path) -> tuple[Run, Path]:
        """Upstream's command."""
        out = folder / "out"
        out.mkdir()
        values = {"shards": self.root / "shards", "out": out, "subset": self.subset, "workers": self.workers}
        words = shlex.split(self.command)
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", str(value)) for word in words]
        cost, said = self._timed(words, folder)
        return Run(**cost, own=seconds_in(r"processed \d+ images in ([\d.]+)s", said)), out

    def ours(self, folder: Path) -> tuple[Run, Path]:
        """``python -m dcexp``, with a store in which the subset is there."""
        store = folder / "store"
        words = [sys.executable, "-m", "dcexp", "filter=uids", f"filter.path={self.subset}", "source=commonpool"]
        words += [f"source.root={self.root}", "scale=small", "tracker=none", f"store.root={store}"]
        words += [f"engine.workers={self.workers}", f"hydra.run.dir={folder / 'run'}"]
        measured([*words, "until=subset"], folder)
        cost, _ = self._timed([*words, "until=shards"], folder)
        made = [*store.glob("shards/*/manifest.json"), *store.glob("locations/*/manifest.json")]
        return Run(**cost, own=sum(json.loads(path.read_text())["seconds"] for path in made)), store / "shards"

    def plain(self, folder: Path) -> tuple[Run, Path]:
        """Reading and writing, and nothing else."""
        words = [sys.executable, __file__, "plain", str(self.root / "shards"), str(folder / "out")]
        words += ["--fraction", str(self.fraction), "--workers", str(self.workers)]
        cost, said = self._timed(words, folder)
        return Run(**cost, own=seconds_in(r"copied in ([\d.]+)s", said)), folder / "out"

    def _timed(self, words: list[str], folder: Path) -> tuple[dict[str, float], str]:
        # Written and deleted first: whoever writes into memory that has lain idle pays for it, most of all in a virtual
        # machine, so without this the one who comes after the slowest would.
        idle = folder / "idle"
        idle.mkdir()
        each(partial(copy, idle, self.fraction), self.tars, self.workers)
        shutil.rmtree(idle)
        os.sync()
        if self.cold:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        return measured(words, folder)


def measured(words: list[str], folder: Path) -> tuple[dict[str, float], str]:
    """Run a command in ``folder``: what it took, as ``Run`` names it, and what it said. SystemExit when it fails."""
    log = folder / "log"
    with log.open("wb") as file:
        started, used, peak, largest = time.monotonic(), cpu_seconds(), 0.0, 0.0
        process = psutil.Popen(words, cwd=folder, stdout=file, stderr=file)
        while True:
            try:
                code = process.wait(timeout=0.05)
                break
            except psutil.TimeoutExpired:
                held = memories(process)
                peak, largest = max(peak, sum(held)), max(largest, *held)
        cost = {"wall": time.monotonic() - started, "cpu": cpu_seconds() - used, "mib": peak, "largest": largest}
    said = log.read_text(errors="replace")
    if code:
        raise SystemExit(f"{said[-3000:]}\nfailed ({code}): {shlex.join(words)}")
    return cost, said


def memories(process: psutil.Process) -> list[float]:
    """MiB that a process and each of its children hold now."""
    held = [0.0]
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.Error:
        return held
    for one in members:
        try:
            held.append(one.memory_info().rss / 2**20)
        except psutil.Error:
            continue
    return held


def seconds_in(pattern: str, said: str) -> float:
    """The number that a program says about itself."""
    found = re.search(pattern, said)
    if not found:
        raise SystemExit(f"{said[-3000:]}\nnowhere in this: {pattern}")
    return float(found[1])


def copy(out: Path, fraction: float, path: Path) -> None:
    """Read a file in big pieces, and write the first part of each."""
    buffer, offset = memoryview(bytearray(PIECE)), 0
    source, target = os.open(path, os.O_RDONLY), os.open(out / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    while got := os.preadv(source, [buffer], offset):
        offset += got
        os.write(target, buffer[: int(got * fraction)])
    os.close(source)
    os.close(target)


def each(function: Callable[[Path], None], paths: list[Path], workers: int) -> None:
    """Call a function with every path, in several processes."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for _ in pool.imap_unordered(function, paths):
            pass


def contents(folder: Path) -> Counter[tuple[str, str, bytes]]:
    """All files in the tars below a folder: uid, kind, and digest of the bytes."""
    found: Counter[tuple[str, str, bytes]] = Counter()
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, kind = info.name.partition(".")
                file = tar.extractfile(info)
                found[key.rpartition("-")[0], kind, hashlib.sha256(file.read() if file else b"").digest()] += 1
    return found


def difference(ours: Counter[tuple[str, str, bytes]], theirs: Counter[tuple[str, str, bytes]]) -> str:
    """What the two have apart, or nothing."""
    only = {"ours": ours - theirs, "upstream": theirs - ours}
    some = [f"{extra.total():,} only in {who}, like {min(extra)[:2]}" for who, extra in only.items() if extra]
    return "; ".join(some)


def write_subset(root: Path, fraction: float, seed: int, path: Path) -> int:
    """Write a random subset of a pool in upstream's format, and say how many it has."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(part, columns=["uid"]) for part in sorted((root / "metadata").glob("*.parquet"))]
    uids = [uid for table in tables for uid in table["uid"].to_pylist()]
    chosen = np.random.default_rng([seed, 3]).choice(len(uids), round(fraction * len(uids)), replace=False)
    pairs = sorted((int(uids[k][:16], 16), int(uids[k][16:], 16)) for k in chosen.tolist())
    np.save(path, np.array(pairs, dtype=np.dtype("u8,u8")))
    return len(pairs)


def compared(race: Race, scratch: Path, args: argparse.Namespace) -> tuple[dict[str, list[Run]], str]:
    """The runs of each contestant, taking turns, and what the first outputs of ours and upstream have apart."""
    runs: dict[str, list[Run]] = defaultdict(list)
    wrote: dict[str, Counter[tuple[str, str, bytes]]] = {}
    for repeat in range(args.runs):
        for who in args.who:
            folder = scratch / f"{who}-{repeat}"
            folder.mkdir()
            run, out = getattr(race, who)(folder)
            runs[who].append(run)
            print(f"{who:<8} {repeat + 1}/{args.runs} {run}", file=sys.stderr, flush=True)
            if who != "plain" and repeat == 0:
                wrote[who] = contents(out)
            shutil.rmtree(folder)
        if repeat == 0 and len(wrote) == 2:
            apart = difference(wrote["ours"], wrote["upstream"])
            samples = len({uid for uid, _, _ in wrote["ours"]})
            same = f"the same {wrote['ours'].total():,} files of {samples:,} samples, to the byte"
            print(f"ours and upstream wrote {apart or same}", file=sys.stderr, flush=True)
    return runs, difference(wrote["ours"], wrote["upstream"]) if len(wrote) == 2 else ""


def row_of(who: str, runs: dict[str, list[Run]], samples: int) -> list[str]:
    """A line of the table, under ``HEAD``; speed is that of upstream, or of whoever comes first, times so many."""
    wall, cpu, own, mib, largest = (
        statistics.median(getattr(run, what) for run in runs[who]) for what in ("wall", "cpu", "own", "mib", "largest")
    )
    first = statistics.median(run.wall for run in next(iter(runs.values())))
    seconds = [f"{value:.2f}" for value in (wall, min(run.wall for run in runs[who]), own, cpu)]
    return [who, *seconds, f"{samples / wall:,.0f}", f"{first / wall:.1f}×", f"{mib:,.0f}", f"{largest:,.0f}"]


def compare(args: argparse.Namespace) -> None:
    """The verb ``compare``."""
    root = args.folder.resolve()
    tars = sorted((root / "shards").glob("*.tar"))
    size = sum(path.stat().st_size for path in tars)
    if not tars:
        raise SystemExit(f"no tars in {root / 'shards'}: make them with `resharding.py make {args.folder}`")
    if "upstream" in args.who and not args.upstream:
        raise SystemExit("no --upstream: name its command, or leave it out with --who ours plain")
    if not args.cold and size > 0.7 * psutil.virtual_memory().available:
        raise SystemExit(f"{size / 2**30:.0f} GiB of tars do not stay in the page cache: compare with --cold")
    samples = sum(json.loads(path.read_text())["successes"] for path in (root / "shards").glob("*_stats.json"))
    with tempfile.TemporaryDirectory(dir=args.scratch or root.parent) as scratch:
        subset = Path(scratch) / "subset.npy"
        chosen = write_subset(root, args.fraction, args.seed, subset)
        race = Race(
            root=root,
            subset=subset,
            fraction=args.fraction,
            workers=args.workers,
            cold=args.cold,
            command=args.upstream,
        )
        runs, apart = compared(race, Path(scratch), args)
    print(
        f"{samples:,} samples in {len(tars):,} tars ({size / 1e9:.2f} GB), {chosen:,} chosen, "
        f"{'cold' if args.cold else 'warm'}, {args.workers} workers, medians of {args.runs}\n"
    )
    lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *(row_of(who, runs, samples) for who in runs)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if apart:
        raise SystemExit(f"not the same samples: {apart}")


def plain(args: argparse.Namespace) -> None:
    """The verb ``plain``, a contestant."""
    started = time.monotonic()
    args.out.mkdir()
    each(partial(copy, args.out, args.fraction), sorted(args.shards.glob("*.tar")), args.workers)
    print(f"copied in {time.monotonic() - started:.3f}s")


def make(args: argparse.Namespace) -> None:
    """The verb ``make``."""
    pool = Tarred(samples=args.samples, per_tar=args.per_tar, images=args.images, seed=args.seed)
    pool.write(args.folder.resolve(), args.workers)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="make | compare")

    verb = verbs.add_parser("make", help="a synthetic pool with tars")
    verb.set_defaults(verb=make)
    verb.add_argument("folder", type=Path)
    verb.add_argument("--samples", type=int, default=100_000)
    verb.add_argument("--per-tar", type=int, default=10_000)
    verb.add_argument("--images", type=int, default=300, help="different images")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--workers", type=int, default=2)

    verb = verbs.add_parser("compare", help="time the three")
    verb.set_defaults(verb=compare)
    verb.add_argument("folder", type=Path)
    verb.add_argument("--fraction", type=float, default=0.3, help="of the samples that are chosen")
    verb.add_argument("--upstream", default="", help="a command with {shards}, {out}, {subset} and {workers}")
    verb.add_argument("--who", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    verb.add_argument("--runs", type=int, default=5)
    verb.add_argument("--cold", action="store_true", help="empty the page cache before each run (needs root)")
    verb.add_argument("--workers", type=int, default=2, help="worker processes of each")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--scratch", type=Path, help="where outputs go for a while; beside FOLDER unless told")

    verb = verbs.add_parser("plain")
    verb.set_defaults(verb=plain)
    verb.add_argument("shards", type=Path)
    verb.add_argument("out", type=Path)
    verb.add_argument("--fraction", type=float, default=0.3)
    verb.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.verb(args)


if __name__ == "__main__":
    main()
