"""The clusters that this node is in, as the coordinator told; and which leader's word counts there.

A leader acts under a term that only grows. The highest that was heard of, from the coordinator or from the leader itself,
stays: what an older one says is refused, also after this node has left that cluster.
"""

from __future__ import annotations

from schemas.cluster import Membership

KEPT = 256  # clusters whose terms are remembered; the longest unheard of are forgotten


class Seats:
    """`now` holds the clusters by id, `terms` the highest term of each cluster that was heard of."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.now: dict[str, Membership] = {}
        self.terms: dict[str, int] = {}

    def told(self, said: Membership) -> str:
        """The coordinator says who is in a cluster; returns what is wrong with that, or ""."""
        old = self.now.get(said.cluster)
        if old is not None and (said.term, said.version) < (old.term, old.version) and said.peers:
            return f"version {said.version} is older than {old.version}, seen here"
        if not said.peers:
            self.now.pop(said.cluster, None)
            return ""
        if said.cluster_term < self.terms.get(said.cluster, 0):
            return f"term {said.cluster_term} of {said.cluster} is older than {self.terms[said.cluster]}, seen here"
        self._note(said.cluster, said.cluster_term)
        self.now[said.cluster] = said
        return ""

    def against(self, cluster: str, leader: str, term: int) -> str:
        """Why this leader's word does not count, or "": it leads, and the term that it acts under is noted."""
        seat = self.now.get(cluster)
        if seat is None:
            return f"{self._node} is not in cluster {cluster}"
        seen = self.terms.get(cluster, 0)
        if term < seen:
            return f"term {term} of {cluster} is older than {seen}, seen here"
        if term == seat.cluster_term and leader != seat.leader:
            return f"{leader} does not lead {cluster} under term {term}"
        self._note(cluster, term)
        return ""

    def leads(self, cluster: str) -> int:
        """The term under which this node leads the cluster now; 0 if it does not."""
        seat = self.now.get(cluster)
        if seat is None or seat.leader != self._node or seat.cluster_term < self.terms.get(cluster, 0):
            return 0
        return seat.cluster_term

    def _note(self, cluster: str, term: int) -> None:
        highest = max(term, self.terms.pop(cluster, 0))
        self.terms[cluster] = highest
        while len(self.terms) > KEPT:
            del self.terms[next(iter(self.terms))]
