"""What SemDeDup costs at a fixed number of rows in a cluster, and NormSim-2-D: seconds and memory of each step.

    python benchmarks/clusters.py                              # 50,000 to 200,000 rows of width 768, 400 in a cluster
    python benchmarks/clusters.py --rows 200000 --size 400 --iterations 100

Pools are made of random features around as many centres as there are clusters, with one row in five a near copy of
another one, in 8 files with float16 features, as CommonPool's. Seconds and memory are those that the manifests of the
artifacts state (peak of all processes together, with Python and torch); each step is a pass of its own over the pool.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 8
STEPS = {
    "centroids": "train the centres",
    "centre_distance": "assign",
    "semantic_distance": "compare",
    "sem_dedup": "cut",
    "norm_sim_d": "NormSim-2-D",
}


def write_pool(folder: Path, rows: int, clusters: int, width: int) -> None:
    """A pool of metadata and features."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, width)).astype(np.float32)
    (folder / "metadata").mkdir(parents=True)
    for number in range(FILES):
        size = rows // FILES
        features = centres[rng.integers(clusters, size=size)] + rng.standard_normal((size, width)).astype(np.float32)
        copies = rng.integers(size, size=size // 5)
        features[: len(copies)] = features[copies] + 0.01 * rng.standard_normal((len(copies), width))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        path = folder / "metadata" / f"{number:08d}.parquet"
        pq.write_table(pa.table({"uid": [rng.bytes(16).hex() for _ in range(size)]}), path)
        np.savez(path.with_suffix(".npz"), l14_img=features.astype(np.float16))


def measured(root: Path, rows: int, args: argparse.Namespace) -> list[list[str]]:
    """Lines of the table for one size."""
    from dcexp.engines.local import Local
    from dcexp.filters.clustering import KMeans
    from dcexp.filters.norm_sim_d import NormSimD
    from dcexp.filters.semdedup import SemDedup
    from dcexp.sources.commonpool import CommonPool
    from dcexp.store import Store

    clusters = rows // args.size
    folder = root / str(rows)
    write_pool(folder, rows, clusters, args.width)
    clustering = KMeans(clusters=clusters, iterations=args.iterations)
    pool, store, lines = CommonPool(root=str(folder)).step(), Store(root=str(root / "store")), []
    semdedup, thinned = SemDedup(epsilon=0.05, clustering=clustering), NormSimD(rounds=args.rounds)
    for step in (semdedup.step(pool), thinned.step(pool)):
        store.build(step, Local())
        for part in step.upstream():
            if name := next((what for key, what in STEPS.items() if key in f"{part.kind} {part.name}"), ""):
                made = store.build(part, Local()).manifest
                mib = made["peak_memory_bytes"] / 2**20
                lines.append([f"{rows:,}", name, f"{made['seconds']:.1f}", f"{mib:,.0f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--size", type=int, default=400, help="rows in a cluster")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20, help="of NormSim-2-D")
    args = parser.parse_args()
    print("| rows | step | s | MiB |\n|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            for line in measured(Path(folder), rows, args):
                print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
