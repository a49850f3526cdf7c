"""Limits on running work (SPEC 5.4). Every row that holds caps what the rows before it left.

| | CPU | memory | tasks |
|---|---|---|---|
| a device with a battery (or that may have one) | 50 % | 1 GiB, and at most half of what is free | 2 |
| a machine without one | 100 % | what its owner offers | the slots that its owner offers |
| battery ≤ 20 % (or the policy's threshold) | 35 % | ×0.7 | 1 |
| battery ≤ 10 % | 20 % | 256 MiB, and at most ×0.7 | 1 |
| hot, throttled | 30 % | ×0.6 | |
| critical heat | 15 % | 256 MiB, and at most ×0.6 | 1 |

A policy's max_cpu_percent and max_memory_mb stand in place of the first two rows' figures, and with the priority
*performance* a device with a battery gives what its owner offers. Nothing ever exceeds the offer. Where several rows lower
the memory, the strictest counts.
"""

from __future__ import annotations

from msgspec import Struct

from node.core.advice.power_mode import CRITICAL_BATTERY
from node.core.advice.readings import UNKNOWN_MEMORY_MB, Seen
from schemas.advice import Limits, PolicyPriority, QosPolicy
from schemas.device import ThermalState

CPU_PERCENT, MEMORY_MB, TASKS = 50.0, 1024, 2
EMERGENCY_MB = 256


class Cap(Struct, frozen=True):
    """One row: what it leaves at most. `memory_share` is of the base."""

    cpu_percent: float
    memory_share: float = 1.0
    memory_mb: int | None = None
    tasks: int | None = None


LOW_BATTERY = Cap(35.0, 0.7, tasks=1)
NO_BATTERY_LEFT = Cap(20.0, 0.7, EMERGENCY_MB, 1)  # the shares: a worse row never leaves more than the one before it
HOT = Cap(30.0, 0.6)
BURNING = Cap(15.0, 0.6, EMERGENCY_MB, 1)
HEAT_CAPS = {ThermalState.HOT: HOT, ThermalState.THROTTLED: HOT, ThermalState.CRITICAL: BURNING}


def limits(seen: Seen, heat: ThermalState, policy: QosPolicy) -> tuple[Limits, list[str]]:
    """The limits that hold now, and why they are lower than the offer."""
    base, why = _base(seen, policy)
    caps = _caps(seen, heat)
    memory_mb = base.memory_mb
    for cap, _ in caps:
        memory_mb = min(memory_mb, int(base.memory_mb * cap.memory_share))
        memory_mb = memory_mb if cap.memory_mb is None else min(memory_mb, cap.memory_mb)
    found = Limits(
        min([base.cpu_percent, *(cap.cpu_percent for cap, _ in caps)]),
        memory_mb,
        min([base.tasks, *(cap.tasks for cap, _ in caps if cap.tasks is not None)]),
    )
    return found, [*why, *(f"limits: {words(cap)}, since {reason}" for cap, reason in caps)]


def words(cap: Cap) -> str:
    """What a row leaves, in words."""
    memory = f", {cap.memory_share:.0%} of the memory" if cap.memory_share != 1.0 else ""
    at_most = f", {cap.memory_mb} MiB" if cap.memory_mb is not None else ""
    tasks = f", {cap.tasks} at a time" if cap.tasks is not None else ""
    return f"at most {cap.cpu_percent:g} % CPU{memory}{at_most}{tasks}"


def _base(seen: Seen, policy: QosPolicy) -> tuple[Limits, list[str]]:
    profile, offer_mb = seen.profile, seen.profile.offer_memory_mb
    if seen.battery is None or policy.priority is PolicyPriority.PERFORMANCE:
        usual = Limits(100.0, offer_mb, profile.offer_tasks)
        why = []
    else:
        free_mb = UNKNOWN_MEMORY_MB if profile.memory_free_mb is None else profile.memory_free_mb
        usual = Limits(CPU_PERCENT, min(MEMORY_MB, free_mb // 2, offer_mb), min(TASKS, profile.offer_tasks))
        free = "free memory unknown" if profile.memory_free_mb is None else f"{free_mb} MiB of memory free"
        why = [
            f"limits: {CPU_PERCENT:g} % CPU, {usual.memory_mb} MiB ({free}), {usual.tasks} at a time, on a battery device"
        ]
    cpu_percent, memory_mb = usual.cpu_percent, usual.memory_mb
    if policy.max_cpu_percent is not None:
        cpu_percent = policy.max_cpu_percent
        why.append(f"limits: the operator's max_cpu_percent is {cpu_percent:g}")
    if policy.max_memory_mb is not None:
        memory_mb = min(policy.max_memory_mb, offer_mb)
        why.append(f"limits: the operator's max_memory_mb is {policy.max_memory_mb}")
    return Limits(cpu_percent, memory_mb, usual.tasks), why


def _caps(seen: Seen, heat: ThermalState) -> list[tuple[Cap, str]]:
    caps = []
    if seen.battery is not None and seen.battery <= CRITICAL_BATTERY:
        caps.append((NO_BATTERY_LEFT, f"{seen.battery_text} is at most {CRITICAL_BATTERY:g} %"))
    elif seen.battery is not None and seen.battery <= seen.low:
        caps.append((LOW_BATTERY, f"{seen.battery_text} is at most {seen.low:g} %"))
    if heat in HEAT_CAPS:
        caps.append((HEAT_CAPS[heat], f"it is {heat}"))
    return caps
