"""What the rules see of a profile: unknown values read by a table, and readings that move back held for a margin.

| unknown | counts as | since |
|---|---|---|
| whether there is a battery | there is one | a machine that has none says so (`Profile.has_battery` False) |
| battery level | 20 % (the threshold of power_save) | it may be low; *critical* would idle a device for a broken sensor |
| charging | not charging | |
| temperature | warm | many machines have no sensor at all; a task must not heat one without any bound |
| free memory | 2 GiB for the chunk size, 512 MiB for the limits | |
| link quality | fair | it has not been measured yet |
| network type, latency | neither cellular nor slow | the measured quality says enough; *metered* has a rule of its own |

Hysteresis is play, as between two gears: a reading that gets worse counts at once, one that gets better counts with the
margin against it. So each rule's own threshold holds for getting in, and the threshold and the margin for getting out.
"""

from __future__ import annotations

from msgspec import Struct

from node.core.heat import SEVERITY, state_on, thermal_state
from schemas.advice import Carried, Profile, QosPolicy
from schemas.device import SensorKind, ThermalState

BATTERY_MARGIN = 3.0  # percent
HEAT_MARGIN_C = 5.0
LATENCY_MARGIN = 0.2  # of what is measured
DWELL_S = 60.0  # a mode or a thermal state is left for a milder one this long after a reading last asked for it

BATTERY_LOW = 20.0  # a policy's battery_save_threshold stands in its place
UNKNOWN_HEAT = ThermalState.WARM
UNKNOWN_MEMORY_MB = 1024  # half of it is a limit of 512 MiB


class Seen(Struct, frozen=True):
    """A profile as the rules see it. `battery` and `temperature_c` carry the margin; the texts are for reasons.

    `battery` is None for a device that has none. `low` is the threshold of a low battery, `ladder_c` the four temperatures
    from which on the device is warm, hot, throttled and critical. `told` is a thermal state that the device itself tells
    and that its temperature does not explain: firmware that throttles.
    """

    battery: float | None
    battery_text: str
    charging: bool
    low: float
    heat: ThermalState
    told: ThermalState | None
    temperature_c: float | None
    heat_text: str
    ladder_c: tuple[float, float, float, float]
    latency_ms: float | None
    profile: Profile


def see(profile: Profile, policy: QosPolicy, ladder_c: tuple[float, float, float, float], before: Carried) -> Seen:
    """Read a profile with its unknowns and margins."""
    low = BATTERY_LOW if policy.battery_save_threshold is None else policy.battery_save_threshold
    battery = battery_of(profile, low, before)
    temperature, told = temperature_of(profile, before), told_of(profile)
    return Seen(
        battery, _battery_text(profile, battery), profile.is_charging is True, low,
        heat_of(told, temperature, ladder_c), told, temperature, _heat_text(profile, temperature), ladder_c,
        latency_of(profile, before), profile,
    )  # fmt: skip


def battery_of(profile: Profile, low: float, before: Carried) -> float | None:
    """The level that counts, percent; None where there is no battery."""
    if profile.has_battery is False:
        return None
    level = profile.battery_percent
    if level is None:
        return low
    if before.battery_percent is None:
        return level
    return min(level, max(before.battery_percent, level - BATTERY_MARGIN))


def temperature_of(profile: Profile, before: Carried) -> float | None:
    """The temperature that counts, °C; a margin is only carried between readings of one kind of sensor."""
    now = profile.temperature_c
    if now is None or before.temperature_c is None or before.sensor is not profile.sensor:
        return now
    return max(now, min(before.temperature_c, now + HEAT_MARGIN_C))


def latency_of(profile: Profile, before: Carried) -> float | None:
    """The round trip that counts, ms."""
    now = profile.latency_ms
    if now is None or before.latency_ms is None:
        return now
    return max(now, min(before.latency_ms, now * (1 + LATENCY_MARGIN)))


def told_of(profile: Profile) -> ThermalState | None:
    """The state that the device tells, unless its temperature means one as bad."""
    told, now = profile.thermal_state, profile.temperature_c
    if told is None or now is None:
        return told
    kind = profile.sensor or SensorKind.SKIN
    explained = thermal_state(now, kind, profile.critical_c)
    return told if SEVERITY.index(told) > SEVERITY.index(explained) else None


def heat_of(
    told: ThermalState | None, temperature_c: float | None, ladder_c: tuple[float, float, float, float]
) -> ThermalState:
    """The thermal state that counts: by °C, or what the device tells where that is worse."""
    if temperature_c is None:
        return told or UNKNOWN_HEAT
    by_degrees = state_on(ladder_c, temperature_c)
    return max(by_degrees, told or by_degrees, key=SEVERITY.index)


def _battery_text(profile: Profile, counted: float | None) -> str:
    if counted is None:
        return "no battery"
    if profile.battery_percent is None:
        return f"battery level unknown, counted as {counted:g} %"
    held = f" (counts as {counted:g} % for a while)" if counted < profile.battery_percent else ""
    return f"battery {profile.battery_percent:g} %{held}"


def _heat_text(profile: Profile, counted: float | None) -> str:
    if counted is None or profile.temperature_c is None:
        return "temperature unknown" if profile.thermal_state is None else f"the device says {profile.thermal_state}"
    kind = (profile.sensor or SensorKind.SKIN).value
    held = f" (counts as {counted:g} °C for a while)" if counted > profile.temperature_c else ""
    return f"{kind} {profile.temperature_c:g} °C{held}"
