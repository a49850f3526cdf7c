"""When nobody is called lost: our own link, our own stalls, many at once. And that this ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import events as e
from coordinator.core import tune
from coordinator.core.judging import mass
from coordinator.core.views import status
from schemas import limits
from schemas.membership import NodeState
from tests.core.world import World

LEASE_S = limits.BEATS_MISSED * limits.HEARTBEAT_S
HOLD_S = tune.HOLD_BEATS * limits.HEARTBEAT_S
FIRST_MISS_S = limits.HEARTBEAT_S * (1 + tune.BEAT_GRACE) + tune.BEAT_GRACE_S
LOST_S = (
    FIRST_MISS_S + (limits.BEATS_MISSED - 1) * limits.HEARTBEAT_S
)  # from the last beat to "lost", if nothing speaks against


def fleet(count: int) -> World:
    """A coordinator that has acted for longer than a lease, with nodes n0, n1, …"""
    w = World()
    w.wait(30, 1)
    for i in range(count):
        w.join(f"n{i}")
        w.wait(0.3)
    w.wait(5, beating=None)
    return w


def names(w: World, first: int = 0) -> tuple[str, ...]:
    return tuple(sorted(w.state.nodes))[first:]


def lost(w: World) -> set[str]:
    return {n.id for n in w.state.nodes.values() if n.is_lost()}


def told(lines: list[str], what: str) -> list[str]:
    return [line for line in lines if what in line]


# Our own process.


def test_nobody_is_lost_after_our_own_process_stood_still() -> None:
    """The beats of that time were missed by us. Silence counts again after one full lease."""
    w = fleet(2)
    w.now += 60
    w.feed(e.Tick())
    assert not told(w.wait(LEASE_S - 1), "lost")
    w.wait(LOST_S, beating=("n1",))
    assert lost(w) == {"n0"}, "who stays silent is lost all the same"


def test_a_node_frozen_soon_after_a_takeover_is_lost_after_three_beats_all_the_same() -> None:
    """The lease after a takeover runs beside its silence, not before it."""
    w = World()
    w.join("n0")
    w.join("n1")
    w.wait(5, beating=None)
    silent_since = w.state.nodes["n0"].last_beat
    w.wait(LOST_S, beating=("n1",))
    assert lost(w) == {"n0"}
    assert w.now - silent_since >= LEASE_S


def test_beats_that_waited_for_us_count_as_if_nothing_had_been() -> None:
    w = fleet(1)
    w.now += 60
    w.beat("n0")
    w.feed(e.Tick())
    assert told(w.wait(60, beating=None), "node.") == []


def test_a_stall_does_not_take_back_what_is_evidence() -> None:
    w = fleet(2)
    w.now += 60
    w.feed(e.Tick())
    assert "emit node.lost n1.1.lost.1.2" in w.kill("n1")


def test_a_loop_that_runs_late_but_runs_is_no_stall() -> None:
    w = fleet(1)
    w.wait(LOST_S + 3 * tune.STALL_S, tune.STALL_S)
    assert lost(w) == {"n0"}
    assert w.state.counts["own stalls"] == 0


# Many at once.


def test_when_many_fall_silent_at_once_nobody_is_lost_and_everybody_is_told() -> None:
    w = fleet(10)
    lines = w.wait(LOST_S + 5)
    assert len(told(lines, "emit fleet.held-back c1.1.1.held-back")) == 1
    assert lost(w) == set()
    note = next(n for n in status(w.state, w.now).notes if n.startswith("degraded"))
    assert "of 10 nodes fell silent at the same moment" in note


def test_beats_that_resume_end_the_hold_and_who_stays_silent_is_lost_a_lease_later() -> None:
    w = fleet(10)
    w.wait(LOST_S + 5)
    there = names(w, first=1)
    for name in there:
        w.beat(name)
    lines = w.wait(tune.COUNT_AGAIN_S + 0.25, beating=there)
    assert told(lines, "emit fleet.hold-ended c1.1.1.hold-ended")
    assert not told(w.wait(LEASE_S - 2, beating=there), "lost")
    w.wait(limits.HEARTBEAT_S + 2, beating=there)
    assert lost(w) == {"n0"}


def test_after_the_longest_hold_the_truth_is_accepted_and_all_tasks_move_in_one_question() -> None:
    w = fleet(8)
    for i in range(6):
        w.submit(f"t{i}")
    gone = names(w, first=2)
    lines = w.wait(LOST_S + HOLD_S - 6, beating=("n0", "n1"))
    assert told(lines, "held-back") and lost(w) == set()
    lines = w.wait(10, beating=("n0", "n1"))
    assert lost(w) == set(gone)
    assert len(told(lines, "emit fleet.hold-ended")) == 1
    assert len(told(lines, "ask t")) == 1
    assert all(w.node_of(f"t{i}") in ("n0", "n1") for i in range(6))


def test_a_few_of_many_are_lost_as_usual() -> None:
    w = fleet(12)
    w.wait(LOST_S + 1, beating=names(w, first=2))
    assert lost(w) == set(names(w)[:2])
    assert w.state.counts["held back"] == 0


def test_a_small_fleet_is_not_held_back_for_one_node() -> None:
    w = fleet(2)
    w.wait(LOST_S + 1, beating=("n0",))
    assert lost(w) == {"n1"}


def test_sleepers_and_lost_nodes_are_not_counted_among_those_that_should_beat() -> None:
    w = fleet(12)
    for name in names(w, first=4):
        w.beat(name, asleep=True, next_due_s=600.0)
    w.wait(LOST_S + 5, beating=("n0",))  # n0, n1, n10, n11 are awake: three of four fall silent
    assert w.state.counts["held back"] == 1


def test_our_own_link_going_down_explains_a_mass_silence_better() -> None:
    w = fleet(10)
    w.wait(LOST_S + 5)
    assert told(w.feed(e.LinkLost()), "emit fleet.hold-ended")
    w.feed(e.LinkBack())
    w.wait(LEASE_S - 1)
    assert lost(w) == set()


def test_a_takeover_that_hears_of_few_holds_back_too() -> None:
    old = fleet(10)
    w = World(term=0)
    w.now = old.now + 5
    w.feed(*(e.NodeKnown(*stored) for stored in old.records.values()))
    w.feed(e.TakenOver("c2", 2))
    w.wait(LEASE_S + 5)
    assert w.state.counts["held back"] == 1
    assert lost(w) == set()


def test_what_is_many() -> None:
    assert [mass(n) for n in (0, 1, 3, 8, 12, 13, 1000)] == [3, 3, 3, 3, 3, 4, 250]


# Many connections that close at once.


def close_all(w: World, those: tuple[str, ...]) -> list[str]:
    return w.feed(*(e.Disconnected(name, "Client Closed") for name in those))


def nobody(those: tuple[str, ...]) -> list[e.Event]:
    return [e.ProbeEnded(name, None, no_responders=True) for name in those]


def test_many_connections_that_close_at_once_are_looked_at_once_more() -> None:
    """A switch or a broker's server was started anew: those that live are back in a moment."""
    w = fleet(8)
    those = names(w, first=3)
    close_all(w, those)
    assert told(w.feed(*nobody(those)), "lost") == []
    for name in those[1:]:
        w.beat(name)
    lines = w.wait(tune.LOOK_AGAIN_S, beating=())
    assert told(lines, "probe") == [f"probe {those[0]}"]
    w.feed(*nobody(those[:1]))
    assert lost(w) == {those[0]}


