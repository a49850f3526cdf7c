"""Proposals: what votes decide, whose tally counts, and how members vote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.clusters import leading
from coordinator.core.clusters.deciding import GRACE_S, Deciding
from coordinator.core.clusters.state import Action
from node.core.voting import VotePolicy, Votes
from schemas.cluster import Leadership
from schemas.decision import Proposal, ProposeRequest, Tally, Verdict, Vote, verdict_of
from schemas.device import DeviceState, ThermalState
from schemas.errors import BadInput
from tests.core.test_clusters import World

YES, NO, ERROR = Vote(True), Vote(False, "hot"), Vote(error="not in cluster")


@given(st.lists(st.sampled_from([YES, NO, ERROR, None]), min_size=1, max_size=9))
def test_more_than_half_of_all_members_decide_and_a_verdict_never_turns(votes: list[Vote | None]) -> None:
    names = tuple(f"n{i}" for i in range(len(votes)))
    proposal = Proposal("p", "c1", "?", names, 0.0, 10.0)
    given_so_far: dict[str, Vote] = {"stranger": YES}
    reached: Verdict | None = None
    for name, vote in zip(names, votes, strict=True):
        if vote is not None:
            given_so_far[name] = vote
        verdict = verdict_of(proposal, given_so_far)
        assert reached is None or verdict is reached
        reached = verdict
    yes, no = (sum(vote is one for vote in votes) for one in (YES, NO))
    assert (reached is Verdict.ACCEPTED) is (yes > len(votes) / 2)
    assert (reached is Verdict.REJECTED) is (no >= len(votes) / 2)


def world() -> tuple[World, Deciding]:
    made = World()
    for name, score in (("a", 0.9), ("b", 0.7), ("d", 0.5)):
        made.node(name, score=score)
    deciding = Deciding(made.state)
    proposal = deciding.propose(ProposeRequest("p1", "c1", "update?", 10.0), made.now)
    assert proposal.voters == ("a", "b", "d")
    deciding.open[proposal.id] = proposal
    return made, deciding


def test_the_leader_is_asked_once_and_its_successor_anew() -> None:
    fleet, deciding = world()
    term = fleet.state.clusters["c1"].term
    assert [(leader, t) for _, leader, t in deciding.to_ask()] == [("a", term)]
    assert list(deciding.to_ask()) == []
    fleet.lose("a")
    assert [leader for _, leader, _ in deciding.to_ask()] == ["b"]


def test_the_tally_of_a_deposed_leader_is_refused_and_its_successors_counts() -> None:
    fleet, deciding = world()
    old = fleet.state.clusters["c1"].term
    fleet.lose("a")
    votes = {"a": YES, "b": YES}
    with pytest.raises(BadInput, match="led by b"):
        deciding.judge(Tally("p1", "c1", "a", old, votes), fleet.now)
    decision = deciding.judge(Tally("p1", "c1", "b", fleet.state.clusters["c1"].term, votes), fleet.now)
    assert (decision.verdict, decision.yes, decision.silent) == (Verdict.ACCEPTED, ("a", "b"), ("d",))


def test_the_same_leader_under_a_later_term_is_another_one() -> None:
    fleet, deciding = world()
    out: list[Action] = []
    leading.elected(fleet.state, "c1", Leadership("a"), fleet.state.clusters["c1"].term + 5, fleet.now, out)
    assert [leader for _, leader, _ in deciding.to_ask()] == ["a"]


def test_votes_that_decide_nothing_are_refused_until_the_time_is_over() -> None:
    fleet, deciding = world()
    tally = Tally("p1", "c1", "a", fleet.state.clusters["c1"].term, {"a": YES})
    with pytest.raises(BadInput, match="no majority"):
        deciding.judge(tally, fleet.now)
    assert deciding.judge(tally, fleet.now + 10).verdict is Verdict.EXPIRED


def test_what_no_leader_brings_expires() -> None:
    fleet, deciding = world()
    assert deciding.expired(fleet.now + 10) == []
    (decision,) = deciding.expired(fleet.now + 10 + GRACE_S)
    assert (decision.verdict, decision.silent) == (Verdict.EXPIRED, ("a", "b", "d"))
    deciding.close("p1")
    assert deciding.expired(fleet.now + 100) == []


@pytest.mark.parametrize(
    ("policy", "closed_to", "state", "yes"),
    [
        ("healthy", "", DeviceState(), True),
        ("healthy", "the node is draining", DeviceState(), False),
        ("healthy", "", DeviceState(battery_percent=10.0, is_charging=False), False),
        ("healthy", "", DeviceState(battery_percent=10.0, is_charging=True), True),
        ("healthy", "", DeviceState(thermal_state=ThermalState.HOT), False),
        ("yes", "", DeviceState(thermal_state=ThermalState.HOT), True),
        ("no", "", DeviceState(), False),
    ],
)
def test_a_member_votes_by_its_owners_policy(policy: str, closed_to: str, state: DeviceState, yes: bool) -> None:
    vote: Any = Votes(VotePolicy(policy)).on("p1", closed_to, state)
    assert vote.yes is yes and vote.reason


def test_a_vote_stands() -> None:
    votes = Votes(VotePolicy.HEALTHY)
    assert votes.on("p1", "", DeviceState()).yes
    assert votes.on("p1", "draining", DeviceState()).yes
    assert not votes.on("p2", "draining", DeviceState()).yes
