"""Heartbeats that come in a leader's digest: whose count, and that a node is judged by them as by its own."""

from __future__ import annotations

from argparse import ArgumentTypeError
from math import inf
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.core import events as e
from coordinator.core.clusters import machine, operating, relaying
from coordinator.core.clusters.state import Tell
from coordinator.core.nodeview import NodeView
from coordinator.relay_from import relay_from
from node.core.relaying import still_of
from schemas.cluster import CreateCluster, Relay, RelayCluster
from schemas.device import DeviceState
from schemas.errors import BadInput
from schemas.membership import Heartbeat, Held
from schemas.relay import Aged, Digest, Still
from tests.core.test_clusters import World as Grouped
from tests.core.world import World


def settled(*nodes: str) -> World:
    w = World()
    w.wait(100, 1)
    for node in nodes:
        w.join(node)
    return w


def still(w: World, node: str, age_s: float = 0.0, **more: Any) -> Still:
    w.beats[node] += 1
    view = w.state.nodes[node]
    return Still(node, view.boot, w.beats[node], w.now - age_s, 5.5, w.seq, age_s=age_s, **more)


def state_of(w: World, node: str) -> str:
    return w.state.nodes[node].state.value


# Judging.


def test_a_member_is_judged_by_its_own_silence_while_its_leaders_digests_go_on() -> None:
    w = settled("n1", "n2")
    w.beat("n1"), w.beat("n2")
    heard_at = w.now
    while state_of(w, "n1") != "lost":
        w.wait(4.5)
        w.feed(e.Relayed("n2", (still(w, "n2"),)))
        assert state_of(w, "n2") == "online"
    assert 3 * 5.0 < w.now - heard_at < 4 * 5.0


def test_a_beat_counts_from_when_the_leader_heard_it() -> None:
    direct, late = settled("n1"), settled("n1")
    direct.beat("n1", next_due_s=5.5)
    late.now += 0.5
    late.feed(e.Relayed("n2", (still(late, "n1", age_s=0.5),)))
    a, b = direct.state.nodes["n1"], late.state.nodes["n1"]
    assert b.relayed and not a.relayed
    assert (a.next_due, a.last_beat, a.clock_ahead_s) == pytest.approx((b.next_due, b.last_beat, b.clock_ahead_s))


def test_a_digest_under_way_brings_back_nobody_whose_connection_has_closed() -> None:
    w = settled("n1")
    w.beat("n1")
    under_way = still(w, "n1")
    w.feed(e.Disconnected("n1", "Client Closed"))
    assert w.feed(e.Relayed("n2", (under_way,))) == []
    w.feed(e.ProbeEnded("n1", None, no_responders=True))
    assert state_of(w, "n1") == "lost"
    assert w.feed(e.Relayed("n2", (under_way,))) == []
    assert state_of(w, "n1") == "lost"
    w.beat("n1")  # its own word
    assert state_of(w, "n1") == "online"


def test_what_a_member_said_itself_meanwhile_is_not_undone_by_a_digest_that_comes_late() -> None:
    w = settled("n1")
    w.beat("n1")
    slow = still(w, "n1", age_s=4.0, state=DeviceState(cpu_utilization=0.9))
    w.beat("n1", state=DeviceState(cpu_utilization=0.1), full=True)
    w.feed(e.Relayed("n2", (slow,)))
    node = w.state.nodes["n1"]
    assert node.device.cpu_utilization == 0.1 and node.last_beat == w.now and not node.relayed


def test_work_that_a_relayed_node_does_not_hold_is_missed_as_ever() -> None:
    w = settled("n1")
    w.beat("n1")
    w.submit("t1")
    w.feed(e.Relayed("n2", (), (Aged(0.0, _whole(w, "n1", held=(Held("t1", 1, True),))),)))
    assert w.state.tasks["t1"].running
    w.feed(e.Relayed("n2", (still(w, "n1"),)))
    w.feed(e.Relayed("n2", (still(w, "n1"),)))
    assert w.state.nodes["n1"].attempts.get("t1") is None or w.state.tasks["t1"].history.placement > 1


def _whole(w: World, node: str, **more: Any) -> Heartbeat:
    w.beats[node] += 1
    return Heartbeat(node, w.state.nodes[node].boot, w.beats[node], w.now, 5.5, seen_seq=w.seq, **more)