def test_a_mass_of_real_deaths_is_told_within_that_moment() -> None:
    w = fleet(8)
    those = names(w, first=3)
    close_all(w, those)
    w.feed(*nobody(those), *nobody(those))
    assert len(told(w.wait(tune.LOOK_AGAIN_S), "probe")) == len(those)
    w.feed(*nobody(those))
    assert lost(w) == set(those)


def test_kills_one_after_the_other_are_each_seen_at_once() -> None:
    w = fleet(8)
    for name in names(w, first=3):
        w.wait(1.0, beating=None)
        assert told(w.kill(name), "node.lost")


def test_nodes_that_said_goodbye_together_are_left_at_once() -> None:
    w = fleet(8)
    for name in names(w):
        w.beat(name, leaving=True)
    close_all(w, names(w))
    assert len(told(w.feed(*nobody(names(w))), "node.left")) == 8


# Both ways, for any history.

BOUND_S = LOST_S + HOLD_S + LEASE_S + 2 * limits.HEARTBEAT_S


@given(st.data())
def test_a_dead_node_is_lost_in_the_end_and_one_that_beats_never(data: st.DataObject) -> None:
    """Whatever its neighbours do: some die, some come and go. A hold cannot be kept up by those that flap."""
    w = World()
    w.wait(20, 1)
    count = data.draw(st.integers(1, 9), "nodes")
    for i in range(count):
        w.join(f"n{i}")
    what = {f"n{i}": data.draw(st.sampled_from(["dead", "lives", "flaps"])) for i in range(count)}
    flaps = data.draw(st.integers(8, 40), "silent for")
    end = w.now + BOUND_S
    while w.now < end:
        awake = int(w.now / flaps) % 2 == 0
        w.wait(1, 0.5, tuple(n for n, how in what.items() if how == "lives" or (how == "flaps" and awake)))
    states = {n: w.state.nodes[n].state for n in what}
    assert all(states[n] is NodeState.LOST for n, how in what.items() if how == "dead"), (what, states)
    assert not any(
        line.startswith(f"emit node.lost {n}.") for line in w.log for n, how in what.items() if how == "lives"
    )
