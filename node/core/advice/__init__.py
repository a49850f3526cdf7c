"""What the device should do now (SPEC 5.1 to 5.8): one pure function, from tables of a file each."""

from __future__ import annotations

from typing import TypeVar

from node.core.advice.chunk_size import chunk_size
from node.core.advice.limits import limits
from node.core.advice.link import low_latency, network_use, transport
from node.core.advice.power_mode import CRITICAL_BATTERY, power_mode
from node.core.advice.power_mode import SEVERITY as MODES
from node.core.advice.readings import DWELL_S, Seen, see
from node.core.advice.thermal import PERFORMANCE, ladder_of, reason
from node.core.heat import SEVERITY as HEATS
from schemas.advice import Advice, Carried, NetworkUse, PowerMode, Profile, QosPolicy, TransportPreference
from schemas.device import HOT, ThermalState

T = TypeVar("T")
LOW_RAM_MB = 2048


def advise(profile: Profile, policy: QosPolicy, previous: Advice | None, now: float) -> Advice:
    """The advice for a device at `now` (any clock in seconds that is the same for `previous`, its advice before, if any).

    What gets worse counts at once, also while nothing else changed; what gets better, after the margin and the dwell of
    `readings`. Every reason tells its value and its threshold.
    """
    before = previous.carried if previous else Carried()
    seen = see(profile, policy, ladder_of(profile, policy), before)
    wanted, mode_why = power_mode(seen, policy)
    mode, mode_asked_at = _settle(MODES, previous.power_mode if previous else None, wanted, before.mode_asked_at, now)
    if mode is not wanted:
        mode_why = [f"power mode {mode}: held until what asked for it is over for {DWELL_S:g} s"]
    heat_before = previous.thermal_state if previous else None
    heat, heat_asked_at = _settle(HEATS, heat_before, seen.heat, before.heat_asked_at, now)
    urgent = low_latency(seen, policy)
    use, transfer_kb, use_why = network_use(seen, bool(urgent))
    way, way_why = transport(seen, mode, policy)
    size, size_why = chunk_size(seen, heat)
    most, most_why = limits(seen, heat, policy)
    return Advice(
        power_mode=mode,
        thermal_state=heat,
        performance_percent=PERFORMANCE[heat],
        transport=way,
        network_use=use,
        transfer_kb=transfer_kb,
        chunk_size=size,
        limits=most,
        active_policies=_active(seen, mode, heat, way, use, policy, bool(urgent)),
        reasons=(*mode_why, *reason(heat, seen), *most_why, *size_why, *way_why, *use_why, *urgent),
        carried=Carried(
            None if profile.battery_percent is None else seen.battery,
            seen.temperature_c,
            profile.sensor,
            seen.latency_ms,
            mode_asked_at,
            heat_asked_at,
        ),
    )


def _settle(order: tuple[T, ...], before: T | None, wanted: T, asked_at: float, now: float) -> tuple[T, float]:
    """What holds now, and when it was last asked for: worse at once, milder only `DWELL_S` after it was last asked for."""
    if before is None or order.index(wanted) >= order.index(before):
        return wanted, now
    asked_at = min(asked_at, now)  # a clock that was set back must not hold for ever
    return (wanted, now) if now - asked_at >= DWELL_S else (before, asked_at)


def _active(
    seen: Seen,
    mode: PowerMode,
    heat: ThermalState,
    way: TransportPreference,
    use: NetworkUse,
    policy: QosPolicy,
    urgent: bool,
) -> tuple[str, ...]:
    """The names of the policies in force, the operator's last."""
    free_mb = seen.profile.memory_free_mb
    table = {
        "battery_critical": seen.battery is not None and seen.battery <= CRITICAL_BATTERY,
        "battery_save": seen.battery is not None and seen.battery <= seen.low and not seen.charging,
        "power_save": mode is PowerMode.POWER_SAVE,
        "thermal_throttle": heat in HOT,
        "low_ram": free_mb is None or free_mb <= LOW_RAM_MB,
        "bitchat_only": way is TransportPreference.BITCHAT_ONLY,
        "bitchat_first": way is TransportPreference.BITCHAT_PREFERRED,
        "smaller_transfers": use is NetworkUse.REDUCED,
        "offline_first": use is NetworkUse.OFFLINE_FIRST,
        "local_only": use is NetworkUse.LOCAL_ONLY,
        "low_latency": urgent,
    }
    said = (
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name in policy.__struct_fields__
        if (value := getattr(policy, name)) is not None
    )
    return (*(name for name, holds in table.items() if holds), *said)
