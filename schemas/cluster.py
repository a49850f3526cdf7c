"""Clusters: small groups of similar, near nodes, each with one leader. What is kept of them, and what is said of them.

| where | key or subject | value |
|---|---|---|
| KV ``FOG_clusters`` | ``<cluster>`` | `ClusterRecord` |
| KV ``FOG_clusters`` | ``<cluster>.leader`` | `Leadership`; the revision of that write is the leader's *term* |
| KV ``FOG_availability`` | ``s<00..63>`` | `Shares` |
| request ``node.<node>.cluster`` | | `Membership`, answered by `membership.NodeAnswer` |

| subject | request | reply |
|---|---|---|
| ``api.cluster.list`` | `ListRequest` | `ClustersReply` |
| ``api.cluster.info`` | `ClusterRequest` | `ClusterRow` |
| ``api.cluster.create`` | `CreateCluster` | `Done` |
| ``api.cluster.pin`` | `PinCluster` | `Done` |
| ``api.cluster.grow`` | `GrowCluster` | `Done` |
| ``api.cluster.dissolve`` | `ClusterRequest` | `Done` |
| ``api.cluster.relay`` | `RelayCluster` | `Done` |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.device import PEERS_MAX
from schemas.names import Id


class ClusterKind(StrEnum):
    """Where a cluster's members come from."""

    AUTOMATIC = "automatic"  # formed by the rule, and healed by it
    MADE = "made"  # named by an operator; the rule leaves it alone
    SELECTOR = "selector"  # every node that fits its selector, beside the node's home


class Relay(StrEnum):
    """Whether a cluster's members beat to their leader (`schemas.relay`)."""

    DEFAULT = "default"  # as the coordinator was told for the whole fleet
    ON = "on"
    OFF = "off"


class Traits(Struct, frozen=True, order=True, omit_defaults=True):
    """What a node is grouped by, the most important first. `site` is its gateway's mark; "" is unknown, as for the others.

    `place` tells devices of a site apart that are far from each other, by what they measured (core/clusters/nearness.py).
    `tier` is 1 (low) to 4 (top), `latency` the named quality of its link, `pattern` when it tends to be there.
    """

    site: str = ""
    place: str = ""
    device_type: str = ""
    tier: int = 0
    latency: str = ""
    pattern: str = ""


class Seat(Struct, frozen=True, order=True, array_like=True):
    """A member: ``[traits, node]``, by which members are in order. The traits are those by which it was seated."""

    traits: Traits
    node: str


class ClusterRecord(Struct, frozen=True, omit_defaults=True):
    """A cluster as it is kept. `pinned`: the rule moves nobody in or out; lost members keep their seat."""

    id: Id
    kind: ClusterKind
    seats: tuple[Seat, ...] = ()
    why: str = ""
    pinned: bool = False
    selector: dict[str, str] = {}
    relay: Relay = Relay.DEFAULT


class Leadership(Struct, frozen=True, omit_defaults=True):
    """Who leads a cluster, its score (0..1) then, and the coordinator's term in which it was elected. "": nobody can."""

    leader: str
    score: float = 0.0
    reason: str = ""
    elected_under: int = 0


class Shares(Struct, frozen=True):
    """Of each node: the hours that were looked at, and of each hour of the day (UTC) the share online, in 255ths."""

    nodes: dict[str, tuple[int, bytes]] = {}


class Peer(Struct, frozen=True, array_like=True):
    """A member as its peers know it: ``[node, cache_mb]``."""

    node: str
    cache_mb: int = 0


class Near(Struct, frozen=True, array_like=True):
    """A device to measure the way to, and the cluster as whose member it is asked: ``[node, cluster]``."""

    node: Id
    cluster: Id


class Membership(Struct, frozen=True, omit_defaults=True):
    """What a member is told: the coordinator's term, and one cluster that it is in now. `peers` are all members, itself too;
    without any it is in that cluster no more. Nothing of an older `cluster_term` counts after that. With `relay`, members beat
    to the leader. `near` are those that it is to measure the round trip to: members, and some of other clusters of its site."""

    term: int
    cluster: Id
    cluster_term: Annotated[int, Meta(ge=0)] = 0
    version: int = 0
    leader: str = ""
    peers: tuple[Peer, ...] = ()
    relay: bool = False
    near: Annotated[tuple[Near, ...], Meta(max_length=PEERS_MAX)] = ()


# What clients ask on ``api.cluster.<verb>``.


class ClusterRequest(Struct, frozen=True):
    """Which cluster."""

    cluster: Id


class CreateCluster(Struct, frozen=True, omit_defaults=True):
    """Make a cluster of these nodes, which leave their homes for it; or one of all that fit `selector` (``gpu=true``,
    ``type=laptop``, ``arch=…``, ``os=…``, ``tier=4``, or a label), which keeps itself up to date."""

    cluster: Id
    nodes: Annotated[tuple[Id, ...], Meta(max_length=limits.CLUSTER_MADE_MAX)] = ()
    selector: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}


class PinCluster(Struct, frozen=True, omit_defaults=True):
    """Let nobody be moved in or out by the rule; or `release` it to the rule again."""

    cluster: Id
    release: bool = False


class GrowCluster(Struct, frozen=True, omit_defaults=True):
    """Bring these nodes in, or the `by` most similar ones; the cluster is pinned from then on."""

    cluster: Id
    nodes: Annotated[tuple[Id, ...], Meta(max_length=limits.CLUSTER_MADE_MAX)] = ()
    by: Annotated[int, Meta(ge=0, le=limits.CLUSTER_MADE_MAX)] = 0


class RelayCluster(Struct, frozen=True):
    """Have the members' heartbeats go by way of their leader, or not."""

    cluster: Id
    relay: Relay


class MemberRow(Struct, frozen=True, omit_defaults=True):
    """A member: its state, score (0..1), the tasks that it holds, and the memory that it offers to the cluster's cache.
    `relayed`: its last heartbeat came by way of its leader. `apart_ms` is the median of the round trips between it and the
    others, as far as any was measured."""

    node: str
    state: str = ""
    score: float = 0.0
    tasks: int = 0
    cache_mb: int = 0
    relayed: bool = False
    apart_ms: float | None = None


class Apart(Struct, frozen=True):
    """The round trips between the members that were measured, so many pairs of them."""

    pairs: int
    median_ms: float
    max_ms: int


class ClusterRow(Struct, frozen=True, omit_defaults=True):
    """A cluster. `why` says in words what its members have in common; `balance` is min/max tasks of its online members;
    `relay` whether they are to beat to the leader, and `relaying` what was said about that."""

    id: str
    kind: ClusterKind
    leader: str = ""
    term: int = 0
    members: tuple[MemberRow, ...] = ()
    why: str = ""
    pinned: bool = False
    selector: dict[str, str] = {}
    balance: float | None = None
    relay: bool = False
    relaying: Relay = Relay.DEFAULT
    apart: Apart | None = None


class ClustersReply(Struct, frozen=True):
    """A page of clusters, by id. `total` counts all pages."""

    clusters: tuple[ClusterRow, ...]
    total: int
    page: int
