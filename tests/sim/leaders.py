"""What must hold of clusters and their leaders: judged by what members believe, who know only what they were told."""

from __future__ import annotations

from typing import Any

from coordinator.clusters import ClustersArea


class Leaders:
    """Told by every member what it takes from the coordinator."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.acting: dict[tuple[str, int], str] = {}  # (cluster, term) → who leads under it
        self.seen: dict[tuple[str, int, str], int] = {}  # (node, life, cluster) → the highest term that it took

    def told(self, node: str, said: Any, refused: str, seats: Any) -> None:
        """A member was told of a cluster; `seats` is what it believes now."""
        if refused or not said.peers:
            return
        cluster, term = said.cluster, said.cluster_term
        self.world.note("cluster", f"{node} in {cluster}, led by {said.leader} under {term}")
        key = (node, self.world.nodes[node].lives, cluster)
        if term < self.seen.get(key, 0):
            self.world.invariants.broken(
                "old leader", f"{node} took {said.leader} of {cluster} under {term} after {self.seen[key]}"
            )
        self.seen[key] = term
        if said.leader and (other := self.acting.setdefault((cluster, term), said.leader)) != said.leader:
            self.world.invariants.broken("two leaders", f"{said.leader} and {other} lead {cluster} under {term}")
        if (led := seats.leads(cluster)) and self.acting.get((cluster, led)) != node:
            self.world.invariants.broken("two leaders", f"{node} acts for {cluster} under {led}, which is not its term")

    def left(self) -> str:
        """What is not as it should be when all has healed: one home a node, led by a member that all know."""
        acting = next(c.acting for c in self.world.coordinators if c.acting is not None and c.acting.state.term)
        area = next((k._area for k in acting.areas._keepers if isinstance(k._area, ClustersArea)), None)
        if area is None:
            return "the clusters are not read yet"
        state = area.state
        for name, node in self.world.nodes.items():
            home = state.home.get(name)
            if home is None or not home.leader or home.leader not in home.members:
                return f"{name} has no home with a leader"
            clusters = getattr(node.daemon, "_clusters", None)
            seat = clusters and clusters.seats.now.get(home.id)
            if not seat or (seat.leader, seat.cluster_term) != (home.leader, home.term):
                return f"{name} does not know the leader of {home.id}"
            if [peer.node for peer in seat.peers] != home.members:
                return f"{name} does not know its peers in {home.id}"
        return ""
