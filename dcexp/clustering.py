"""Clustering by itself: the centres that filters by clusters need, made before them, on any machine."""

from dataclasses import dataclass

from dcexp.artifacts.clusters import Centroids
from dcexp.artifacts.scores import Assigned
from dcexp.checks import check_all
from dcexp.filters.assignment import CentreDistance
from dcexp.filters.clustering import KMeans
from dcexp.filters.none import NoFilter
from dcexp.pipeline import Run


@dataclass(frozen=True, kw_only=True)
class Request(Run):
    """What the verb ``cluster`` is asked: the pool of a run, and how to cluster it, or what its filter keeps of it."""

    clustering: KMeans


def cluster(request: Request) -> tuple[Centroids, Assigned]:
    """Find the clusters and put every row into one. Filters with the same ``clustering`` use what is made here."""
    pool = request.source.step()
    within = None if type(request.filter) is NoFilter else request.filter.step(pool)
    step = CentreDistance(clustering=request.clustering).step(pool, within)
    check_all({part.key: part for part in step.upstream()}.values(), request.engine, request.store)
    assigned = request.store.build(step, request.engine, request.rebuild_kinds)
    centroids = request.store.find(step.steps["centroids"])
    assert isinstance(assigned, Assigned) and isinstance(centroids, Centroids)
    return centroids, assigned
