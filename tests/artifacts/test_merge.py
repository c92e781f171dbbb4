"""Merging sorted files of uids range by range is what sorting everything together would be."""

import io

import numpy as np
import pytest

from dcexp.artifacts import merge
from dcexp.artifacts.lookup import count_in
from dcexp.artifacts.merge import UidFile, merge_files, ranges
from dcexp.artifacts.uid import UID


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    monkeypatch.setattr(merge, "RANGE", 100)


def written(folder, sizes, bits=40):
    rng = np.random.default_rng(len(sizes))
    lists = [np.sort(rng.integers(0, 2**bits, size=(n, 2), dtype=np.uint64).view(UID).reshape(-1)) for n in sizes]
    for number, uids in enumerate(lists):
        np.save(folder / f"{number}.npy", uids)
    return lists, [folder / f"{number}.npy" for number in range(len(sizes))]


@pytest.mark.parametrize("sizes", [[0], [5], [0, 0], [500, 300, 0, 700], [10] * 50, [1000]])
@pytest.mark.parametrize("bits", [40, 3])
def test_a_merge_is_numpys_sorted_array_to_the_byte(tmp_path, sizes, bits):
    lists, paths = written(tmp_path, sizes, bits)
    buffer = io.BytesIO()
    np.save(buffer, np.sort(np.concatenate(lists)))
    assert merge_files(paths, tmp_path / "out.npy") == sum(sizes)
    assert (tmp_path / "out.npy").read_bytes() == buffer.getvalue()


def test_equal_uids_meet_in_one_range_and_ranges_are_small(tmp_path):
    lists, paths = written(tmp_path, [2000, 2000], bits=9)
    common, largest = 0, 0
    files = [UidFile(path) for path in paths]
    for edges in ranges(files):
        first, second = (file.slice(edges) for file in files)
        common += int((count_in(second, first) > 0).sum())
        largest = max(largest, len(first) + len(second))
    wanted = set(lists[1].tolist())
    assert common == sum(uid in wanted for uid in lists[0].tolist()) > 0
    assert largest < 400
