"""The shards of the digits pool, as img2dataset leaves them for DataComp (`oom_shard_count=8`, 4 digits a sample).

`<8 digits>.tar` holds `<shard><index>.{jpg,json,txt}` of every sample that could be downloaded, beside it
`<8 digits>_stats.json` counts those that could not.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from dcexp.embedded.files import write_folder
from dcexp.embedded.samples import Sample

MAX_SHARD_SIZE = 10_000


def write_shards(folder: Path, samples: Sequence[Sample], dead: frozenset[str], *, shard_size: int) -> None:
    """Write `samples` to `folder` in their order, `shard_size` a shard, those whose uid is in `dead` left out."""
    files = []
    for number, start in enumerate(range(0, len(samples), shard_size)):
        links = samples[start : start + shard_size]
        alive = {f"{number:08d}{index:04d}": s for index, s in enumerate(links) if s.uid not in dead}
        files.append((f"{number:08d}.tar", partial(_write_tar, alive)))
        files.append((f"{number:08d}_stats.json", partial(_write_stats, len(links), len(alive))))
    write_folder(folder, files)


def _write_tar(alive: dict[str, Sample], path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, sample in alive.items():
            for name, content in _members(key, sample):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o444
                tar.addfile(member, io.BytesIO(content))


def _members(key: str, sample: Sample) -> Iterator[tuple[str, bytes]]:
    record = {
        "uid": sample.uid,
        "caption": sample.text,
        "url": sample.url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": sample.width,
        "height": sample.height,
        "original_width": sample.original_width,
        "original_height": sample.original_height,
        "exif": "{}",
        "sha256": sample.sha256,
    }
    yield f"{key}.jpg", sample.image
    yield f"{key}.json", json.dumps(record, indent=4).encode()
    yield f"{key}.txt", sample.text.encode()


def _write_stats(count: int, successes: int, path: Path) -> None:
    statuses = {"success": successes, "HTTP Error 404: Not Found": count - successes}
    stats = {
        "count": count,
        "successes": successes,
        "failed_to_download": count - successes,
        "failed_to_resize": 0,
        "duration": 0,
        "start_time": 0,
        "end_time": 0,
        "status_dict": {status: times for status, times in statuses.items() if times},
    }
    path.write_text(json.dumps(stats, indent=4))
