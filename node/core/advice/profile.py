"""The profile of a device, from what its sensors read and what its owner offers."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, UnsetType

from schemas.advice import Profile
from schemas.device import DeviceCapabilities, DeviceState
from schemas.membership import Offer

T = TypeVar("T")


def profile_of(capabilities: DeviceCapabilities, state: DeviceState, offer: Offer, held_mb: int = 0) -> Profile:
    """Readings as a profile; what was not looked at is unknown. `held_mb` is what work for the fleet holds of the memory."""
    mains = known(state.mains)
    free_mb = known(state.ram_available_mb)
    return Profile(
        has_battery=not mains if mains is not None else capabilities.battery_powered,
        battery_percent=known(state.battery_percent),
        is_charging=known(state.is_charging),
        temperature_c=known(state.temperature_c),
        sensor=known(state.temperature_sensor),
        critical_c=known(state.temperature_critical_c),
        thermal_state=known(state.thermal_state),
        memory_free_mb=None if free_mb is None else free_mb + held_mb,
        network_type=known(state.network_type),
        network_quality=known(state.network_quality),
        latency_ms=known(state.network_latency_ms),
        metered=known(state.network_metered),
        offer_memory_mb=offer.memory_mb,
        offer_tasks=offer.slots,
    )


def known(value: T | UnsetType | None) -> T | None:
    """The value, or None where it was not looked at."""
    return None if value is UNSET else value
