"""Decisions of a cluster: proposed to its leader, voted on by its members, recorded once by the coordinator.

| where | key or subject | value or request | reply |
|---|---|---|---|
| KV ``FOG_decisions`` | ``<proposal>`` | `Proposal` | |
| KV ``FOG_decisions`` | ``<proposal>.outcome`` | `Decision`, created once | |
| request ``node.<leader>.lead`` | | `Poll` | `membership.NodeAnswer` |
| request ``peer.<cluster>.<node>.vote`` | | `VoteRequest` | `Vote` |

| subject | request | reply |
|---|---|---|
| ``api.cluster.propose`` | `ProposeRequest` | `Proposal` |
| ``api.cluster.decision`` | `DecisionRequest` | `DecisionReply` |
| ``api.cluster.tally`` | `Tally` | `Decision` |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.names import Id

Text = Annotated[str, Meta(min_length=1, max_length=2_000)]
Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]


class Verdict(StrEnum):
    """How a proposal ended. More than half of the cluster's members make a majority."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # a majority of yes cannot come any more
    EXPIRED = "expired"  # neither, by its time


class Proposal(Struct, frozen=True, omit_defaults=True):
    """What is proposed. `voters` are the members at that moment; `deadline_at` is in seconds since 1970."""

    id: Id
    cluster: Id
    text: Text
    voters: tuple[str, ...]
    proposed_at: float
    deadline_at: float


class Vote(Struct, frozen=True, omit_defaults=True):
    """A member's vote, by its own policy, with the reason. With `error` it is none."""

    yes: bool = False
    reason: Reason = ""
    error: Reason = ""


def verdict_of(proposal: Proposal, votes: dict[str, Vote]) -> Verdict | None:
    """What these votes decide; None while they decide nothing. Those of others than its voters do not count."""
    counted = [votes[node].yes for node in proposal.voters if node in votes and not votes[node].error]
    if 2 * sum(counted) > len(proposal.voters):
        return Verdict.ACCEPTED
    return Verdict.REJECTED if 2 * (len(counted) - sum(counted)) >= len(proposal.voters) else None


class Decision(Struct, frozen=True, omit_defaults=True):
    """The one recorded outcome of a proposal: who voted what, and under which leader and term it was counted."""

    proposal: Id
    cluster: Id
    verdict: Verdict
    decided_at: float
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    reasons: dict[str, str] = {}  # of those who voted no
    leader: str = ""
    term: int = 0


class ProposeRequest(Struct, frozen=True, omit_defaults=True):
    """Put something to the vote of a cluster. The same `proposal` again is the same proposal."""

    proposal: Id
    cluster: Id
    text: Text
    timeout_s: Annotated[float, Meta(ge=0.1, le=limits.DECIDE_MAX_S)] = 10.0


class DecisionRequest(Struct, frozen=True, omit_defaults=True):
    """What became of a proposal; the answer waits for up to `wait_s` for its outcome."""

    proposal: Id
    wait_s: Annotated[float, Meta(ge=0, le=1)] = 0.0


class DecisionReply(Struct, frozen=True, omit_defaults=True):
    """A proposal, and its outcome once there is one."""

    proposal: Proposal
    decision: Decision | None = None


class Poll(Struct, frozen=True):
    """To a leader: ask the members. `term` is the coordinator's, `cluster_term` that under which it leads."""

    term: int
    cluster_term: int
    proposal: Proposal


class VoteRequest(Struct, frozen=True):
    """From a leader to a member: how do you vote? Refused when its term is older than one that was heard of."""

    leader: Id
    cluster_term: int
    proposal: Proposal


class Tally(Struct, frozen=True, omit_defaults=True):
    """From a leader: the votes. Recorded if they decide it, or if its time is over; refused of an older term."""

    proposal: Id
    cluster: Id
    leader: Id
    cluster_term: int
    votes: Annotated[dict[str, Vote], Meta(max_length=limits.CLUSTER_MADE_MAX)] = {}
