"""What is put to the vote in clusters: open proposals, who was asked to lead them, and when they are decided.

A majority is more than half of the members at the moment of the proposal. The leader's word counts only under the
cluster's present term; one that comes after asks the members anew (each votes the same again). Whatever is judged here is
recorded by a write that only the first can make.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.clusters.state import Clusters
from schemas.decision import Decision, Proposal, ProposeRequest, Tally, Verdict, Vote, verdict_of
from schemas.errors import BadInput

GRACE_S = 1.0  # after its time, in which the leader may still bring what it has
OPEN_MAX = 1_000


class Deciding:
    """`open` holds the proposals without an outcome; `asked` the leader and term that each was last given to."""

    def __init__(self, state: Clusters) -> None:
        self._state = state
        self.open: dict[str, Proposal] = {}
        self.asked: dict[str, tuple[str, int]] = {}

    def propose(self, ask: ProposeRequest, now: float) -> Proposal:
        """A new proposal to the members of a cluster. Raises BadInput."""
        cluster = self._state.clusters.get(ask.cluster)
        if cluster is None:
            raise BadInput("cluster", f"there is no cluster {ask.cluster}", hint="`fog clusters` lists them")
        if not cluster.seats or len(cluster.told) < len(cluster.seats):
            raise BadInput("cluster", f"{ask.cluster} has {len(cluster.seats)} members: too many, or none, to vote")
        if len(self.open) >= OPEN_MAX:
            raise BadInput("proposal", f"{OPEN_MAX} proposals are open", hint="wait until some are decided")
        return Proposal(ask.proposal, ask.cluster, ask.text, tuple(cluster.members), now, now + ask.timeout_s)

    def to_ask(self) -> Iterator[tuple[Proposal, str, int]]:
        """Open proposals whose cluster has a leader that was not asked yet under its term."""
        for proposal in self.open.values():
            cluster = self._state.clusters.get(proposal.cluster)
            if cluster is None or not cluster.leader:
                continue
            leader = (cluster.leader, cluster.term)
            if self.asked.get(proposal.id) != leader:
                self.asked[proposal.id] = leader
                yield proposal, *leader

    def judge(self, tally: Tally, now: float) -> Decision:
        """The outcome by these votes. Raises BadInput for an older term's, and while they decide nothing."""
        proposal = self.open.get(tally.proposal)
        if proposal is None or proposal.cluster != tally.cluster:
            raise BadInput("proposal", f"{tally.proposal} is not open in {tally.cluster}")
        cluster = self._state.clusters.get(tally.cluster)
        if cluster is None or (cluster.leader, cluster.term) != (tally.leader, tally.cluster_term):
            now_led = "nobody" if cluster is None else f"{cluster.leader} under term {cluster.term}"
            raise BadInput("cluster_term", f"{tally.cluster} is led by {now_led}")
        verdict = verdict_of(proposal, tally.votes) or (Verdict.EXPIRED if now >= proposal.deadline_at else None)
        if verdict is None:
            raise BadInput("votes", "they make no majority yet")
        return decision(proposal, verdict, tally.votes, now, tally.leader, tally.cluster_term)

    def expired(self, now: float) -> list[Decision]:
        """The outcomes of proposals whose time is over, and whose leader brought nothing."""
        over = [p for p in self.open.values() if now >= p.deadline_at + GRACE_S]
        return [decision(proposal, Verdict.EXPIRED, {}, now) for proposal in over]

    def close(self, proposal: str) -> None:
        """It has its outcome."""
        self.open.pop(proposal, None)
        self.asked.pop(proposal, None)


def decision(
    proposal: Proposal, verdict: Verdict, votes: dict[str, Vote], now: float, leader: str = "", term: int = 0
) -> Decision:
    """The outcome as it is recorded."""
    said = {node: votes[node] for node in proposal.voters if node in votes and not votes[node].error}
    return Decision(
        proposal.id,
        proposal.cluster,
        verdict,
        now,
        tuple(node for node, vote in said.items() if vote.yes),
        tuple(node for node, vote in said.items() if not vote.yes),
        tuple(node for node in proposal.voters if node not in said),
        {node: vote.reason for node, vote in said.items() if not vote.yes and vote.reason},
        leader,
        term,
    )
