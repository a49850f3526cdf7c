"""Whom a node is to measure the way to: its cluster, and a few of other clusters of its site."""

from __future__ import annotations

from zlib import crc32

from coordinator.core.clusters.state import Cluster, Clusters
from schemas.cluster import ClusterKind, Near
from schemas.rendezvous import owners

MEMBERS, OTHERS = 8, 4  # together no more than `device.PEERS_MAX`


def sample(state: Clusters, cluster: Cluster, node: str) -> tuple[Near, ...]:
    """Up to `MEMBERS` members, and the leaders of up to `OTHERS` clusters of its site: those beside its own in order, and some
    drawn by its name. Only a home tells how near its members are; of a selector cluster there is nobody."""
    if cluster.kind is ClusterKind.SELECTOR:
        return ()
    members = owners(node, (name for name in cluster.members if name != node), MEMBERS)
    return tuple(Near(name, cluster.id) for name in members) + tuple(_others(state, cluster, node))


def _others(state: Clusters, cluster: Cluster, node: str) -> list[Near]:
    groups = state.sites[cluster.site].groups if cluster.by_rule and cluster.site in state.sites else []
    if len(groups) < 2:
        return []
    own = state.sites[cluster.site].at(cluster.seats[0])
    drawn = crc32(node.encode())
    at = dict.fromkeys((own - 1, own + 1, drawn % len(groups), drawn // 7 % len(groups)))
    found = [groups[index] for index in at if 0 <= index < len(groups) and index != own]
    return [Near(other.leader or other.members[0], other.id) for other in found if isinstance(other, Cluster)]
