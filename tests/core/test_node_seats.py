"""What a member takes from whom: the coordinator's word in order, a leader's by its term."""

from __future__ import annotations

from node.core.seats import KEPT, Seats
from schemas.cluster import Membership, Peer


def said(term: int, version: int, cluster_term: int, leader: str, *peers: str, cluster: str = "c1") -> Membership:
    return Membership(term, cluster, cluster_term, version, leader, tuple(map(Peer, peers)))


def test_the_leader_named_by_the_coordinator_leads_and_nobody_else() -> None:
    seats = Seats("n1")
    assert seats.told(said(1, 1, 10, "n1", "n1", "n2")) == ""
    assert seats.leads("c1") == 10
    assert seats.against("c1", "n1", 10) == ""
    assert "does not lead" in seats.against("c1", "n2", 10)
    assert "not in cluster" in seats.against("c2", "n2", 10)


def test_a_deposed_leader_is_refused_by_its_term_and_a_new_one_may_speak_before_the_coordinator_told_of_it() -> None:
    seats = Seats("n1")
    seats.told(said(1, 1, 10, "n2", "n1", "n2", "n3"))
    assert seats.against("c1", "n3", 14) == ""
    assert "older than 14" in seats.against("c1", "n2", 10)
    assert "older than 14" in seats.told(said(1, 2, 10, "n2", "n1", "n2"))


def test_a_leader_that_heard_of_a_later_term_leads_no_more() -> None:
    seats = Seats("n1")
    seats.told(said(1, 1, 10, "n1", "n1", "n2"))
    seats.against("c1", "n2", 14)
    assert seats.leads("c1") == 0


def test_what_comes_late_does_not_undo_what_was_told_after_it() -> None:
    seats = Seats("n1")
    seats.told(said(1, 5, 10, "n2", "n1", "n2"))
    assert "older" in seats.told(said(1, 4, 10, "n2", "n1", "n2", "n3"))
    assert seats.told(said(2, 1, 10, "n2", "n1")) == "", "another coordinator counts anew"
    assert [peer.node for peer in seats.now["c1"].peers] == ["n1"]


def test_a_node_that_left_is_no_member_and_remembers_the_term() -> None:
    seats = Seats("n1")
    seats.told(said(1, 1, 10, "n1", "n1"))
    seats.told(Membership(1, "c1"))
    assert seats.leads("c1") == 0 and "not in cluster" in seats.against("c1", "n2", 11)
    assert "older than 10" in seats.told(said(1, 2, 9, "n1", "n1"))


def test_terms_of_many_clusters_are_remembered_up_to_a_limit() -> None:
    seats = Seats("n1")
    for number in range(2 * KEPT):
        seats.told(said(1, 1, number + 1, "n1", "n1", cluster=f"c{number}"))
    assert len(seats.terms) == KEPT
