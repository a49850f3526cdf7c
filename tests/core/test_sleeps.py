"""Sleeps that nodes announce: on the node, by its two clocks, and in the coordinator's books."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import tune
from node.core.sleep import SUSPENDED_S, Sleep
from schemas import limits
from tests.core.world import World

# On the node.


def asleep(for_s: float = 600.0) -> Sleep:
    sleep = Sleep()
    sleep.announce(for_s, ticks=5000.0, awake=3000.0)
    return sleep


def test_a_node_that_announced_nothing_is_awake() -> None:
    sleep = Sleep()
    assert not sleep and sleep.gap_s(9.0) == 0.0 and sleep.over(9.0, 9.0) == ""


def test_what_is_left_of_a_sleep_grows_less_and_is_never_nothing() -> None:
    sleep = asleep()
    assert [sleep.gap_s(at) for at in (5000.0, 5400.0)] == [600.0, 200.0]
    assert 0 < sleep.gap_s(9999.0) < 1


@pytest.mark.parametrize(
    ("ticks", "awake", "why"),
    [
        (5100.0, 3100.0, ""),
        (5600.0, 3600.0, "its time is over"),
        (5600.0, 3000.0, "its time is over"),
        (5300.0, 3010.0, "the machine goes on"),  # it was suspended for 290 s
        (5100.0 + SUSPENDED_S, 3100.0, ""),
    ],
)
def test_it_is_over_with_its_time_or_when_a_suspended_machine_goes_on(ticks: float, awake: float, why: str) -> None:
    assert asleep().over(ticks, awake) == why


def test_a_node_that_was_woken_is_awake() -> None:
    sleep = asleep()
    sleep.wake()
    assert not sleep and sleep.gap_s(5001.0) == 0.0 and sleep.over(9999.0, 3000.0) == ""


# In the coordinator.


def sleeping(for_s: float = 7200.0) -> World:
    w = World()
    w.wait(100, 1)
    w.join("n1")
    w.beat("n1", asleep=True, next_due_s=for_s)
    return w


def state_of(w: World) -> str:
    return w.state.nodes["n1"].state.value


def test_who_keeps_silent_for_a_long_gap_is_lost_three_beats_after_it_and_not_a_share_of_it_later() -> None:
    w = sleeping()
    w.wait(7199, 1)
    assert state_of(w) == "asleep"
    w.wait(limits.BEATS_MISSED * limits.HEARTBEAT_S + 2 * tune.BEAT_GRACE * limits.HEARTBEAT_S + 2)
    assert state_of(w) == "lost"


def test_an_operator_lets_a_node_sleep_and_wakes_it() -> None:
    w = World()
    w.join("n1")
    assert "command n1 sleep" in w.feed(e.SleepAsked("n1", 60.0))[0]
    assert "command n1 wake" in w.feed(e.SleepAsked("n1", wake=True))[0]
    assert w.feed(e.SleepAsked("nobody", 60.0)) == []


def test_a_coordinator_that_takes_over_knows_who_sleeps_and_for_how_long() -> None:
    old = sleeping()
    record, revision = old.records["n1"]
    assert record.asleep_until == pytest.approx(old.now + 7200, abs=1)
    w = World(0)
    w.now = old.now + 5000  # nobody acted for long, and the node was not seen for longer
    w.feed(e.NodeKnown(record, revision))
    w.feed(e.TakenOver("c2", 2))
    assert state_of(w) == "asleep"
    w.wait(2190, 1)
    assert state_of(w) == "asleep"
    w.wait(30, 1)
    assert state_of(w) == "lost"


def test_whoever_is_awake_again_is_so_in_its_record_and_lost_by_its_silence() -> None:
    w = sleeping()
    w.wait(100, 1)
    w.beat("n1")
    assert (state_of(w), w.records["n1"][0].asleep_until) == ("online", 0.0)
    w.wait(20)
    assert state_of(w) == "lost"


def test_a_sleeper_that_registers_anew_gets_nothing_meanwhile() -> None:
    w = sleeping()
    w.join("n1", asleep_s=600.0)
    assert state_of(w) == "asleep"
    w.submit("t1", node="n1")
    assert w.states()["t1"] != "placed"
    w.wait(590, 1)
    assert state_of(w) == "asleep"
