"""Which way a heartbeat goes, how members keep step with their leader, and what a leader gathers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.core import tune
from node.core.beats import JITTER, Beats, wait_s
from node.core.gathering import Gathering
from node.core.relaying import HOLD, Moment, Route, Way, Ways, ack_wait_s, in_s, still_of, why_direct
from schemas import limits
from schemas.cluster import Membership, Peer
from schemas.device import DeviceState
from schemas.harvest import HarvestState
from schemas.membership import Heartbeat, Held
from schemas.relay import Still

ROUTE = Route("c1", "n2", 10)
intervals = st.floats(limits.HEARTBEAT_S / 10, 600.0)


def seat(leader: str, term: int, relay: bool = True, cluster: str = "c1") -> dict[str, Membership]:
    return {cluster: Membership(1, cluster, term, 1, leader, (Peer("n1"), Peer("n2"), Peer("n3")), relay)}


def beat(seq: int = 1, **more: Any) -> Heartbeat:
    return Heartbeat("n1", 1, seq, 100.0 + seq, 5.5, **more)


@pytest.mark.parametrize(
    ("why", "moment"),
    [
        ("", Moment(beat(), True, 5.0, ROUTE, False)),
        ("", Moment(beat(held=(Held("t1", 1, True),)), True, 5.0, ROUTE, False)),
        ("nobody relays it", Moment(beat(), True, 5.0, None, False)),
        ("it tells of a change, or all there is", Moment(beat(), False, 5.0, ROUTE, False)),
        ("it tells of a change, or all there is", Moment(beat(full=True), True, 5.0, ROUTE, False)),
        ("it announces a sleep or the end", Moment(beat(asleep=True), True, 5.0, ROUTE, False)),
        ("it announces a sleep or the end", Moment(beat(leaving=True), True, 5.0, ROUTE, False)),
        (
            "its time is paid for, by what the coordinator itself saw",
            Moment(beat(harvest_state=HarvestState.HARVESTING.value), True, 5.0, ROUTE, False),
        ),
        ("it beats more rarely than its leader", Moment(replace(beat(), next_due_s=16.5), True, 5.0, ROUTE, False)),
        ("its leader did not pass the last one on", Moment(beat(), True, 5.0, ROUTE, True)),
    ],
)
def test_when_a_beat_goes_directly(why: str, moment: Moment) -> None:
    assert why_direct(moment) == why


def test_a_leader_that_fails_is_passed_by_for_ever_longer_and_another_one_is_taken_at_once() -> None:
    ways, now = Ways("n1"), 0.0
    assert ways.way(beat(), True, 5.0, now) is Way.DIRECT
    ways.told(seat("n2", 10))
    assert ways.way(beat(), True, 5.0, now) is Way.LEADER
    ways.failed(ROUTE, 5.0, now)
    assert ways.way(beat(), True, 5.0, now + 9.9) is Way.DIRECT
    assert ways.way(beat(), True, 5.0, now + 10) is Way.LEADER
    ways.failed(ROUTE, 5.0, now + 10)
    assert ways.way(beat(), True, 5.0, now + 29) is Way.DIRECT
    ways.told(seat("n2", 10))  # said again: nothing new
    assert ways.way(beat(), True, 5.0, now + 29) is Way.DIRECT
    ways.told(seat("n3", 14))
    assert ways.way(beat(), True, 5.0, now + 29) is Way.LEADER
    ways.failed(ROUTE, 5.0, now + 30)  # of the leader before
    assert ways.way(beat(), True, 5.0, now + 30) is Way.LEADER
    ways.told(seat("n1", 17))
    assert ways.way(beat(), True, 5.0, now + 30) is Way.OWN_DIGEST
    for other in (seat("n1", 17, relay=False), seat("", 18), {}):
        ways.told(other)
        assert ways.way(beat(), True, 5.0, now + 30) is Way.DIRECT


@given(intervals)
def test_a_beat_that_is_not_acknowledged_is_said_again_before_the_coordinator_misses_it(interval_s: float) -> None:
    """Also where the beat came as late as it was announced."""
    gap_s = interval_s * (1 + JITTER)
    missed_after_s = gap_s + gap_s * tune.BEAT_GRACE + tune.BEAT_GRACE_S
    assert gap_s + HOLD * interval_s < gap_s + ack_wait_s(interval_s) < missed_after_s


@given(intervals, st.lists(st.floats(0, 1), min_size=4, max_size=40), st.floats(0, 1))
def test_a_member_keeps_step_with_its_leader_and_never_beats_later_than_it_announced(
    interval_s: float, chances: list[float], begun: float
) -> None:
    """The leader beats by itself, ±10 %; the member begins at any moment of it."""
    digests = [0.0]
    for chance in chances * 2:
        digests.append(digests[-1] + wait_s(interval_s, chance))
    at, in_step = begun * interval_s, 0
    for chance in chances:
        next_at = next((d for d in digests if d > at), None)
        if next_at is None:
            break
        waits_s = next_at - at if next_at - at <= HOLD * interval_s else 0.0  # or it goes out at once
        assert waits_s < ack_wait_s(interval_s)
        in_step = in_step + 1 if waits_s else 0
        acked_at, left_s = at + waits_s, interval_s * (1 + JITTER) - waits_s
        after = next((d for d in digests if d > acked_at), None)
        if after is None:
            break
        planned_s = in_s(after - acked_at, interval_s, left_s, chance)
        following = acked_at + (planned_s if planned_s is not None else wait_s(interval_s, chance) - waits_s)
        assert following - at <= interval_s * (1 + JITTER) * (1 + 1e-9)
        at = following
    else:
        assert in_step >= len(chances) // 4, "most of its beats come just before a digest"


def test_a_beat_is_short_only_where_nothing_but_readings_changed() -> None:
    before, cool = beat(1, draining=True), DeviceState(cpu_utilization=0.25)
    assert still_of(beat(2, draining=True, state=cool), before) == Still("n1", 1, 2, 102.0, 5.5, 0, cool)
    assert still_of(beat(2, draining=True, seen_seq=7), before) == Still("n1", 1, 2, 102.0, 5.5, 7)
    for other in (
        beat(2), beat(3, draining=True), beat(2, draining=True, full=True), beat(2, draining=True, outbox=1),
        beat(2, draining=True, held=(Held("t1", 1, False),)), beat(2, draining=True, power_mode="critical"),
        beat(2, draining=True, harvest_state="idle"), beat(2, draining=True, bad_messages=1),
        beat(2, draining=True, outbox_held=1), beat(2, draining=True, hold_s=60.0),
        beat(2, draining=True, closed_for="its outbox is full"),
        replace(beat(2, draining=True), boot=2),
    ):  # fmt: skip
        assert still_of(other, before) is None
    assert still_of(beat(1), None) is None
    assert still_of(beat(2), beat(1, asleep=True)) is None


def test_a_relayed_beat_leaves_out_readings_that_hardly_moved_until_they_add_up() -> None:
    beats, free = Beats(), DeviceState(cpu_utilization=0.10, ram_available_mb=1000, battery_percent=80.0)
    assert beats.delta(free, True) == free
    assert beats.delta(replace(free, cpu_utilization=0.14, ram_available_mb=960), False, True) == DeviceState()
    drained = replace(free, cpu_utilization=0.18, ram_available_mb=940, battery_percent=79.0)
    assert beats.delta(drained, False, True) == drained
    assert beats.delta(replace(drained, cpu_utilization=0.17), False, True) == DeviceState()
    exact = DeviceState(cpu_utilization=0.17)
    assert beats.delta(replace(drained, cpu_utilization=0.17), False) == exact, "a direct beat says it all"


def test_a_digest_says_when_each_beat_was_heard_and_what_comes_at_another_time_does_not_wait_for_it() -> None:
    g = Gathering()
    assert g.digest("c1", 10, 100.0) is None and g.next_s(100.0) == 0.0
    assert g.must_go(5.0, 100.0), "nothing is planned"
    g.next_at = 105.0
    assert g.must_go(5.0, 103.0) and not g.must_go(5.0, 104.5) and not g.must_go(5.0, 106.0)
    whole, short = beat(4), Still("n1", 1, 5, 100.0)
    g.add(whole, 104.5)
    g.add(short, 104.75)
    g.add(Still("n3", 1, 9, 100.0), 104.9)
    made = g.digest("c1", 10, 105.0)
    assert made is not None and [(a.age_s, a.beat) for a in made.beats] == [(0.5, whole)]
    assert [(s.node, s.seq, s.age_s) for s in made.stills] == [("n1", 5, 0.25), ("n3", 9, 0.1)]
    assert g.digest("c1", 10, 105.0) is None


def test_a_whole_beat_takes_the_place_of_the_short_one_before_it() -> None:
    g = Gathering()
    g.add(Still("n1", 1, 5, 100.0), 1.0)
    g.add(beat(6), 2.0)
    made = g.digest("c1", 10, 2.0)
    assert made is not None and made.stills == () and [a.beat.seq for a in made.beats] == [6]
