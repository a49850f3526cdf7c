"""In which clusters the members beat to their leader, and which leader's digests count. Of selector clusters, none do."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core.clusters.state import Cluster, Clusters
from coordinator.core.nodeview import NodeView
from coordinator.core.relayed import counts
from schemas import limits
from schemas.cluster import ClusterKind, Relay
from schemas.relay import Aged, Digest, Still

BACK = 0.9  # of the size from which the fleet relays: below that share of it, it does so no more


def look(state: Clusters) -> None:
    """The fleet may have become large enough, or too small."""
    on = len(state.home) >= state.relay_from * (BACK if state.relaying else 1.0)
    if on == state.relaying:
        return
    state.relaying = on
    for cluster in state.clusters.values():
        state.touch(cluster, "")


def wanted(state: Clusters, cluster: Cluster) -> bool:
    """Whether the members are to beat to their leader."""
    if cluster.kind is ClusterKind.SELECTOR or not 2 <= len(cluster.seats) <= limits.CLUSTER_MADE_MAX:
        return False
    return cluster.relay is Relay.ON or (cluster.relay is Relay.DEFAULT and state.relaying)


def against(state: Clusters, leader: str, digest: Digest) -> str:
    """Why this digest does not count, or ""."""
    cluster = state.clusters.get(digest.cluster)
    if cluster is None:
        return f"there is no cluster {digest.cluster}"
    if (leader, digest.cluster_term) != (cluster.leader, cluster.term):
        return f"{leader} does not lead {cluster.id} under term {digest.cluster_term}"
    return "" if cluster.relays else f"the members of {cluster.id} beat for themselves"


def sort(
    state: Clusters, nodes: Mapping[str, NodeView], digest: Digest
) -> tuple[tuple[Still, ...], tuple[Aged, ...], tuple[str, ...]]:
    """The beats that count, and the nodes that must speak for themselves (or are not this leader's to speak for)."""
    cluster = state.clusters[digest.cluster]

    def ours(node: str, boot: int) -> bool:
        return state.home.get(node) is cluster and counts(nodes.get(node), boot)

    stills = tuple(still for still in digest.stills if ours(still.node, still.boot))
    beats = tuple(aged for aged in digest.beats if ours(aged.beat.node, aged.beat.boot))
    if len(stills) + len(beats) == len(digest.stills) + len(digest.beats):
        return stills, beats, ()
    said = {still.node for still in digest.stills} | {aged.beat.node for aged in digest.beats}
    return stills, beats, tuple(sorted(said - {s.node for s in stills} - {a.beat.node for a in beats}))
