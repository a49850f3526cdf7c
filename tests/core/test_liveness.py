"""Who is alive: the announced gap, the closed connection, the silence, and when nobody is judged."""

from __future__ import annotations

import pytest

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core import tune
from coordinator.core.liveness import TABLE, Cause
from coordinator.core.views import nodes, status
from schemas.api import ListRequest
from schemas.membership import NodeState
from schemas.task import History, ResultHead, ResultState
from tests.core.world import World, head


def state_of(w: World, node: str = "n1") -> str:
    return w.state.nodes[node].state.value


def settled() -> World:
    """A coordinator that has acted for longer than a lease, with one node."""
    w = World()
    w.wait(100, 1)
    w.join("n1")
    return w


def test_silence_makes_a_node_late_with_a_probe_and_lost_after_three_beats() -> None:
    w = settled()
    assert w.wait(6) == []
    lines = w.wait(1)
    assert lines == ["emit node.late n1.1.late.1.2", "probe n1"]
    assert w.wait(5) == ["probe n1"]
    assert w.wait(5) == ["emit node.lost n1.1.lost.1.3"]


def test_a_probe_answer_or_a_beat_brings_it_back() -> None:
    w = settled()
    w.wait(7)
    assert state_of(w) == "late"
    assert w.feed(w.alive("n1")) == ["emit node.online n1.1.online.1.3"]
    w.wait(7)
    assert w.beat("n1") == ["emit node.online n1.1.online.1.5"]


@pytest.mark.parametrize("reason", ["Client Closed", "Read Error", "Write Error"])
def test_a_closed_connection_and_no_responders_is_lost_at_once(reason: str) -> None:
    """A killed process whose socket held unread bytes resets it: the broker calls that a read error."""
    w = settled()
    assert w.feed(e.Disconnected("n1", reason)) == ["probe n1"]
    assert w.feed(e.ProbeEnded("n1", None, no_responders=True)) == ["emit node.lost n1.1.lost.1.2"]


def test_a_stale_connection_waits_for_the_beats() -> None:
    w = settled()
    assert w.feed(e.Disconnected("n1", "Stale Connection")) == []
    assert w.feed(e.ProbeEnded("n1", None, no_responders=True)) == []
    assert state_of(w) == "online"


def test_a_probe_without_an_answer_is_silence() -> None:
    w = settled()
    w.feed(e.Disconnected("n1", "Client Closed"))
    assert w.feed(e.ProbeEnded("n1", None)) == []
    assert state_of(w) == "online"


def test_a_node_that_reconnected_meanwhile_is_not_lost() -> None:
    w = settled()
    w.feed(e.Disconnected("n1", "Client Closed"))
    w.beat("n1")
    assert w.feed(e.ProbeEnded("n1", None, no_responders=True)) == []


def test_an_announced_gap_comes_before_everything() -> None:
    w = settled()
    assert w.beat("n1", asleep=True, next_due_s=600.0) == ["store n1 boot 1", "emit node.asleep n1.1.asleep.1.2"]
    assert w.kill("n1") == []
    assert w.wait(590, 1) == []
    w.wait(130, 1)
    assert state_of(w) == "lost"


def test_a_sleeper_that_wakes_early_is_watched_at_its_usual_pace() -> None:
    w = settled()
    w.beat("n1", asleep=True, next_due_s=600.0)
    w.wait(5)
    w.beat("n1")
    w.wait(18)
    assert state_of(w) == "lost"


def test_a_sleeping_node_gets_no_work() -> None:
    w = settled()
    w.beat("n1", asleep=True, next_due_s=600.0)
    w.submit("t1")
    assert w.states() == {"t1": "queued"}
    w.wait(3)
    assert w.states() == {"t1": "waiting"}
    w.beat("n1")
    assert w.states() == {"t1": "placed"}


def test_nobody_is_judged_while_our_own_link_is_down_or_fresh() -> None:
    w = settled()
    w.feed(e.LinkLost())
    assert w.wait(100, 1) == []
    w.feed(e.LinkBack())
    assert w.wait(14.5) == []
    assert state_of(w) == "online"
    w.wait(14)
    assert state_of(w) == "lost"


def test_a_connection_that_closed_with_our_own_link_says_nothing() -> None:
    """After our link came back only a node heard since then can be lost by *no responders*."""
    w = settled()
    w.now += 1
    w.feed(e.LinkLost(), e.LinkBack())
    assert w.kill("n1") == ["probe n1"]
    w.beat("n1")
    assert w.kill("n1") == ["probe n1", "emit node.lost n1.1.lost.1.2"]


def test_after_a_takeover_silence_counts_from_one_lease_on() -> None:
    old = World()
    old.join("n1")
    old.join("n2")
    w = World(term=0)
    w.records = old.records
    w.feed(*[e.NodeKnown(record, revision) for record, revision in old.records.values()])
    w.feed(e.TakenOver("c2", 2))
    w.join("n2")
    assert w.wait(14, beating=("n2",)) == []
    w.wait(2, beating=("n2",))
    assert (state_of(w, "n1"), state_of(w, "n2")) == ("lost", "online")


