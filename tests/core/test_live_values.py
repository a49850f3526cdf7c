"""What nodes tell in their beats decides where work goes: each rule of SPEC 2.4 from both sides, by live values."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from coordinator.core.deliveries import AGAIN_S, Deliveries
from coordinator.core.nodeview import power_factor
from coordinator.core.views import task_info
from coordinator.core.why import explain
from node.core.beats import STRETCH, stretched_s
from schemas import limits
from schemas.advice import Limits, PowerMode
from schemas.device import DeviceState, NetworkType, ThermalState
from tests.core.world import World

FULL = DeviceState(mains=False, battery_percent=90.0, is_charging=False, thermal_state=ThermalState.NORMAL)
LONG = {"estimated_duration_s": 301.0}
SHORT = {"estimated_duration_s": 299.0}
LARGE = {"input_bytes": 10_000_001}
SMALL = {"input_bytes": 10_000_000}


@pytest.mark.parametrize(
    ("told", "task", "fits"),
    [
        ({"battery_percent": 30.0}, {}, True),
        ({"battery_percent": 29.9}, {}, False),
        ({"battery_percent": 29.9, "is_charging": True}, {}, True),
        ({"battery_percent": 29.9, "mains": True}, {}, True),
        ({"battery_percent": None}, {}, False),
        ({"is_charging": None, "battery_percent": 29.0}, {}, False),
        ({"battery_percent": 70.0}, LONG, True),
        ({"battery_percent": 69.9}, LONG, False),
        ({"battery_percent": 69.9}, SHORT, True),
        ({"battery_percent": 69.9, "is_charging": True}, LONG, True),
        ({"thermal_state": ThermalState.WARM}, {}, True),
        ({"thermal_state": ThermalState.HOT}, {}, False),
        ({"thermal_state": ThermalState.THROTTLED}, {}, False),
        ({"thermal_state": ThermalState.CRITICAL}, {}, False),
        ({"thermal_state": None}, {}, True),
        ({"network_metered": True}, LARGE, False),
        ({"network_metered": True}, SMALL, True),
        ({"network_metered": False}, LARGE, True),
        ({"network_type": NetworkType.CELLULAR}, LARGE, False),
        ({"network_type": NetworkType.CELLULAR, "network_metered": False}, LARGE, True),
        ({"network_type": NetworkType.WIFI}, LARGE, True),
    ],
)
def test_a_beat_opens_and_closes_a_node_for_a_task(told: dict[str, Any], task: dict[str, Any], fits: bool) -> None:
    w = World()
    w.join("phone", device=FULL, battery_powered=True)
    w.beat("phone", state=DeviceState(**told))
    w.submit("t", **task)
    assert ("t" in w.state.nodes["phone"].attempts) is fits
    if not fits:
        w.beat(
            "phone", state=DeviceState(battery_percent=90.0, thermal_state=ThermalState.NORMAL, network_metered=False)
        )
        assert "t" in w.state.nodes["phone"].attempts, "the next beat opens it again"


@pytest.mark.parametrize(
    ("told", "factor"),
    [
        ({"mains": True}, 1.8),
        ({"battery_percent": 10.0, "is_charging": True}, 1.5),
        ({"battery_percent": 50.0}, 1.0),
        ({"battery_percent": 49.9}, 0.6),
        ({"battery_percent": 20.0}, 0.6),
        ({"battery_percent": 19.9}, 0.2),
        ({"battery_percent": None}, 0.6),
        ({"battery_percent": UNSET}, 1.0),
    ],
)
def test_power_weighs_in_the_score(told: dict[str, Any], factor: float) -> None:
    assert power_factor(DeviceState(**told)) == factor


def test_a_policy_admits_what_the_usual_threshold_would_not_and_the_other_way_round() -> None:
    w = World()
    w.join("phone", device=FULL, battery_powered=True)
    w.beat("phone", state=DeviceState(battery_percent=18.0), battery_min=15.0)
    w.submit("t1")
    assert "t1" in w.state.nodes["phone"].attempts
    w.beat("phone", state=DeviceState(battery_percent=45.0), battery_min=50.0)
    w.submit("t2")
    assert "t2" not in w.state.nodes["phone"].attempts
    w.beat("phone")
    assert "t2" in w.state.nodes["phone"].attempts, "the policy was taken back"


def test_a_node_in_critical_is_given_nothing_until_it_says_otherwise() -> None:
    """Also one that charges, which the battery's own rule would let through."""
    w = World()
    w.join("phone", device=DeviceState(mains=False, battery_percent=8.0, is_charging=True), battery_powered=True)
    w.beat("phone", power_mode="critical")
    w.submit("t")
    why = explain(w.state, "t")
    assert why is not None
    assert "its power mode is critical" in why.text
    w.beat("phone", power_mode="power_save")
    assert "t" in w.state.nodes["phone"].attempts
    assert [line for line in w.log if "power-mode" in line][:1]


def test_limits_leave_fewer_slots_and_less_memory_and_give_them_back() -> None:
    w = World()
    w.join("phone", device=FULL, battery_powered=True, slots=4, memory_mb=4096)
    node = w.state.nodes["phone"]
    w.beat("phone", limits=Limits(35.0, 700, 1))
    assert (node.slots, node.memory_now, node.memory_free) == (1, 700, 700)
    w.submit("big", memory_mb=1000)
    why = explain(w.state, "big")
    assert why is not None
    assert "its limits allow 700 MiB" in why.text
    w.submit("small", memory_mb=100)
    w.submit("next", memory_mb=100, estimated_duration_s=60.0)
    assert set(node.attempts) == {"small"}, "one at a time"
    w.beat("phone")
    assert node.slots == 1, "a beat that says nothing of it changes nothing"
    w.beat("phone", limits=Limits(50.0, 99_999, 9))
    assert (node.slots, node.memory_now) == (4, 4096), "never more than is offered"
    assert set(node.attempts) == {"small", "big", "next"}
    assert node.memory_free == 4096 - 1200


