"""What the API tells of clusters. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from statistics import median

from coordinator.core.clusters.state import Cluster, Clusters
from coordinator.core.nodeview import NodeView
from coordinator.core.score import score
from coordinator.core.views import balance
from schemas import limits
from schemas.api import ListRequest
from schemas.cluster import Apart, ClusterRow, ClustersReply, MemberRow
from schemas.membership import NodeState

MEMBERS_TOLD = 500  # of one cluster


def clusters(state: Clusters, nodes: Mapping[str, NodeView], ask: ListRequest) -> ClustersReply:
    """A page of clusters, ``c2`` before ``c10``; with `ask.node` those that it is in."""
    found = sorted(state.clusters.values(), key=lambda c: (len(c.id), c.id))
    if ask.node:
        found = [cluster for cluster in found if ask.node in cluster.members]
    page = found[ask.page * ask.size : (ask.page + 1) * ask.size]
    return ClustersReply(tuple(row(state, cluster, nodes) for cluster in page), len(found), ask.page)


def row(state: Clusters, cluster: Cluster, nodes: Mapping[str, NodeView]) -> ClusterRow:
    """One cluster."""
    names = cluster.members
    pairs = measured(state, names)
    known = [nodes[name] for name in names if name in nodes]
    return ClusterRow(
        cluster.id,
        cluster.kind,
        cluster.leader,
        cluster.term,
        tuple(_member(name, nodes.get(name), pairs) for name in names[:MEMBERS_TOLD]),
        cluster.why,
        cluster.pinned,
        cluster.selector,
        balance([node for node in known if node.takes_work()]),
        cluster.relays,
        cluster.relay,
        Apart(len(pairs), median(pairs.values()), max(pairs.values())) if pairs else None,
    )


def measured(state: Clusters, names: list[str]) -> dict[tuple[str, str], int]:
    """The round trips of the pairs among these that were measured, in ms. None of too many."""
    if len(names) > limits.CLUSTER_MADE_MAX:
        return {}
    found = {pair: state.near.between(*pair) for pair in combinations(names, 2)}
    return {pair: ms for pair, ms in found.items() if ms is not None}


def _member(name: str, node: NodeView | None, pairs: Mapping[tuple[str, str], int]) -> MemberRow:
    if node is None:
        return MemberRow(name, NodeState.LOST.value)
    cache_mb = node.record.offer.cache_mb
    ways = [ms for pair, ms in pairs.items() if name in pair]
    apart_ms = median(ways) if ways else None
    return MemberRow(name, node.shown.value, round(score(node)[0], 3), node.count, cache_mb, node.relayed, apart_ms)
