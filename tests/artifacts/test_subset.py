"""Subset files are upstream's own, and one that upstream would misread is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcexp.artifacts.subset import SUBSET, read_subset
from dcexp.artifacts.uid import UID
from tests.pools import as_pairs

HALF = st.integers(0, 2**64 - 1)


@given(pairs=st.lists(st.tuples(HALF, HALF), max_size=30))
def test_a_subset_is_what_numpy_writes(tmp_path_factory, pairs):
    out = tmp_path_factory.mktemp("subset")
    np.save(out / SUBSET, np.array(sorted(pairs), dtype="u8,u8"))
    assert as_pairs(read_subset(out / SUBSET)) == sorted(pairs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([(2, 0), (1, 0)], dtype=UID), "not in lexicographic order"),
        (np.array([1, 2], dtype=np.uint64), "dtype 'u8,u8'"),
        (np.zeros((2, 2), dtype=UID), "one-dimensional"),
    ],
)
def test_what_is_no_subset_is_refused(tmp_path, content, message):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=message):
        read_subset(tmp_path / "a.npy")


def test_pickles_and_other_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"nonsense")
    (tmp_path / "c.npy").touch()
    for name in "abc":
        with pytest.raises(ValueError, match=r"not a readable .npy file"):
            read_subset(tmp_path / f"{name}.npy")
