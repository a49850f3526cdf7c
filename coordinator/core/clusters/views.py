"""What the API tells of clusters. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core.clusters.state import Cluster, Clusters
from coordinator.core.nodeview import NodeView
from coordinator.core.score import score
from coordinator.core.views import balance
from schemas.api import ListRequest
from schemas.cluster import ClusterRow, ClustersReply, MemberRow
from schemas.membership import NodeState

MEMBERS_TOLD = 500  # of one cluster


def clusters(state: Clusters, nodes: Mapping[str, NodeView], ask: ListRequest) -> ClustersReply:
    """A page of clusters, ``c2`` before ``c10``; with `ask.node` those that it is in."""
    found = sorted(state.clusters.values(), key=lambda c: (len(c.id), c.id))
    if ask.node:
        found = [cluster for cluster in found if ask.node in cluster.members]
    page = found[ask.page * ask.size : (ask.page + 1) * ask.size]
    return ClustersReply(tuple(row(cluster, nodes) for cluster in page), len(found), ask.page)


def row(cluster: Cluster, nodes: Mapping[str, NodeView]) -> ClusterRow:
    """One cluster."""
    names = cluster.members
    known = [nodes[name] for name in names if name in nodes]
    return ClusterRow(
        cluster.id,
        cluster.kind,
        cluster.leader,
        cluster.term,
        tuple(_member(name, nodes.get(name)) for name in names[:MEMBERS_TOLD]),
        cluster.why,
        cluster.pinned,
        cluster.selector,
        balance([node for node in known if node.takes_work()]),
        cluster.relays,
        cluster.relay,
    )


def _member(name: str, node: NodeView | None) -> MemberRow:
    if node is None:
        return MemberRow(name, NodeState.LOST.value)
    cache_mb = node.record.offer.cache_mb
    return MemberRow(name, node.shown.value, round(score(node)[0], 3), node.count, cache_mb, node.relayed)
