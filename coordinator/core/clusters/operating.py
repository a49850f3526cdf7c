"""What an operator can do about clusters: make, pin, grow and dissolve them. What cannot be done raises BadInput."""

from __future__ import annotations

from coordinator.core.clusters.grouping import likeness
from coordinator.core.clusters.machine import seat, take
from coordinator.core.clusters.machine import seen as node_seen
from coordinator.core.clusters.relaying import wanted
from coordinator.core.clusters.state import Cluster, Clusters
from schemas import limits
from schemas.cluster import ClusterKind, ClusterRequest, CreateCluster, GrowCluster, PinCluster, RelayCluster, Seat
from schemas.errors import BadInput


def create(state: Clusters, asked: CreateCluster, now: float) -> str:
    """Make a cluster of named nodes, or one that keeps all nodes that fit a selector. Returns what was done, in words."""
    if asked.cluster in state.clusters:
        raise BadInput(
            "cluster", f"there is a cluster {asked.cluster} already", hint="`fog cluster grow` adds nodes to it"
        )
    if bool(asked.nodes) == bool(asked.selector):
        raise BadInput(
            "nodes", "name the nodes, or give a selector", hint="fog cluster create NAME NODE…, or --selector K=V"
        )
    _check_known(state, asked.nodes)
    kind = ClusterKind.SELECTOR if asked.selector else ClusterKind.MADE
    made = state.clusters[asked.cluster] = Cluster(asked.cluster, kind)
    if kind is ClusterKind.SELECTOR:
        made.selector = dict(asked.selector)
        state.selecting[made.id] = made
        for facts in list(state.nodes.values()):
            node_seen(state, facts, now)
        state.touch(made, "made by an operator")
        return f"{len(made.seats)} nodes fit now"
    made.pinned = True
    for node in dict.fromkeys(asked.nodes):
        take(state, node, made, "made by an operator")
    return f"{len(made.seats)} nodes"


def pin(state: Clusters, asked: PinCluster, now: float) -> str:
    """Take a cluster out of the rule's hands as it is, or give it (or one that an operator made) back."""
    cluster = _home_cluster(state, asked.cluster)
    if asked.release:
        if cluster.pinned:
            _release(state, cluster, "released by an operator", now)
        return "its nodes are grouped by the rule again"
    _pin(state, cluster)
    state.touch(cluster, "pinned by an operator")
    return "nobody is moved in or out"


def grow(state: Clusters, asked: GrowCluster, now: float) -> str:
    """Bring in these nodes, or the most similar ones; it is pinned then. Selector clusters grow by themselves."""
    cluster = _home_cluster(state, asked.cluster)
    if bool(asked.nodes) == bool(asked.by):
        raise BadInput("nodes", "name the nodes, or say by how many", hint="fog cluster grow NAME NODE…, or --by N")
    _check_known(state, asked.nodes)
    nodes = [n for n in dict.fromkeys(asked.nodes) if state.home.get(n) is not cluster] or _alike(
        state, cluster, asked.by
    )
    if not nodes and asked.by:
        raise BadInput("by", "no other node is in a cluster of the rule", hint="name those that are to come")
    if len(cluster.seats) + len(nodes) > limits.CLUSTER_MADE_MAX:
        raise BadInput("nodes", f"a cluster can have {limits.CLUSTER_MADE_MAX} members", hint="use a selector for more")
    _pin(state, cluster)
    for node in nodes:
        take(state, node, cluster, "grown by an operator")
    return f"{len(nodes)} more, {len(cluster.seats)} in all"


def relay(state: Clusters, asked: RelayCluster, now: float) -> str:
    """Have its members beat to their leader, or not, or as the whole fleet does."""
    cluster = _home_cluster(state, asked.cluster)
    cluster.relay = asked.relay
    state.touch(cluster, f"its relaying of heartbeats was set to {asked.relay.value} by an operator")
    return "its members beat to their leader" if wanted(state, cluster) else "its members beat for themselves"


def dissolve(state: Clusters, asked: ClusterRequest, now: float) -> str:
    """End a cluster; its nodes are grouped by the rule."""
    cluster = _known(state, asked.cluster)
    if cluster.kind is ClusterKind.SELECTOR:
        del state.selecting[cluster.id]
        cluster.selector = {}
        state.moved |= cluster.inside
        cluster.seats = []
        state.touch(cluster, "dissolved by an operator")
        return "it is no more; its nodes stay in their homes"
    _release(state, cluster, "dissolved by an operator", now)
    return "its nodes are grouped by the rule"


def _release(state: Clusters, cluster: Cluster, reason: str, now: float) -> None:
    """Give all of its nodes new homes; those that are lost get one when they are back."""
    _pin(state, cluster)
    nodes, cluster.seats = cluster.members, []
    for node in nodes:
        del state.home[node]
        state.moved.add(node)
    state.touch(cluster, reason)
    for node in nodes:
        facts = state.nodes.get(node)
        if facts is not None and facts.here:
            seat(state, node, reason, now)


def _pin(state: Clusters, cluster: Cluster) -> None:
    if cluster.by_rule:
        site = state.site(cluster.site)
        site.drop(site.groups.index(cluster))
    cluster.pinned = True


def _alike(state: Clusters, cluster: Cluster, count: int) -> list[str]:
    """The nodes of other automatic clusters that are most like its members: first those behind the same gateway."""
    own = cluster.seats[0] if cluster.seats else None

    def far(seat: Seat) -> tuple[bool, int, str]:
        return (own is not None and seat.traits.site != own.traits.site, -likeness(own, seat) if own else 0, seat.node)

    others = [
        seat for other in state.clusters.values() if other.by_rule and other is not cluster for seat in other.seats
    ]
    return [seat.node for seat in sorted(others, key=far)[:count]]


def _known(state: Clusters, name: str) -> Cluster:
    found = state.clusters.get(name)
    if found is None:
        raise BadInput("cluster", f"there is no cluster {name}", hint="`fog clusters` lists them")
    return found


def _home_cluster(state: Clusters, name: str) -> Cluster:
    found = _known(state, name)
    if found.kind is ClusterKind.SELECTOR:
        raise BadInput("cluster", f"{name} keeps its members by its selector", hint="dissolve it and make another")
    return found


def _check_known(state: Clusters, nodes: tuple[str, ...]) -> None:
    for node in nodes:
        if node not in state.nodes:
            raise BadInput("nodes", f"there is no node {node}", hint="`fog nodes` lists them")
