"""Power mode (SPEC 5.1): the worst row of the table that a reading meets.

| mode | battery at most | while charging too | °C from (of a skin or battery; of a CPU 95, 85, 75) |
|---|---|---|---|
| critical | 10 % | yes | 65 |
| power_save | 20 %, or the policy's threshold | no | 55, or the policy's temperature |
| balanced | 40 % | no | 45 |
| performance | else | | |

A policy's priority is a floor: battery_save means at least power_save, balanced at least balanced.
"""

from __future__ import annotations

from collections.abc import Iterator

from node.core.advice.readings import Seen
from schemas.advice import PolicyPriority, PowerMode, QosPolicy
from schemas.device import ThermalState

CRITICAL_BATTERY, CONSERVATIVE_BATTERY = 10.0, 40.0
SEVERITY = tuple(PowerMode)  # least first
M = PowerMode
# Mode, the battery level at or under which it holds (None: the low threshold), whether also while charging, the rung of the
# heat ladder from which on it holds, and the thermal state that means the same where no temperature is told.
ROWS: tuple[tuple[PowerMode, float | None, bool, int, ThermalState], ...] = (
    (M.CRITICAL, CRITICAL_BATTERY, True, 3, ThermalState.CRITICAL),
    (M.POWER_SAVE, None, False, 2, ThermalState.THROTTLED),
    (M.BALANCED, CONSERVATIVE_BATTERY, False, 1, ThermalState.HOT),
)
FLOORS = {PolicyPriority.BATTERY_SAVE: M.POWER_SAVE, PolicyPriority.BALANCED: M.BALANCED}


def power_mode(seen: Seen, policy: QosPolicy) -> tuple[PowerMode, list[str]]:
    """The mode that the readings and the policy ask for now, and why."""
    for mode, level, even_charging, rung, heat in ROWS:
        why = [
            *_by_battery(seen, seen.low if level is None else level, even_charging),
            *_by_heat(seen, rung, heat),
        ]
        if FLOORS.get(policy.priority) is mode:  # type: ignore[arg-type]
            why.append(f"the operator's priority is {policy.priority}")
        if why:
            return mode, [f"power mode {mode}: {'; '.join(why)}"]
    return M.PERFORMANCE, []


def _by_battery(seen: Seen, level: float, even_charging: bool) -> Iterator[str]:
    if seen.battery is not None and seen.battery <= level and (even_charging or not seen.charging):
        charging = "" if even_charging else " and not charging"
        unknown = " (whether it charges is unknown)" if charging and seen.profile.is_charging is None else ""
        yield f"{seen.battery_text} is at most {level:g} %{charging}{unknown}"


def _by_heat(seen: Seen, rung: int, heat: ThermalState) -> Iterator[str]:
    if seen.temperature_c is not None and seen.temperature_c >= seen.ladder_c[rung]:
        yield f"{seen.heat_text} is at least {seen.ladder_c[rung]:g} °C"
    elif seen.told is heat:
        yield f"the device says that it is {heat}"
