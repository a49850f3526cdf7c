"""What a device should do now (SPEC 5): its `Profile` and an operator's `QosPolicy` go in, `Advice` comes out.

`ThermalState`, `NetworkQuality` and `SensorKind` are in `schemas.device`: readings carry them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.device import Count, NetworkQuality, NetworkType, Percent, SensorKind, ThermalState
from schemas.errors import BadInput


class PowerMode(StrEnum):
    """How much the device may spend, most first."""

    PERFORMANCE = "performance"
    BALANCED = "balanced"
    POWER_SAVE = "power_save"
    CRITICAL = "critical"


class TransportPreference(StrEnum):
    """Which way messages take: betanet is direct and now, bitchat stores them and sends batches. Directest first."""

    BETANET_ONLY = "betanet_only"
    BETANET_PREFERRED = "betanet_preferred"
    BALANCED = "balanced"
    BITCHAT_PREFERRED = "bitchat_preferred"
    BITCHAT_ONLY = "bitchat_only"


class NetworkUse(StrEnum):
    """What the measured link is good for (SPEC 5.6), most first."""

    STANDARD = "standard"
    REDUCED = "reduced"  # smaller transfers, more buffering
    OFFLINE_FIRST = "offline_first"
    LOCAL_ONLY = "local_only"


class PolicyPriority(StrEnum):
    """What an operator wants of a device before all else."""

    BATTERY_SAVE = "battery_save"
    BALANCED = "balanced"
    PERFORMANCE = "performance"
    LOW_LATENCY = "low_latency"


class Limits(Struct, frozen=True):
    """What running work may use: percent of all the device's cores, and MiB, both together; attempts at a time."""

    cpu_percent: Percent
    memory_mb: Count
    tasks: Annotated[int, Meta(ge=1)]


class QosPolicy(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An operator's policy for a device (SPEC 5.5). None: by the device's kind.

    `max_cpu_percent` and `max_memory_mb` stand in place of the usual limits, which battery and heat still lower.
    `thermal_throttle_temp` (°C, of the sensor that the device is judged by) stands in place of that sensor's own figure,
    `battery_save_threshold` in place of 20 %. `transport` is the preference, but where battery or heat ask for more bitchat.
    """

    priority: PolicyPriority | None = None
    max_cpu_percent: Annotated[float, Meta(ge=1, le=100)] | None = None
    max_memory_mb: Annotated[int, Meta(ge=16, le=1 << 30)] | None = None
    thermal_throttle_temp: Annotated[float, Meta(ge=20, le=120)] | None = None
    battery_save_threshold: Percent | None = None
    transport: TransportPreference | None = None


def policy_of(pairs: Mapping[str, str]) -> QosPolicy:
    """The policy that these texts mean; BadInput names the field that there is not, or whose value is wrong."""
    for name, text in pairs.items():
        if name not in QosPolicy.__struct_fields__:
            raise BadInput(name, "there is no such policy", hint=f"there are {', '.join(QosPolicy.__struct_fields__)}")
        try:
            msgspec.convert({name: text}, QosPolicy, strict=False)
        except msgspec.ValidationError as problem:
            raise BadInput(name, f"{text!r:.60}: {str(problem).partition(' - at')[0]}") from None
        if text.strip().lower() in ("null", "none", "nan", ""):
            raise BadInput(name, "needs a value", hint="take policies away with `fog policy reset`")
    return msgspec.convert(dict(pairs), QosPolicy, strict=False)


class Profile(Struct, frozen=True, omit_defaults=True):
    """What is known of a device at a moment. None: unknown.

    `has_battery` is False for a device that runs on mains only. `critical_c` is the critical trip that the sensor tells of
    itself; `thermal_state` what the device's reader made of it (it knows firmware that throttles), which counts where it is
    worse. `memory_free_mb` is what would be free without the work that runs here for the fleet. The offer is what the owner
    lets the fleet have at most.
    """

    has_battery: bool | None = None
    battery_percent: Percent | None = None
    is_charging: bool | None = None
    temperature_c: float | None = None
    sensor: SensorKind | None = None
    critical_c: float | None = None
    thermal_state: ThermalState | None = None
    memory_free_mb: Count | None = None
    network_type: NetworkType | None = None
    network_quality: NetworkQuality | None = None
    latency_ms: float | None = None
    metered: bool | None = None
    offer_memory_mb: Count = 0
    offer_tasks: Annotated[int, Meta(ge=1)] = 1


class Carried(Struct, frozen=True, omit_defaults=True):
    """What the next advice needs of this one, so that nothing flaps: the readings as they counted, and when the power mode
    and the thermal state were last asked for by a reading (on the clock of `advise`)."""

    battery_percent: float | None = None
    temperature_c: float | None = None
    sensor: SensorKind | None = None
    latency_ms: float | None = None
    mode_asked_at: float = 0.0
    heat_asked_at: float = 0.0


class Advice(Struct, frozen=True):
    """What the device should do now. Each of `reasons` tells a value and the threshold that it met.

    `performance_percent` is what heat leaves of the device, `chunk_size` the guide's (512 for a usual one),
    `transfer_kb` how much to send in one go.
    """

    power_mode: PowerMode
    thermal_state: ThermalState
    performance_percent: int
    transport: TransportPreference
    network_use: NetworkUse
    transfer_kb: int
    chunk_size: int
    limits: Limits
    active_policies: tuple[str, ...]
    reasons: tuple[str, ...]
    carried: Carried = Carried()

    @property
    def takes_work(self) -> bool:
        """Whether the device takes new work and keeps what it has."""
        return self.power_mode is not PowerMode.CRITICAL


def told(advice: Advice) -> str:
    """The advice as lines to read."""
    most = advice.limits
    rows = {
        "power mode": f"{advice.power_mode}"
        + ("" if advice.takes_work else ": takes nothing new, hands back what it has"),
        "thermal state": f"{advice.thermal_state}, {advice.performance_percent} % of its performance left",
        "transport": str(advice.transport),
        "network": f"{advice.network_use}, transfers of at most {advice.transfer_kb} KiB",
        "chunk size": str(advice.chunk_size),
        "limits": f"{most.cpu_percent:g} % CPU, {most.memory_mb} MiB, {most.tasks} tasks at a time",
        "active policies": ", ".join(advice.active_policies) or "none",
    }
    lines = [f"{name:<16}{value}" for name, value in rows.items()]
    return "\n".join(
        [*lines, "", "because", *(f"  {reason}" for reason in advice.reasons or ("nothing stands against it",))]
    )