said = st.fixed_dictionaries(
    {},
    optional={
        "draining": st.booleans(),
        "outbox": st.integers(0, 2),
        "outbox_held": st.integers(0, 2),
        "hold_s": st.sampled_from([0.0, 60.0]),
        "closed_for": st.sampled_from(["", "its outbox is full"]),
        "bad_messages": st.integers(0, 2),
        "power_mode": st.sampled_from(["performance", "critical"]),
        "battery_min": st.sampled_from([0.0, 40.0]),
        "held": st.sampled_from([(), (Held("t1", 1, True),)]),
        "state": st.builds(DeviceState, cpu_utilization=st.sampled_from([0.0, 0.5]), mains=st.booleans()),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(said, max_size=8))
@example([{"draining": True, "outbox_held": 1, "closed_for": "its outbox is full"}] * 2)
@example([{}, {"outbox_held": 1}])
@example([{"draining": True}, {"draining": True, "closed_for": "its outbox is full"}])
def test_what_the_coordinator_knows_of_a_node_is_the_same_whichever_way_it_beats(beats: list[dict[str, Any]]) -> None:
    ways = settled("n1"), settled("n1")
    before = None
    for what in beats:
        for w in ways:
            w.now += 5
        direct, relayed = (_whole(w, "n1", **what) for w in ways)
        short = still_of(relayed, before)
        ways[0].feed(e.Beat(direct))
        ways[1].feed(e.Relayed("n2", (short,)) if short else e.Relayed("n2", (), (Aged(0.0, relayed),)))
        before = relayed
    assert ways[0].log == ways[1].log
    assert _known(ways[0].state.nodes["n1"]) == _known(ways[1].state.nodes["n1"])


def _known(node: NodeView) -> dict[str, Any]:
    names = set(NodeView.__slots__) - {"relayed", "attempts", "blocked", "reserved", "unacked", "events"}
    return {name: getattr(node, name) for name in names}


# Whose digests count.


def test_the_option_names_the_size_of_the_fleet_and_what_it_cannot_be_is_refused() -> None:
    assert [relay_from(text) for text in ("off", "on", "10000")] == [inf, 0.0, 10_000.0]
    for wrong in ("yes", "-5", "1.5", "", "nan"):
        with pytest.raises(ArgumentTypeError, match="none of off, on"):
            relay_from(wrong)


def grouped(relay_from: float = 0.0) -> Grouped:
    w = Grouped()
    w.state.relay_from = relay_from
    for number, score in enumerate((0.5, 0.9, 0.5, 0.5, 0.5)):
        w.node(f"n{number}", score=score)
    w.now += 60
    look(w)
    return w


def look(w: Grouped) -> None:
    relaying.look(w.state)
    w.do(machine.look_again(w.state, w.now))
    w.do(machine.look_again(w.state, w.now + 60))
    w.settle()


def test_the_digest_of_who_leads_counts_and_that_of_who_led_does_not() -> None:
    w = grouped()
    cluster = w.state.clusters["c1"]
    assert cluster.leader == "n1" and cluster.relays
    digest = Digest("c1", cluster.term)
    assert relaying.against(w.state, "n1", digest) == ""
    w.lose("n1")
    assert w.state.clusters["c1"].leader != "n1"
    assert "does not lead" in relaying.against(w.state, "n1", digest)
    leader = w.state.clusters["c1"].leader
    assert "does not lead" in relaying.against(w.state, leader, digest), "its term is another"
    assert "no cluster" in relaying.against(w.state, "n1", Digest("c9", 1))


def test_a_leader_speaks_for_its_members_only_and_for_none_that_must_speak_for_itself() -> None:
    w, core = grouped(), settled(*(f"n{number}" for number in range(6)))
    core.state.nodes["n2"].closed_at = core.now
    rows = tuple(still(core, node) for node in ("n0", "n1", "n2", "n5"))
    older = Aged(0.0, Heartbeat("n3", 7, 1, core.now))
    stills, beats, not_taken = relaying.sort(w.state, core.state.nodes, Digest("c1", 0, rows, (older,)))
    assert [s.node for s in stills] == ["n0", "n1"] and beats == () and not_taken == ("n2", "n3", "n5")


def test_the_fleet_relays_from_a_size_on_and_an_operator_may_say_otherwise_for_a_cluster() -> None:
    w = grouped(relay_from=6)
    cluster = w.state.clusters["c1"]
    assert not cluster.relays and "for themselves" in relaying.against(w.state, "n1", Digest("c1", cluster.term))
    version = cluster.version
    assert "to their leader" in operating.relay(w.state, RelayCluster("c1", Relay.ON), w.now)
    wanted = machine.settle(w.state, w.now)
    assert cluster.relays and cluster.version > version
    assert {a.node for a in wanted if isinstance(a, Tell)} == {f"n{number}" for number in range(5)}
    w.do(wanted)
    assert w.records["c1"][0].relay is Relay.ON
    operating.relay(w.state, RelayCluster("c1", Relay.DEFAULT), w.now)
    w.settle()
    assert not cluster.relays
    w.node("n6", score=0.5)
    look(w)
    assert cluster.relays, "it is six now"
    w.lose("n6")
    look(w)
    assert not cluster.relays, "five are less than nine tenths of six"


def test_a_cluster_of_one_and_a_selector_cluster_relay_nothing() -> None:
    w = Grouped()
    w.state.relay_from = 0.0
    w.node("n0", has={"gpu": "true"})
    look(w)
    assert not w.state.clusters["c1"].relays
    w.node("n1", has={"gpu": "true"})
    operating.create(w.state, CreateCluster("gpus", selector={"gpu": "true"}), w.now)
    w.settle()
    look(w)
    assert w.state.clusters["c1"].relays and not w.state.clusters["gpus"].relays
    with pytest.raises(BadInput, match="selector"):
        operating.relay(w.state, RelayCluster("gpus", Relay.ON), w.now)