def test_a_new_boot_starts_without_the_limits_of_the_old_one() -> None:
    w = World()
    w.join("phone", device=FULL, slots=4)
    w.beat("phone", limits=Limits(15.0, 256, 1), power_mode="critical")
    w.join("phone", device=FULL, slots=4, session="s2")
    node = w.state.nodes["phone"]
    assert (node.slots, node.memory_free, node.power_mode) == (4, 4096, "")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"draining": True, "harvest_state": "charging_low"}, "harvesting: it does not charge, or is low"),
        ({"draining": True, "closed_for": "its outbox is full"}, "its outbox is full"),
        ({"power_mode": "critical"}, "its power mode is critical"),
        ({"limits": Limits(35.0, 100, 1)}, "its limits allow 100 MiB"),
    ],
)
def test_a_node_that_takes_nothing_says_so_when_it_registers_and_is_given_nothing_before_its_first_beat(
    said: dict[str, Any], why: str
) -> None:
    """Also one that registers again: after an election, say, a harvesting device that rests was sent what waited for it."""
    w = World()
    w.submit("t", memory_mb=500)
    for session in ("s1", "s1", "s2"):
        w.join("phone", device=FULL, battery_powered=True, session=session, said=said)
        told = explain(w.state, "t")
        assert not w.state.nodes["phone"].attempts
        assert told is not None
        assert why in told.text
    w.beat("phone", power_mode="performance", limits=Limits(50.0, 4096, 2))
    assert "t" in w.state.nodes["phone"].attempts


def test_of_a_task_on_a_device_that_holds_its_results_is_told_when_its_end_would_be_known_at_the_latest() -> None:
    w = World()
    w.join("phone", device=FULL, battery_powered=True)
    w.submit("t")
    told_by = lambda: task_info(w.state, "t", w.now).told_by  # type: ignore[union-attr]  # noqa: E731
    assert told_by() == 0.0, "its result comes at once"
    w.beat("phone", hold_s=60.0, next_due_s=15.0)
    assert told_by() == pytest.approx(w.now + 15, abs=3)
    w.beat("phone", hold_s=1.0, next_due_s=5.0)
    assert told_by() == w.now + 1.0
    w.beat("phone")
    assert told_by() == 0.0


def test_heartbeats_stretch_in_power_save_and_never_beyond_what_may_be_announced() -> None:
    assert stretched_s(5.0, PowerMode.PERFORMANCE) == stretched_s(5.0, PowerMode.BALANCED) == 5.0
    assert stretched_s(5.0, PowerMode.POWER_SAVE) == 5.0 * STRETCH[PowerMode.POWER_SAVE] == 15.0
    assert stretched_s(5.0, PowerMode.CRITICAL) == 30.0
    assert stretched_s(80_000.0, PowerMode.CRITICAL) * 1.1 <= limits.SLEEP_MAX_S


def test_a_stretched_gap_that_was_announced_makes_nobody_late() -> None:
    w = World()
    w.join("phone", device=FULL)
    w.beat("phone", power_mode="power_save", next_due_s=16.5)
    w.wait(16.0)
    assert w.state.nodes["phone"].state.value == "online"
    w.wait(5.0)
    assert w.state.nodes["phone"].state.value == "late"


# What is kept for a node is brought to it.


def test_a_change_is_brought_once_and_again_to_a_node_that_came_anew() -> None:
    d = Deliveries()
    d.seen("n1", 1, away=False)
    assert d.due(0.0, 9) == []
    assert d.delivered("n1"), "nothing is kept for it"
    d.want("n1")
    assert d.due(0.0, 9) == [], "nobody has said that it is there"
    d.seen("n1", 1, away=False)
    assert (d.due(0.0, 9), d.delivered("n1")) == (["n1"], False)
    d.done("n1", d.begin("n1", 0.0), 1)
    assert (d.due(0.0, 9), d.delivered("n1")) == ([], True)
    d.seen("n1", 2, away=False)
    assert d.due(0.0, 9) == ["n1"]


def test_who_does_not_answer_is_told_again_ever_more_rarely() -> None:
    d = Deliveries()
    d.want("n1")
    d.seen("n1", 1, away=False)
    now, waits = 0.0, []
    for _ in range(8):
        d.begin("n1", now)
        before = now
        while d.due(now, 9) == []:
            now += 0.5
        waits.append(now - before)
    assert waits[0] == AGAIN_S[0]
    assert waits[-1] == AGAIN_S[1]


def test_who_is_away_is_told_when_it_is_back_and_a_change_meanwhile_is_not_missed() -> None:
    d = Deliveries()
    d.want("n1")
    assert d.due(0.0, 9) == [], "never heard of"
    d.seen("n1", 1, away=False)
    mark = d.begin("n1", 0.0)
    d.want("n1")
    d.done("n1", mark, 1)
    assert not d.delivered("n1"), "what it confirmed is not the latest"
    assert d.due(0.0, 9) == ["n1"]
    d.seen("n1", 1, away=True)
    assert d.due(99.0, 9) == []
    d.seen("n1", 1, away=False)
    assert d.due(99.0, 9) == ["n1"]
    assert d.due(99.0, 0) == []