def test_a_kill_right_after_the_start_is_seen_at_once() -> None:
    w = World()
    w.join("n1")
    assert w.kill("n1") == ["probe n1", "emit node.lost n1.1.lost.1.2"]


def test_a_lost_node_that_beats_again_is_online() -> None:
    w = settled()
    w.kill("n1")
    assert w.beat("n1") == ["emit node.online n1.1.online.1.3"]
    w.wait(18)
    assert state_of(w) == "lost", "it is watched again"


def test_a_tick_costs_only_what_is_due() -> None:
    """One alarm a node, whatever it beats."""
    w = settled()
    for _ in range(100):
        w.now += 1
        w.beat("n1")
        w.feed(e.Tick())
    assert len(w.state.timers) <= 2


def test_a_lost_node_leaves_memory_after_a_day() -> None:
    w = settled()
    w.kill("n1")
    w.wait(86_500, 3600)
    assert w.state.nodes == {}
    w.join("n2")
    assert w.state.nodes["n2"].slot == 0, "its slot is used again"


def test_every_cause_has_its_place_in_every_state() -> None:
    assert set(TABLE) == set(NodeState) - {NodeState.LEFT}
    assert all(set(row) == set(Cause) for row in TABLE.values())


def test_what_ended_while_our_link_was_down_is_looked_up_when_it_is_back() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.submit("t2")
    w.feed(e.LinkLost())
    w.results["t1"] = ResultHead("t1", "ann", ResultState.SUCCEEDED, "n1", 1, 1)
    lines = w.feed(e.LinkBack())
    assert lines[0] == "ask t1 t2"
    assert "emit task.succeeded t1.1.succeeded" in lines
    assert w.states() == {"t2": "placed"}, "what is not done runs on where it is"


def successor(old: World, after_s: float, term: int = 2) -> World:
    """The next term, which knows what the streams hold."""
    w = World(term=0)
    w.now = old.now + after_s
    w.records = dict(old.records)
    w.feed(*(e.NodeKnown(*stored) for stored in w.records.values()))
    w.feed(e.TakenOver("c2", term))
    return w


def test_no_two_events_of_a_node_have_the_same_key_whatever_the_term() -> None:
    first = World()
    first.join("n1")
    first.kill("n1")
    second = successor(first, 60)
    second.beat("n1")
    second.kill("n1")
    keys = [x.key for w in (first, second) for x in w.all if isinstance(x, a.Emit) and x.kind == "node.lost"]
    assert keys == ["n1.1.lost.1.2", "n1.1.lost.2.2"]


def test_a_takeover_tells_nothing_of_nodes_that_were_away_before() -> None:
    old = World()
    old.join("n1")
    w = successor(old, tune.AWAY_S + 1)
    assert w.wait(30) == []
    assert w.state.nodes["n1"].state is NodeState.LOST
    assert "emit node.online n1.1.online.2.1" in w.beat("n1"), "but it may come back"


def test_a_takeover_waits_for_an_old_record_that_holds_work() -> None:
    """Whoever was the coordinator may have been away for long, and the node at work all the time."""
    old = World()
    old.join("n1")
    w = World(term=0)
    w.now = old.now + tune.AWAY_S + 1
    w.feed(e.NodeKnown(*old.records["n1"]))
    w.feed(e.WorkFound(head("t1"), History(1, submitted_at=500.0), "n1", e.Source("work", 9), None))
    w.feed(e.TakenOver("c2", 2))
    w.beat("n1")
    assert w.states() == {"t1": "placed"}
    assert "ask t1" not in w.log


def test_the_record_of_a_node_that_nobody_saw_for_a_month_is_deleted() -> None:
    old = World()
    old.join("n1")
    w = successor(old, tune.NODE_RECORD_S + 1)
    assert [x for x in w.all if isinstance(x, a.DropNode)] == [a.DropNode("n1", 1)]
    assert w.state.nodes == {}


def test_the_work_of_a_success_whose_node_died_before_its_ack_is_removed() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    place = w.state.tasks["t1"].source
    w.done("t1")
    assert place not in w.removed, "left to the node, if it lives"
    w.kill("n1")
    assert w.removed[-1] == e.Source("work", place.seq)


def test_the_work_of_a_success_is_removed_when_its_node_is_started_anew() -> None:
    """Also when the result came by before the broker's word that it was placed."""
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.done("t1")
    w.release()
    assert [x for x in w.removed if x.stream == "work"] == []
    w.join("n1", session="s2")
    assert w.removed[-1] == e.Source("work", w.where["t1"][1])


def test_a_node_that_said_goodbye_is_shown_as_left_not_lost() -> None:
    w = settled()
    w.beat("n1", leaving=True)
    w.kill("n1")
    assert state_of(w) == "lost"
    assert [row.state.value for row in nodes(w.state, ListRequest(), w.now).nodes] == ["left"]
    assert nodes(w.state, ListRequest(state="lost"), w.now).total == 0
    assert status(w.state, w.now).nodes == {"left": 1}
