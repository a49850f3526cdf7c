"""Heat: which thermal state a temperature means, by the kind of sensor that read it (SPEC 5.2). Pure.

Skin and battery figures are far below those of a CPU package, which idles where a battery would be in danger.
"""

from __future__ import annotations

from schemas.device import SensorKind, ThermalState

# normal below the first; warm up to the second; hot up to the third; throttled above it; critical from the fourth.
_TOUCHED = (35.0, 45.0, 55.0, 65.0)
_CPU = (60.0, 75.0, 85.0, 95.0)
# The CPU figures as distances from a critical trip of 100 °C, which is the usual one.
_BELOW_TRIP = (40.0, 25.0, 15.0, 5.0)

COLDEST_C, HOTTEST_C = -50.0, 150.0  # a reading outside is a broken sensor (or Termux's -214748364.8 for "none")
_TRIP_MIN_C = 60.0  # a "critical trip" below this, 0 for instance, is a placeholder of the firmware
SEVERITY = tuple(ThermalState)  # least first


def ladder(kind: SensorKind, critical_c: float | None = None) -> tuple[float, float, float, float]:
    """The four thresholds in °C of a sensor of this kind; a CPU's own critical trip moves them when it tells one."""
    if kind is not SensorKind.CPU:
        return _TOUCHED
    if critical_c is None or not _TRIP_MIN_C <= critical_c <= HOTTEST_C:
        return _CPU
    warm, hot, throttled, critical = (critical_c - below for below in _BELOW_TRIP)
    return warm, hot, throttled, critical


def thermal_state(temperature_c: float, kind: SensorKind, critical_c: float | None = None) -> ThermalState:
    """The state that this temperature alone means. No hysteresis: that is in `node.core.advice`."""
    return state_on(ladder(kind, critical_c), temperature_c)


def state_on(ladder_c: tuple[float, float, float, float], temperature_c: float) -> ThermalState:
    """The state that a temperature means on these four thresholds."""
    warm, hot, throttled, critical = ladder_c
    if temperature_c >= critical:
        return ThermalState.CRITICAL
    if temperature_c > throttled:
        return ThermalState.THROTTLED
    if temperature_c > hot:
        return ThermalState.HOT
    return ThermalState.WARM if temperature_c >= warm else ThermalState.NORMAL


def worse(one: ThermalState, other: ThermalState) -> ThermalState:
    """The hotter of two states."""
    return max(one, other, key=SEVERITY.index)
