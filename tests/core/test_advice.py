"""What a device should do now: every threshold from both sides, the unknown, what is held back, and the guide's scenarios."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.core.advice import advise
from node.core.advice.profile import profile_of
from node.core.advice.readings import BATTERY_MARGIN, DWELL_S, HEAT_MARGIN_C
from node.core.advice.steady import again, is_steady
from node.core.heat import SEVERITY as HEATS
from node.device import Device
from schemas.advice import (
    Advice,
    NetworkUse,
    PolicyPriority,
    PowerMode,
    Profile,
    QosPolicy,
    TransportPreference,
    policy_of,
)
from schemas.device import NetworkQuality, NetworkType, SensorKind, ThermalState
from schemas.errors import BadInput
from schemas.membership import Offer

M, H, T = PowerMode, ThermalState, TransportPreference
GIB = 1024
PHONE = Profile(
    True, 80.0, False, 30.0, SensorKind.SKIN, memory_free_mb=6 * GIB, network_type=NetworkType.WIFI,
    network_quality=NetworkQuality.GOOD, latency_ms=30.0, metered=False, offer_memory_mb=4 * GIB, offer_tasks=4,
)  # fmt: skip
SERVER = replace(PHONE, has_battery=False, battery_percent=None, is_charging=None, sensor=SensorKind.CPU)
USUAL = QosPolicy()


def now(profile: Profile = PHONE, policy: QosPolicy = USUAL, **changes: Any) -> Advice:
    """The first advice for a profile with these changes."""
    return advise(replace(profile, **changes), policy, None, 0.0)


# Each threshold, and the other side of it.


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({"battery_percent": 10.0}, M.CRITICAL),
        ({"battery_percent": 10.1}, M.POWER_SAVE),
        ({"battery_percent": 20.0}, M.POWER_SAVE),
        ({"battery_percent": 20.1}, M.BALANCED),
        ({"battery_percent": 40.0}, M.BALANCED),
        ({"battery_percent": 40.1}, M.PERFORMANCE),
        ({"battery_percent": 10.0, "is_charging": True}, M.CRITICAL),
        ({"battery_percent": 10.1, "is_charging": True}, M.PERFORMANCE),
        ({"temperature_c": 44.9}, M.PERFORMANCE),
        ({"temperature_c": 45.0}, M.BALANCED),
        ({"temperature_c": 54.9}, M.BALANCED),
        ({"temperature_c": 55.0}, M.POWER_SAVE),
        ({"temperature_c": 64.9}, M.POWER_SAVE),
        ({"temperature_c": 65.0}, M.CRITICAL),
        ({"temperature_c": 65.0, "is_charging": True}, M.CRITICAL),
        ({"sensor": SensorKind.CPU, "temperature_c": 74.9}, M.PERFORMANCE),
        ({"sensor": SensorKind.CPU, "temperature_c": 75.0}, M.BALANCED),
        ({"sensor": SensorKind.CPU, "temperature_c": 85.0}, M.POWER_SAVE),
        ({"sensor": SensorKind.CPU, "temperature_c": 95.0}, M.CRITICAL),
        ({"sensor": SensorKind.CPU, "temperature_c": 94.9, "critical_c": 100.0}, M.POWER_SAVE),
        ({"sensor": SensorKind.CPU, "temperature_c": 75.0, "critical_c": 80.0}, M.CRITICAL),
    ],
)
def test_the_power_mode_turns_at_its_thresholds(changes: dict[str, Any], mode: PowerMode) -> None:
    assert now(**changes).power_mode is mode


@pytest.mark.parametrize(
    ("kind", "celsius", "state", "left"),
    [
        (SensorKind.BATTERY, 34.9, H.NORMAL, 100),
        (SensorKind.BATTERY, 35.0, H.WARM, 75),
        (SensorKind.SKIN, 45.0, H.WARM, 75),
        (SensorKind.SKIN, 45.1, H.HOT, 50),
        (SensorKind.SKIN, 55.0, H.HOT, 50),
        (SensorKind.SKIN, 55.1, H.THROTTLED, 50),
        (SensorKind.SKIN, 64.9, H.THROTTLED, 50),
        (SensorKind.SKIN, 65.0, H.CRITICAL, 0),
        (SensorKind.CPU, 59.9, H.NORMAL, 100),
        (SensorKind.CPU, 60.0, H.WARM, 75),
        (SensorKind.CPU, 75.1, H.HOT, 50),
        (SensorKind.CPU, 85.1, H.THROTTLED, 50),
        (SensorKind.CPU, 95.0, H.CRITICAL, 0),
        (None, 45.1, H.HOT, 50),
    ],
)
def test_heat_leaves_less_and_less(kind: SensorKind | None, celsius: float, state: ThermalState, left: int) -> None:
    advice = now(sensor=kind, temperature_c=celsius)
    assert (advice.thermal_state, advice.performance_percent) == (state, left)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"memory_free_mb": 2 * GIB}, 256),
        ({"memory_free_mb": 2 * GIB + 1}, 384),
        ({"memory_free_mb": 4 * GIB}, 384),
        ({"memory_free_mb": 4 * GIB + 1}, 512),
        ({"memory_free_mb": 8 * GIB}, 512),
        ({"memory_free_mb": 8 * GIB + 1}, 640),
        ({"temperature_c": 35.0}, 384),
        ({"temperature_c": 45.1}, 256),
        ({"temperature_c": 65.0}, 153),
        ({"battery_percent": 40.1}, 512),
        ({"battery_percent": 40.0}, 409),
        ({"battery_percent": 40.0, "is_charging": True}, 409),
        ({"battery_percent": 20.0}, 307),
        ({"battery_percent": 10.0}, 153),
        ({"memory_free_mb": GIB, "temperature_c": 65.0, "battery_percent": 5.0}, 64),
    ],
)
def test_the_chunk_size_is_a_product_of_what_holds(changes: dict[str, Any], size: int) -> None:
    assert now(**changes).chunk_size == size


@pytest.mark.parametrize(
    ("changes", "cpu", "memory_mb", "tasks"),
    [
        ({}, 50, 1024, 2),
        ({"memory_free_mb": 2046}, 50, 1023, 2),
        ({"offer_memory_mb": 700, "offer_tasks": 1}, 50, 700, 1),
        ({"battery_percent": 20.1}, 50, 1024, 2),
        ({"battery_percent": 20.0}, 35, 716, 1),
        ({"battery_percent": 20.0, "is_charging": True}, 35, 716, 1),
        ({"battery_percent": 10.1}, 35, 716, 1),
        ({"battery_percent": 10.0}, 20, 256, 1),
        ({"temperature_c": 45.0}, 50, 1024, 2),
        ({"temperature_c": 45.1}, 30, 614, 2),
        ({"temperature_c": 60.0}, 30, 614, 2),
        ({"temperature_c": 60.0, "battery_percent": 20.0}, 30, 614, 1),
        ({"temperature_c": 65.0}, 15, 256, 1),
        ({"temperature_c": 65.0, "battery_percent": 5.0}, 15, 256, 1),
    ],
)
def test_the_limits_follow_battery_and_heat(changes: dict[str, Any], cpu: float, memory_mb: int, tasks: int) -> None:
    limits = now(**changes).limits
    assert (limits.cpu_percent, limits.memory_mb, limits.tasks) == (cpu, memory_mb, tasks)


@pytest.mark.parametrize(
    ("changes", "preference"),
    [
        ({}, T.BALANCED),
        ({"battery_percent": 10.0, "is_charging": True}, T.BITCHAT_ONLY),
        ({"battery_percent": 20.0}, T.BITCHAT_PREFERRED),
        ({"battery_percent": 20.0, "is_charging": True}, T.BALANCED),
        ({"battery_percent": 20.1}, T.BALANCED),
        ({"network_type": NetworkType.CELLULAR}, T.BITCHAT_PREFERRED),
        ({"metered": True}, T.BITCHAT_PREFERRED),
        ({"latency_ms": 300.0}, T.BALANCED),
        ({"latency_ms": 300.1}, T.BITCHAT_PREFERRED),
        ({"network_quality": NetworkQuality.POOR}, T.BITCHAT_PREFERRED),
        ({"network_quality": NetworkQuality.OFFLINE}, T.BITCHAT_ONLY),
        ({"temperature_c": 55.0, "is_charging": True}, T.BITCHAT_PREFERRED),
        ({"temperature_c": 65.0}, T.BITCHAT_ONLY),
    ],
)
def test_the_transport_spares_what_is_short(changes: dict[str, Any], preference: TransportPreference) -> None:
    assert now(**changes).transport is preference


@pytest.mark.parametrize(
    ("quality", "use", "transfer_kb"),
    [
        (NetworkQuality.EXCELLENT, NetworkUse.STANDARD, 1024),
        (NetworkQuality.GOOD, NetworkUse.STANDARD, 1024),
        (NetworkQuality.FAIR, NetworkUse.REDUCED, 256),
        (NetworkQuality.POOR, NetworkUse.OFFLINE_FIRST, 64),
        (NetworkQuality.OFFLINE, NetworkUse.LOCAL_ONLY, 0),
        (None, NetworkUse.REDUCED, 256),
    ],
)
def test_a_link_is_used_for_what_it_is_good_for(
    quality: NetworkQuality | None, use: NetworkUse, transfer_kb: int
) -> None:
    advice = now(network_quality=quality)
    assert (advice.network_use, advice.transfer_kb) == (use, transfer_kb)


@pytest.mark.parametrize(("latency_ms", "on"), [(200.0, False), (200.1, True), (None, False)])
def test_a_slow_link_turns_low_latency_on_by_itself(latency_ms: float | None, on: bool) -> None:
    advice = now(latency_ms=latency_ms)
    assert ("low_latency" in advice.active_policies) is on
    assert advice.transfer_kb == (128 if on else 1024)


# A machine without a battery is there to work: its owner's offer holds, until it gets hot.


def test_a_machine_without_a_battery_gives_what_its_owner_offers() -> None:
    advice = now(SERVER)
    assert (advice.power_mode, advice.transport) == (M.PERFORMANCE, T.BALANCED)
    assert (advice.limits.cpu_percent, advice.limits.memory_mb, advice.limits.tasks) == (100, 4 * GIB, 4)
    assert advice.reasons == ()


def test_heat_limits_a_machine_without_a_battery_too() -> None:
    hot = now(SERVER, temperature_c=75.1).limits
    assert (hot.cpu_percent, hot.memory_mb, hot.tasks) == (30, int(4 * GIB * 0.6), 4)
    burning = now(SERVER, temperature_c=95.0)
    assert (burning.limits.cpu_percent, burning.limits.memory_mb, burning.limits.tasks) == (15, 256, 1)
    assert not burning.takes_work


# The unknown never reads as fine.


@pytest.mark.parametrize(
    "unread", ["battery_percent", "is_charging", "temperature_c", "memory_free_mb", "network_quality", "has_battery"]
)
def test_what_is_unknown_is_never_better_than_the_best(unread: str) -> None:
    best = replace(PHONE, memory_free_mb=16 * GIB, network_quality=NetworkQuality.EXCELLENT)
    no_more_permissive(now(best, **{unread: None}), now(best))


def test_an_unknown_battery_counts_as_low_and_an_unknown_charger_as_unplugged() -> None:
    advice = now(battery_percent=None, is_charging=None)
    assert advice.power_mode is M.POWER_SAVE
    assert "unknown" in advice.reasons[0]
    assert now(battery_percent=None, is_charging=True).power_mode is M.PERFORMANCE
    assert now(battery_percent=None, is_charging=True).limits.cpu_percent == 35
    assert now(battery_percent=30.0, is_charging=None).power_mode is M.BALANCED


def test_a_device_of_which_nothing_is_known_works_a_little_and_spares_itself() -> None:
    advice = advise(Profile(offer_memory_mb=4 * GIB, offer_tasks=8), USUAL, None, 0.0)
    assert (advice.power_mode, advice.thermal_state) == (M.POWER_SAVE, H.WARM)
    assert (advice.limits.cpu_percent, advice.limits.memory_mb, advice.limits.tasks) == (35, 358, 1)
    assert (advice.transport, advice.network_use) == (T.BITCHAT_PREFERRED, NetworkUse.REDUCED)


def test_firmware_that_throttles_counts_more_than_the_temperature() -> None:
    advice = now(sensor=SensorKind.CPU, temperature_c=58.0, thermal_state=H.THROTTLED)
    assert (advice.thermal_state, advice.power_mode) == (H.THROTTLED, M.POWER_SAVE)
    assert any("the device says" in reason for reason in advice.reasons)


# Nothing flaps.


def test_a_mode_is_left_after_the_margin_and_the_dwell() -> None:
    def at(when: float, celsius: float, before: Advice | None) -> Advice:
        return advise(replace(PHONE, temperature_c=celsius), USUAL, before, when)

    hot = at(0, 56, None)
    assert (hot.power_mode, hot.thermal_state) == (M.POWER_SAVE, H.THROTTLED)
    within = at(1000, 55 - HEAT_MARGIN_C, hot)
    assert (within.power_mode, within.thermal_state) == (M.POWER_SAVE, H.HOT), "within the margin it is still asked for"
    below = at(1010, 49.9, within)
    assert below.power_mode is M.POWER_SAVE, "it has cooled down, but not for long"
    assert "held" in below.reasons[0]
    assert at(999 + DWELL_S, 49.9, below).power_mode is M.POWER_SAVE
    assert at(1000 + DWELL_S, 49.9, below).power_mode is M.BALANCED
    assert at(1010, 56, below).power_mode is M.POWER_SAVE
    assert at(1010, 66, below).power_mode is M.CRITICAL, "what gets worse counts at once"


def test_readings_that_tremble_at_a_threshold_change_the_mode_once() -> None:
    advice, modes = None, []
    for when in range(400):
        level = 20.5 if when % 2 else 19.5
        advice = advise(replace(PHONE, battery_percent=level), USUAL, advice, float(when))
        modes.append((advice.power_mode, advice.limits))
    assert len(set(modes)) == 1


def test_plugging_in_ends_power_save_after_the_dwell() -> None:
    low = now(battery_percent=15.0)
    plugged = replace(PHONE, battery_percent=15.0, is_charging=True)
    assert advise(plugged, USUAL, low, DWELL_S - 1).power_mode is M.POWER_SAVE
    assert advise(plugged, USUAL, low, DWELL_S).power_mode is M.PERFORMANCE


def test_a_battery_that_fills_counts_three_points_lower_until_it_is_through() -> None:
    low = now(battery_percent=20.0)
    still = advise(replace(PHONE, battery_percent=20.0 + BATTERY_MARGIN), USUAL, low, 500.0)
    assert still.limits.cpu_percent == 35
    assert any("counts as" in reason for reason in still.reasons)
    assert advise(replace(PHONE, battery_percent=23.1), USUAL, still, 501.0).limits.cpu_percent == 50


def test_a_clock_that_is_set_back_does_not_hold_a_mode_for_ever() -> None:
    advice = advise(replace(PHONE, battery_percent=15.0), USUAL, None, 1_000_000.0)
    advice = advise(PHONE, USUAL, advice, 0.0)
    assert advice.power_mode is M.POWER_SAVE
    assert advise(PHONE, USUAL, advice, DWELL_S).power_mode is M.PERFORMANCE


def test_the_margin_is_not_carried_to_another_kind_of_sensor() -> None:
    cpu = now(sensor=SensorKind.CPU, temperature_c=70.0)
    skin = advise(replace(PHONE, temperature_c=44.0), USUAL, cpu, 1.0)
    assert skin.carried.temperature_c == 44.0


# Policies.


def test_a_policy_moves_the_limits_and_battery_and_heat_still_lower_them() -> None:
    policy = policy_of({"max_cpu_percent": "80", "max_memory_mb": "2048"})
    assert (now(policy=policy).limits.cpu_percent, now(policy=policy).limits.memory_mb) == (80, 2048)
    assert now(policy=policy, battery_percent=20.0).limits.cpu_percent == 35
    assert now(policy=policy_of({"max_cpu_percent": "5"}), battery_percent=20.0).limits.cpu_percent == 5
    assert now(SERVER, policy_of({"max_cpu_percent": "30"})).limits.cpu_percent == 30
    assert now(policy=policy_of({"max_memory_mb": "999999"})).limits.memory_mb == 4 * GIB, "never more than is offered"


def test_a_policy_moves_the_thresholds_of_battery_and_heat() -> None:
    saver = policy_of({"battery_save_threshold": "25"})
    assert (now(policy=saver, battery_percent=25.0).power_mode, now(policy=saver, battery_percent=25.1).power_mode) == (
        M.POWER_SAVE,
        M.BALANCED,
    )
    cool = policy_of({"thermal_throttle_temp": "50"})
    assert (now(policy=cool, temperature_c=50.0).power_mode, now(policy=cool, temperature_c=49.9).power_mode) == (
        M.POWER_SAVE,
        M.BALANCED,
    )
    brave = policy_of({"thermal_throttle_temp": "60"})
    throttled = replace(PHONE, temperature_c=58.0, thermal_state=H.THROTTLED)
    assert now(throttled, brave).thermal_state is H.HOT, "the reader's word is explained by its temperature"
    assert now(policy=policy_of({"thermal_throttle_temp": "30"}), temperature_c=31.0).thermal_state is H.THROTTLED


@pytest.mark.parametrize(
    ("priority", "mode", "transport"),
    [
        (PolicyPriority.BATTERY_SAVE, M.POWER_SAVE, T.BITCHAT_PREFERRED),
        (PolicyPriority.BALANCED, M.BALANCED, T.BALANCED),
        (PolicyPriority.PERFORMANCE, M.PERFORMANCE, T.BETANET_PREFERRED),
        (PolicyPriority.LOW_LATENCY, M.PERFORMANCE, T.BALANCED),
    ],
)
def test_an_operators_priority_is_a_floor(
    priority: PolicyPriority, mode: PowerMode, transport: TransportPreference
) -> None:
    policy = QosPolicy(priority)
    advice = now(policy=policy)
    assert (advice.power_mode, advice.transport) == (mode, transport)
    assert f"priority={priority.value}" in advice.active_policies
    assert now(policy=policy, battery_percent=5.0).power_mode is M.CRITICAL


def test_with_the_priority_performance_a_phone_gives_what_is_offered_until_it_is_low() -> None:
    policy = QosPolicy(PolicyPriority.PERFORMANCE)
    assert now(policy=policy).limits.cpu_percent == 100
    assert (now(policy=policy).limits.memory_mb, now(policy=policy).limits.tasks) == (4 * GIB, 4)
    assert now(policy=policy, battery_percent=20.0).limits.cpu_percent == 35


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        ({"max_cpu": "30"}, "max_cpu"),
        ({"max_cpu_percent": "lots"}, "max_cpu_percent"),
        ({"max_cpu_percent": "0"}, "max_cpu_percent"),
        ({"max_cpu_percent": "101"}, "max_cpu_percent"),
        ({"max_cpu_percent": "nan"}, "max_cpu_percent"),
        ({"max_memory_mb": "-1"}, "max_memory_mb"),
        ({"max_memory_mb": "1.5"}, "max_memory_mb"),
        ({"thermal_throttle_temp": "500"}, "thermal_throttle_temp"),
        ({"battery_save_threshold": ""}, "battery_save_threshold"),
        ({"battery_save_threshold": "null"}, "battery_save_threshold"),
        ({"priority": "fast"}, "priority"),
        ({"priority": "balanced", "thermal_throttle_temp": "hot"}, "thermal_throttle_temp"),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_its_field(pairs: dict[str, str], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        policy_of(pairs)
    assert refused.value.field == field


# The guide's scenarios, by its environment variables, on a device of which nothing else is known but that it is a machine.

LOW = {"BATTERY": "15", "AIV_MOBILE_PROFILE": "battery_save"}
HOT = {"THERMAL": "65", "AIV_MOBILE_PROFILE": "thermal_throttle"}
SMALL = {"MEMORY_GB": "2", "AIV_MOBILE_PROFILE": "low_ram"}
FULL = {"BATTERY": "90", "THERMAL": "normal", "MEMORY_GB": "8", "AIV_MOBILE_PROFILE": "performance"}


def played(tmp_path: Path, env: dict[str, str]) -> Advice:
    device = Device(root=tmp_path, env=env, overrides={"mains": True} if "BATTERY" not in env else {}, platform="linux")
    what, how = device.capabilities(), device.state(0.0)
    return advise(profile_of(what, how, Offer(memory_mb=4096, slots=4)), USUAL, None, 0.0)


def test_the_guides_low_battery(tmp_path: Path) -> None:
    advice = played(tmp_path, LOW)
    assert (advice.power_mode, advice.transport) == (M.POWER_SAVE, T.BITCHAT_PREFERRED)
    assert (advice.limits.cpu_percent, advice.limits.tasks) == (35, 1)
    assert {"battery_save", "bitchat_first"} <= set(advice.active_policies)


def test_the_guides_heat(tmp_path: Path) -> None:
    advice = played(tmp_path, HOT)
    assert (advice.power_mode, advice.thermal_state, advice.transport) == (M.CRITICAL, H.CRITICAL, T.BITCHAT_ONLY)
    assert advice.limits.cpu_percent == 15
    assert "thermal_throttle" in advice.active_policies


def test_the_guides_small_memory(tmp_path: Path) -> None:
    advice = played(tmp_path, SMALL)
    assert advice.chunk_size == int(512 * 0.5 * 0.75), "half of it for its memory, and its heat is unknown"
    assert "low_ram" in advice.active_policies


def test_the_guides_performance(tmp_path: Path) -> None:
    advice = played(tmp_path, FULL)
    assert (advice.power_mode, advice.thermal_state, advice.transport) == (M.PERFORMANCE, H.NORMAL, T.BALANCED)
    assert (advice.chunk_size, advice.limits.cpu_percent, advice.limits.memory_mb, advice.limits.tasks) == (
        512, 50, 1024, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "mode"), [("battery_save", M.POWER_SAVE), ("balanced", M.BALANCED), ("performance", M.PERFORMANCE)]
)
def test_a_profile_that_is_named_after_a_power_mode_plays_it(tmp_path: Path, profile: str, mode: PowerMode) -> None:
    assert played(tmp_path, {"AIV_MOBILE_PROFILE": profile, "BATTERY": ""}).power_mode is mode


# For any device.

profiles = st.builds(
    Profile,
    has_battery=st.sampled_from([True, False, None]),
    battery_percent=st.none() | st.floats(0, 100),
    is_charging=st.sampled_from([True, False, None]),
    temperature_c=st.none() | st.floats(-20, 120),
    sensor=st.sampled_from([*SensorKind, None]),
    critical_c=st.none() | st.floats(60, 120),
    thermal_state=st.sampled_from([*ThermalState, None]),
    memory_free_mb=st.none() | st.integers(0, 64 * GIB),
    network_type=st.sampled_from([*NetworkType, None]),
    network_quality=st.sampled_from([*NetworkQuality, None]),
    latency_ms=st.none() | st.floats(0, 2000),
    metered=st.sampled_from([True, False, None]),
    offer_memory_mb=st.integers(0, 32 * GIB),
    offer_tasks=st.integers(1, 64),
)
policies = st.builds(
    QosPolicy,
    priority=st.sampled_from([*PolicyPriority, None]),
    max_cpu_percent=st.none() | st.floats(1, 100),
    max_memory_mb=st.none() | st.integers(16, 1 << 16),
    thermal_throttle_temp=st.none() | st.floats(20, 120),
    battery_save_threshold=st.none() | st.floats(0, 100),
)
ORDER = tuple(T)
USES = tuple(NetworkUse)


def no_more_permissive(worse: Advice, better: Advice) -> None:
    """`worse` allows nothing that `better` does not."""
    assert tuple(M).index(worse.power_mode) >= tuple(M).index(better.power_mode)
    assert HEATS.index(worse.thermal_state) >= HEATS.index(better.thermal_state)
    assert worse.performance_percent <= better.performance_percent
    assert ORDER.index(worse.transport) >= ORDER.index(better.transport)
    assert USES.index(worse.network_use) >= USES.index(better.network_use)
    assert worse.transfer_kb <= better.transfer_kb
    assert worse.chunk_size <= better.chunk_size
    assert worse.limits.cpu_percent <= better.limits.cpu_percent
    assert worse.limits.memory_mb <= better.limits.memory_mb
    assert worse.limits.tasks <= better.limits.tasks


@given(profiles, policies, profiles | st.none(), st.floats(0, 100), st.floats(0, 200))
def test_never_more_permissive_when_the_battery_falls(
    profile: Profile, policy: QosPolicy, earlier: Profile | None, fall: float, when: float
) -> None:
    level = profile.battery_percent
    if level is None:
        profile = replace(profile, battery_percent=100.0)
        level = 100.0
    before = advise(earlier, policy, None, 0.0) if earlier else None
    fallen = replace(profile, battery_percent=max(0.0, level - fall))
    no_more_permissive(advise(fallen, policy, before, when), advise(profile, policy, before, when))


@given(profiles, policies, profiles | st.none(), st.floats(0, 100), st.floats(0, 200))
@example(replace(PHONE, temperature_c=50.0, thermal_state=H.HOT), USUAL, None, 10.0, 0.0)
def test_never_more_permissive_when_the_heat_rises(
    profile: Profile, policy: QosPolicy, earlier: Profile | None, rise: float, when: float
) -> None:
    if profile.temperature_c is None:
        profile = replace(profile, temperature_c=20.0)
    assert profile.temperature_c is not None
    if policy.thermal_throttle_temp is not None:
        # A device's own word is explained by a temperature that an operator may have called bearable: then it counts less.
        profile = replace(profile, thermal_state=None)
    before = advise(earlier, policy, None, 0.0) if earlier else None
    risen = replace(profile, temperature_c=profile.temperature_c + rise)
    no_more_permissive(advise(risen, policy, before, when), advise(profile, policy, before, when))


@given(profiles, policies)
def test_unplugging_and_a_hotter_word_of_the_device_never_allow_more(profile: Profile, policy: QosPolicy) -> None:
    plugged = replace(profile, is_charging=True)
    no_more_permissive(now(replace(profile, is_charging=False), policy), now(plugged, policy))
    told = replace(profile, thermal_state=H.CRITICAL)
    no_more_permissive(now(told, policy), now(replace(profile, thermal_state=H.NORMAL), policy))


@given(profiles, policies)
def test_every_reason_says_what_was_seen(profile: Profile, policy: QosPolicy) -> None:
    advice = now(profile, policy)
    assert all(re.search(r"\d|unknown|operator|device says|cellular|metered|answer|measured|power mode|poor|offline|fair",
                         reason) for reason in advice.reasons)  # fmt: skip
    spared = advice.power_mode is not M.PERFORMANCE or advice.thermal_state is not H.NORMAL
    assert advice.reasons or not spared
    assert advice.limits.memory_mb <= profile.offer_memory_mb
    assert 64 <= advice.chunk_size <= 2048


@given(
    profiles, policies, profiles | st.none(), st.lists(st.sampled_from((0.0, 0.5, 5.0, 70.0)), min_size=3, max_size=8)
)
@example(PHONE, USUAL, replace(PHONE, battery_percent=5.0), [0.0, 0.0, 0.5, 70.0])
@example(PHONE, USUAL, None, [5.0, 5.0, 5.0])
def test_what_is_steady_is_what_would_be_worked_out_anew(
    profile: Profile, policy: QosPolicy, earlier: Profile | None, gaps: list[float]
) -> None:
    """Also where something is held back from before, and when the clock stands still between two looks."""
    when, advice = 1.0, advise(earlier or profile, policy, None, 1.0)
    steady = False
    for gap in gaps:
        when += gap
        found = advise(profile, policy, advice, when)
        if steady:
            assert again(advice, when) == found
        steady = is_steady(advice, found, when)
        advice = found


def test_a_device_at_rest_becomes_steady_and_a_held_mode_is_not() -> None:
    first, second = advise(PHONE, USUAL, None, 1.0), advise(PHONE, USUAL, None, 2.0)
    assert is_steady(first, second, 2.0)
    hot = advise(replace(PHONE, temperature_c=60.0), USUAL, None, 1.0)
    held = advise(PHONE, USUAL, hot, 2.0)
    assert held.power_mode is M.POWER_SAVE
    assert not is_steady(held, advise(PHONE, USUAL, held, 3.0), 3.0)
