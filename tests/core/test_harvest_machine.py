"""The harvesting machine: what it starts by, what it stops by, and that the owner always comes first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.core.eligible import Facts, Terms, against
from node.core.harvest import (
    Action,
    ApplyLimits,
    CloseSession,
    HandBack,
    Harvest,
    Looked,
    Now,
    OpenSession,
    Phase,
    Resume,
    Suspend,
    Switched,
    TakeNew,
    TakeNoNew,
    step,
)
from node.core.window import window_of
from schemas.device import DeviceState, NetworkType, SensorKind, ThermalState
from schemas.harvest import HarvestState as S

BERLIN = ZoneInfo("Europe/Berlin")
TERMS = Terms(window_of("22:00-07:00", BERLIN))
EVENING = datetime(2026, 7, 10, 21, 0, tzinfo=UTC).timestamp()  # 23:00 there
FIT = DeviceState(
    battery_percent=80.0,
    is_charging=True,
    mains=False,
    temperature_c=30.0,
    temperature_sensor=SensorKind.BATTERY,
    thermal_state=ThermalState.NORMAL,
    network_type=NetworkType.WIFI,
    network_metered=False,
    screen_on=False,
    user_idle_s=3600.0,
    sources={},
    unknown={},
)


class Played:
    """A machine, and a device that a test plays, looked at every second."""

    def __init__(self, terms: Terms = TERMS, at: float = EVENING, **machine: Any) -> None:
        self.machine = Harvest(terms, **machine)
        self.device = FIT
        self.ticks, self.at = 1000.0, at
        self.said: list[Action] = []

    @property
    def now(self) -> Now:
        return Now(self.ticks, self.at)

    def run(self, seconds: float, every_s: float = 1.0, **changes: Any) -> list[str]:
        """Play so long with these readings; the names of the actions."""
        self.device = replace(self.device, **changes)
        before, until = len(self.said), self.ticks + seconds
        while self.ticks < until:
            self.ticks, self.at = self.ticks + every_s, self.at + every_s
            self.said += step(self.machine, Looked(self.device), self.now)
        return [type(action).__name__ for action in self.said[before:]]

    def working(self) -> Played:
        self.run(35)
        assert self.machine.state is S.HARVESTING
        return self


def test_where_it_need_not_wait_it_works_from_the_first_look_on() -> None:
    assert Played(replace(TERMS, start_s=0.0)).run(1) == ["ApplyLimits", "OpenSession", "TakeNew"]


def test_it_begins_once_nothing_has_stood_against_it_for_a_while() -> None:
    played = Played()
    assert played.run(30) == []
    assert played.machine.state is S.IDLE
    assert played.run(1) == ["ApplyLimits", "OpenSession", "TakeNew"]
    assert played.said[:1] == [ApplyLimits(50.0, 30.0, 10.0)]
    assert played.machine.state is S.HARVESTING


# Each reading with a value that just lets it start, and one that just does not, with the state that this is.
STARTS = [
    ("battery_percent", 20.1, 20.0, S.CHARGING_LOW),
    ("is_charging", True, False, S.CHARGING_LOW),
    ("thermal_state", ThermalState.WARM, ThermalState.HOT, S.THERMAL_THROTTLE),
    ("network_type", NetworkType.ETHERNET, NetworkType.CELLULAR, S.NETWORK_METERED),
    ("network_type", NetworkType.LOOPBACK, NetworkType.OTHER, S.NETWORK_METERED),
    ("network_metered", False, True, S.NETWORK_METERED),
    ("screen_on", False, True, S.USER_ACTIVE),
    ("user_idle_s", 300.0, 299.0, S.USER_ACTIVE),
]


@pytest.mark.parametrize(("name", "good", "bad", "state"), STARTS)
def test_what_it_starts_by(name: str, good: object, bad: object, state: S) -> None:
    played = Played()
    assert "OpenSession" in played.run(40, **{name: good})
    played = Played()
    assert "OpenSession" not in played.run(40, **{name: bad})
    assert played.machine.state is state
    assert [reason.state for reason in played.machine.reasons] == [state]


# … that it goes on by, once it works.
GOES_ON = [
    ("battery_percent", 15.1, 15.0, S.CHARGING_LOW),
    ("is_charging", True, False, S.CHARGING_LOW),
    ("thermal_state", ThermalState.HOT, ThermalState.THROTTLED, S.THERMAL_THROTTLE),
    ("network_metered", False, True, S.NETWORK_METERED),
    ("screen_on", False, True, S.USER_ACTIVE),
    ("user_idle_s", 60.0, 59.0, S.USER_ACTIVE),
]


@pytest.mark.parametrize(("name", "good", "bad", "state"), GOES_ON)
def test_what_it_goes_on_by_and_that_one_reading_suspends_it(name: str, good: object, bad: object, state: S) -> None:
    played = Played().working()
    assert played.run(5, **{name: good}) == []
    assert played.run(1, **{name: bad}) == ["Suspend", "TakeNoNew"]
    assert (played.machine.phase, played.machine.state) == (Phase.HELD, state)


UNKNOWN = [
    "battery_percent",
    "is_charging",
    "thermal_state",
    "network_type",
    "network_metered",
    "screen_on",
    "user_idle_s",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_stands_against_it_and_is_told_with_the_reason(name: str) -> None:
    played = Played()
    assert "OpenSession" not in played.run(40, **{name: None, "unknown": {name: "no D-Bus session"}})
    (reason,) = played.machine.reasons
    assert reason.unknown and "is unknown (no D-Bus session)" in reason.text


def test_a_headless_device_works_although_nothing_is_known_but_not_although_something_is() -> None:
    blind = replace(FIT, **dict.fromkeys(UNKNOWN, None))
    played = Played(replace(TERMS, headless=True))
    played.device = blind
    played.run(40)
    assert played.machine.state is S.HARVESTING
    assert played.said[0] == ApplyLimits(30.0, 30.0, 10.0)  # its heat is not known: less
    assert "Suspend" in played.run(1, is_charging=False)


def test_a_device_on_mains_needs_no_battery() -> None:
    played = Played()
    assert "OpenSession" in played.run(40, mains=True, battery_percent=None, is_charging=None)


def test_all_reasons_are_told_with_the_earliest_moment() -> None:
    noon = EVENING - 11 * 3600
    played = Played(at=noon, rest_until=noon + 600)
    played.run(1, battery_percent=10.0, is_charging=False, screen_on=True, user_idle_s=0.0, network_metered=True,
               thermal_state=ThermalState.HOT)  # fmt: skip
    assert [reason.state for reason in played.machine.reasons] == [
        S.OUTSIDE_WINDOW, S.COOLDOWN, S.USER_ACTIVE, S.USER_ACTIVE, S.CHARGING_LOW, S.CHARGING_LOW, S.THERMAL_THROTTLE,
        S.NETWORK_METERED,
    ]  # fmt: skip
    assert played.machine.state is S.OUTSIDE_WINDOW
    assert played.machine.resume_at(played.now) == EVENING - 3600  # 22:00 there


def test_a_rest_that_ends_in_the_windows_last_half_hour_lasts_until_the_next_evening() -> None:
    morning = EVENING + 7 * 3600  # 06:00
    played = Played(at=morning, rest_until=morning + 1800)
    played.run(1)
    assert played.machine.resume_at(played.now) == EVENING + 23 * 3600


def test_a_suspension_that_ends_soon_goes_on_where_it_was() -> None:
    played = Played().working()
    assert played.run(20, user_idle_s=2.0) == ["Suspend", "TakeNoNew"]
    assert played.run(10, user_idle_s=61.0) == []
    assert played.machine.state is S.USER_ACTIVE  # not sure yet
    assert played.run(1) == ["Resume", "TakeNew"]
    assert played.machine.state is S.HARVESTING


def test_a_suspension_that_lasts_hands_back_then_ends_the_session_and_rests() -> None:
    played = Played().working()
    assert played.run(120, is_charging=False) == ["Suspend", "TakeNoNew"]
    assert played.run(2) == ["HandBack", "Resume"]
    assert played.machine.phase is Phase.AWAY
    assert played.run(785) == ["CloseSession"]
    assert played.run(1790, is_charging=True) == []
    assert played.machine.state is S.COOLDOWN
    assert played.run(60) == ["OpenSession", "TakeNew"]


def test_plugged_in_again_while_handed_back_the_session_goes_on() -> None:
    played = Played().working()
    played.run(200, is_charging=False)
    assert played.run(32, is_charging=True) == ["TakeNew"]
    assert played.machine.state is S.HARVESTING


def test_a_charger_with_a_loose_contact_starts_nothing() -> None:
    played = Played()
    for _ in range(20):
        played.run(10, is_charging=True)
        played.run(1, is_charging=False)
    assert played.said == []


def test_critical_heat_ends_the_session_at_once() -> None:
    played = Played().working()
    assert played.run(1, thermal_state=ThermalState.CRITICAL) == ["HandBack", "CloseSession", "TakeNoNew"]
    assert played.machine.state is S.COOLDOWN


def test_eight_hours_then_half_an_hour_of_rest() -> None:
    always = Played(Terms(window_of("always", BERLIN))).working()
    assert always.run(8 * 3600 - 100, every_s=10) == []
    assert always.run(120, every_s=10) == ["HandBack", "CloseSession", "TakeNoNew"]
    assert always.run(1700, every_s=10) == []
    assert always.run(200, every_s=10) == ["OpenSession", "TakeNew"]


def test_the_windows_last_half_hour_takes_nothing_new_and_its_end_hands_back() -> None:
    played = Played(at=EVENING + 5 * 3600).working()  # 04:00
    assert played.run(2.5 * 3600 - 30, every_s=5) == ["TakeNoNew"]
    assert played.machine.state is S.HARVESTING
    assert "ends soon" in played.machine.why_not
    assert played.run(1800, every_s=5) == ["HandBack", "CloseSession"]
    assert played.machine.state is S.OUTSIDE_WINDOW


def test_switched_off_it_gives_everything_back_and_only_its_owner_can_change_that() -> None:
    played = Played().working()
    played.said = step(played.machine, Switched("its owner said so"), played.now)
    assert [type(action) for action in played.said] == [HandBack, CloseSession, TakeNoNew]
    assert (played.machine.state, played.machine.resume_at(played.now)) == (S.DISABLED, 0.0)
    assert step(played.machine, Switched("its owner said so"), played.now) == []
    step(played.machine, Switched(), played.now)
    assert "OpenSession" in played.run(1900)


def test_a_device_that_slept_is_looked_at_anew_before_it_begins() -> None:
    played = Played()
    played.run(20)
    played.ticks, played.at = played.ticks + 3600, played.at + 3600
    assert played.run(25) == []
    assert played.run(10) == ["ApplyLimits", "OpenSession", "TakeNew"]


READINGS = st.fixed_dictionaries(
    {},
    optional={
        "battery_percent": st.sampled_from([10.0, 15.0, 18.0, 20.0, 50.0, None]),
        "is_charging": st.sampled_from([True, True, True, False, None]),
        "thermal_state": st.sampled_from([*ThermalState, None]),
        "network_metered": st.sampled_from([False, False, True, None]),
        "screen_on": st.sampled_from([False, False, True, None]),
        "user_idle_s": st.sampled_from([0.0, 59.0, 60.0, 299.0, 300.0, 5000.0, None]),
    },
)
LOOKS = st.lists(st.tuples(READINGS, st.sampled_from([1.0, 1.0, 10.0, 29.0, 120.0, 1800.0, 7200.0])), max_size=60)


@given(looks=LOOKS, headless=st.booleans(), hour=st.integers(0, 23))
def test_whatever_the_readings_say_the_owner_comes_first(
    looks: list[tuple[dict[str, Any], float]], headless: bool, hour: int
) -> None:
    """It never works while a reason stands; it is suspended exactly while it says so; sessions and rests keep their length."""
    terms = replace(TERMS, headless=headless)
    played = Played(terms, at=EVENING + 3600 * hour)
    machine = played.machine
    suspended = opened = takes = False
    began = closed = float("-inf")
    clear_since: float | None = None
    for readings, wait_s in [pair for look in looks for pair in (look, ({}, 1.0), ({}, 29.0))]:
        played.device = replace(FIT, **readings)
        played.ticks, played.at = played.ticks + wait_s, played.at + wait_s
        session_s = None if machine.session_since is None else played.ticks - machine.session_since
        to_go_on = against(Facts(played.device, played.at, session_s or 0.0, running=True), terms)
        clear_since = None if to_go_on else (clear_since or played.ticks)
        for action in step(machine, Looked(played.device), played.now):
            match action:
                case OpenSession():
                    assert not opened and played.at >= closed + terms.rest_s
                    opened, began = True, played.at
                case CloseSession():
                    assert opened and not suspended
                    opened, closed = False, played.at
                case Suspend():
                    assert opened and not suspended
                    suspended = True
                case Resume():
                    assert suspended
                    suspended = False
                case TakeNew():
                    takes = True
                case TakeNoNew():
                    takes = False
        assert machine.phase is not Phase.WORK or not to_go_on
        assert (machine.state is S.HARVESTING) is (machine.phase is Phase.WORK)
        assert suspended is (machine.phase is Phase.HELD)
        assert not takes or (machine.phase is Phase.WORK and opened)
        assert not opened or played.at - began < terms.session_s
        if machine.phase is not Phase.WORK and machine.state is not S.DISABLED:
            assert machine.resume_at(played.now) >= played.at
        if machine.phase is Phase.REST and machine.state is not S.IDLE:
            assert machine.reasons
