"""Filters whose notes do not fit on the disk say so, and go on where there is room."""

import pytest

from tests.cli import dcexp_process
from tests.filters.images import Images, random_features
from tests.reshard.test_disk_full import disk  # noqa: F401


@pytest.mark.parametrize("rows", [9000, 5000], ids=["the copies", "the copies together"])
def test_clusters_that_do_not_fit_say_so_and_go_on_where_there_is_room(rows, disk, tmp_path):  # noqa: F811
    Images(tmp_path, random_features(0, rows // 2, rows // 2, width=128))
    clustering = "clusters=9", "per_cluster=1000", "iterations=1"
    words = " ".join(["filter=far_from_centre", *(f"filter.clustering.{word}" for word in clustering)])
    words += f" tracker=none until=subset source=commonpool source.root={tmp_path}/pool store.root={disk.path}/store"
    stopped = dcexp_process(words, tmp_path)
    assert stopped.returncode == 1 and "no space left for centroids/kmeans" in stopped.stderr, stopped.stderr

    disk.resize("20m")
    gone_on = dcexp_process(words, tmp_path)
    assert gone_on.returncode == 0 and f"{rows:,} in = {rows // 2 + 1:,} kept" in gone_on.stderr + gone_on.stdout
