"""Heat (SPEC 5.2): what each thermal state leaves of the device. Which state a temperature means is in `node.core.heat`."""

from __future__ import annotations

from node.core.advice.readings import Seen
from node.core.heat import SEVERITY, ladder
from schemas.advice import Profile, QosPolicy
from schemas.device import SensorKind, ThermalState

S = ThermalState
# What is left of the device, in percent. Critical is the emergency: nothing is begun, and what runs is handed back.
PERFORMANCE: dict[ThermalState, int] = {S.NORMAL: 100, S.WARM: 75, S.HOT: 50, S.THROTTLED: 50, S.CRITICAL: 0}
_RUNG = {S.WARM: 0, S.HOT: 1, S.THROTTLED: 2, S.CRITICAL: 3}


def ladder_of(profile: Profile, policy: QosPolicy) -> tuple[float, float, float, float]:
    """The °C from which on this device is warm, hot, throttled and critical: by its sensor, its trip, and its policy.

    A policy's thermal_throttle_temp moves *throttled*; what would lie beyond it on the milder side comes down with it.
    """
    warm, hot, throttled, critical = ladder(profile.sensor or SensorKind.SKIN, profile.critical_c)
    if policy.thermal_throttle_temp is not None:
        throttled = min(policy.thermal_throttle_temp, critical)
    return min(warm, throttled), min(hot, throttled), throttled, critical


def reason(state: ThermalState, seen: Seen) -> list[str]:
    """Why less than everything is left, in words."""
    if state is S.NORMAL:
        return []
    left = f"{PERFORMANCE[state]} % are left" if PERFORMANCE[state] else "emergency"
    if seen.heat is not state and SEVERITY.index(seen.heat) < SEVERITY.index(state):
        return [f"thermal state {state}: {seen.heat_text}, held until it stays cooler ({left})"]
    if seen.temperature_c is None:
        return [f"thermal state {state}: {seen.heat_text} ({left})"]
    rung = seen.ladder_c[_RUNG[state]]
    word = "is over" if state in (S.HOT, S.THROTTLED) else "is at least"
    if seen.told is state:
        return [f"thermal state {state}: the device says so, at {seen.heat_text} ({left})"]
    return [f"thermal state {state}: {seen.heat_text} {word} {rung:g} °C ({left})"]
