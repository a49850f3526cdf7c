"""What the clusters' machine holds, and what it wants done."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from coordinator.core.clusters.grouping import Group, Site
from coordinator.core.clusters.nearness import Nearness
from coordinator.core.clusters.traits import Facts
from schemas.cluster import ClusterKind, ClusterRecord, Leadership, Peer, Relay
from schemas.event import ClusterEvent, LeaderEvent


class Write(Struct, frozen=True):
    """Keep this record of the cluster; None: it is no more. No answer."""

    cluster: str
    record: ClusterRecord | None


class Elect(Struct, frozen=True):
    """Write this leader if the last revision of the cluster's leadership is still `revision` → `Clusters.elected`."""

    cluster: str
    leadership: Leadership
    revision: int


class Say(Struct, frozen=True):
    """Say an event; the same `key` is the same event."""

    kind: str
    about: str
    key: str
    data: ClusterEvent | LeaderEvent


class Tell(Struct, frozen=True):
    """Tell a node of its clusters again, as they are by then."""

    node: str


class Belongs(Struct, frozen=True):
    """The node is in these clusters from now on: tasks may ask for them."""

    node: str
    clusters: frozenset[str]


Action = Write | Elect | Say | Tell | Belongs
Out = list[Action]


class Cluster(Group):
    """A group with what is known of it besides its seats.

    `term` is the revision under which its leader was written (0: none was yet), `revision` that of the last write.
    `electing`: the leader that is being written. `rival`: who would lead, but for hysteresis, and since when.
    """

    __slots__ = (
        "before", "electing", "inside", "kind", "leader", "pinned", "relay", "relays", "revision", "rival", "rival_since",
        "said", "selector", "site", "term", "told", "version", "why",
    )  # fmt: skip

    def __init__(self, name: str, kind: ClusterKind, site: str = "") -> None:
        super().__init__(name)
        self.kind, self.site = kind, site
        self.pinned = False
        self.selector: dict[str, str] = {}
        self.relay = Relay.DEFAULT  # what an operator said
        self.relays = False  # whether its members are told to beat to their leader
        self.inside: set[str] = set()  # the members of a selector cluster, which may be many
        self.leader = self.before = ""
        self.term = self.revision = self.version = 0
        self.electing: str | None = None
        self.rival, self.rival_since = "", 0.0
        self.said: frozenset[str] | None = None  # the members that were last told of; None: it is new
        self.why = ""
        self.told: tuple[Peer, ...] = ()  # the peers as members are told of them; only itself is told in a large one

    @property
    def by_rule(self) -> bool:
        """Whether the rule may move its members."""
        return self.kind is ClusterKind.AUTOMATIC and not self.pinned

    @property
    def members(self) -> list[str]:
        """Its nodes, in the order of their seats."""
        return [seat.node for seat in self.seats]

    def record(self) -> ClusterRecord:
        """As it is kept."""
        return ClusterRecord(self.id, self.kind, tuple(self.seats), self.why, self.pinned, self.selector, self.relay)


class Clusters:
    """All clusters, where every node is at home, and what is known of the nodes."""

    def __init__(self, term: int, counted: int = 0, relay_from: float = inf) -> None:
        self.term = term  # the coordinator's
        self.counted = counted  # versions and events; more than any area of the same term has counted before
        self.relay_from = relay_from  # nodes from which on clusters relay heartbeats that were told nothing else
        self.relaying = False  # so many are there
        self.clusters: dict[str, Cluster] = {}
        self.home: dict[str, Cluster] = {}
        self.selecting: dict[str, Cluster] = {}  # those of `clusters` that have a selector
        self.sites: dict[str, Site] = {}
        self.nodes: dict[str, Facts] = {}
        self.near = Nearness()
        self.number = 0  # of the last automatic cluster
        self.seated_at: dict[str, float] = {}
        self.touched: dict[str, str] = {}  # cluster → why it changed; settled at the end of a turn
        self.moved: set[str] = set()  # nodes whose clusters changed in this turn
        self.of: dict[str, frozenset[str]] = {}  # node → all its clusters, as they were last told

    def touch(self, cluster: Cluster, reason: str) -> None:
        """Its members, or what is kept of it, have changed for this reason; without one, who should lead may have."""
        self.touched[cluster.id] = self.touched.get(cluster.id) or reason

    def site(self, name: str) -> Site:
        """The groups behind a gateway."""
        return self.sites.setdefault(name, Site())

    def say(self, kind: str, cluster: str, data: ClusterEvent | LeaderEvent, out: Out) -> None:
        """Say an event about a cluster."""
        out.append(Say(f"cluster.{kind}", cluster, f"{cluster}.{self.term}.{kind}.{self.count()}", data))

    def count(self) -> int:
        """A number higher than all before it."""
        self.counted += 1
        return self.counted
