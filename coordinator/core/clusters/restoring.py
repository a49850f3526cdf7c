"""The clusters of an earlier coordinator, from what is kept of them.

A coordinator that died between two writes may have left a node in two records (the later write counts) or in none (it is
seated when it is seen). Runs that overlap, and groups that are too small, are put right by the rule.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core.clusters import grouping
from coordinator.core.clusters.grouping import Site
from coordinator.core.clusters.state import Cluster, Clusters
from schemas.cluster import ClusterKind, ClusterRecord, Leadership


def restore(
    state: Clusters,
    records: Mapping[str, tuple[ClusterRecord, int]],
    leaders: Mapping[str, tuple[Leadership, int]],
    now: float,
) -> None:
    """Take in all that is kept, each with its revision. The state is new."""
    seated: set[str] = set()
    for record, _ in sorted(records.values(), key=lambda kept: -kept[1]):
        cluster = Cluster(record.id, record.kind)
        cluster.seats = sorted(seat for seat in record.seats if seat.node not in seated or not _is_home(record))
        cluster.said = frozenset(seat.node for seat in record.seats)
        cluster.pinned, cluster.selector, cluster.why = record.pinned, dict(record.selector), record.why
        cluster.version, cluster.relay = state.count(), record.relay
        state.clusters[record.id] = cluster
        if _is_home(record):
            seated |= {seat.node for seat in cluster.seats}
            state.home.update(dict.fromkeys(cluster.members, cluster))
            for seat in cluster.seats:
                state.near.restore(seat.node, seat.traits.site, seat.traits.place, now)
        else:
            cluster.inside = set(cluster.members)
            state.selecting[cluster.id] = cluster
        _lead(cluster, leaders.get(record.id))
        if cluster.said != frozenset(cluster.members):
            state.touch(cluster, "put right after a coordinator's end")
    state.seated_at.update(dict.fromkeys(state.home, now))
    state.number = max((_number(name) for name in state.clusters), default=0)
    for site in {c.seats[0].traits.site for c in state.clusters.values() if c.by_rule and c.seats}:
        _site(state, site)


def _is_home(record: ClusterRecord) -> bool:
    return record.kind is not ClusterKind.SELECTOR


def _lead(cluster: Cluster, kept: tuple[Leadership, int] | None) -> None:
    if kept is not None:
        cluster.leader, cluster.term = kept[0].leader, kept[1]
        cluster.revision = kept[1]


def _site(state: Clusters, name: str) -> None:
    """Put the clusters of a site in order. Seats that are out of order are taken back; their nodes are seated anew."""
    found = [c for c in state.clusters.values() if c.by_rule and c.seats and c.seats[0].traits.site == name]
    last = None
    for cluster in sorted(found, key=lambda c: c.seats[0]):
        cluster.site = name
        kept = [seat for seat in cluster.seats if seat.traits.site == name and (last is None or seat > last)]
        if len(kept) < len(cluster.seats):
            for seat in set(cluster.seats) - set(kept):
                del state.home[seat.node]
            cluster.seats = kept
            state.touch(cluster, "put right after a coordinator's end")
        last = kept[-1] if kept else last
    site = state.sites[name] = Site(cluster for cluster in found if cluster.seats)
    for cluster in [c for c in found if 0 < len(c.seats) < grouping.SIZE_MIN]:
        if cluster in site.groups:
            for group in grouping.heal(site, site.groups.index(cluster)):
                assert isinstance(group, Cluster)
                state.home.update(dict.fromkeys(group.members, group))
                state.touch(group, "put right after a coordinator's end")


def _number(name: str) -> int:
    return int(name[1:]) if name[:1] == "c" and name[1:].isdigit() else 0
