"""Chunk size (SPEC 5.3): 512 × memory × heat × battery, kept within 64..2048. The first row that holds gives the factor."""

from __future__ import annotations

from node.core.advice.readings import Seen
from schemas.device import ThermalState

USUAL, SMALLEST, LARGEST = 512, 64, 2048
MEMORY_FACTORS = ((2.0, 0.5), (4.0, 0.75), (8.0, 1.0))  # GiB free at most, factor
AMPLE_MEMORY = 1.25
HEAT_FACTORS = {
    ThermalState.WARM: 0.75, ThermalState.HOT: 0.5, ThermalState.THROTTLED: 0.5, ThermalState.CRITICAL: 0.3,
}  # fmt: skip
BATTERY_FACTORS = ((10.0, 0.3), (20.0, 0.6), (40.0, 0.8))  # percent at most, charging or not; factor


def chunk_size(seen: Seen, heat: ThermalState) -> tuple[int, list[str]]:
    """The size, and what made it smaller or larger than usual."""
    factors = [part for part in (_memory(seen), _heat(heat), _battery(seen)) if part is not None]
    size: float = USUAL
    for factor, _ in factors:
        size *= factor
    kept = min(LARGEST, max(SMALLEST, int(size)))
    words = [f"times {factor:g}, {why}" for factor, why in factors if factor != 1.0]
    return kept, [f"chunk size {kept}: {USUAL} {'; '.join(words)}"] if words else []


def _memory(seen: Seen) -> tuple[float, str]:
    free_mb = seen.profile.memory_free_mb
    if free_mb is None:
        return MEMORY_FACTORS[0][1], f"free memory unknown, counted as {MEMORY_FACTORS[0][0]:g} GiB"
    for most_gib, factor in MEMORY_FACTORS:
        if free_mb <= most_gib * 1024:
            return factor, f"{free_mb / 1024:.3g} GiB of memory free, at most {most_gib:g}"
    return AMPLE_MEMORY, f"{free_mb / 1024:.3g} GiB of memory free, more than {MEMORY_FACTORS[-1][0]:g}"


def _heat(heat: ThermalState) -> tuple[float, str] | None:
    return (HEAT_FACTORS[heat], f"it is {heat}") if heat in HEAT_FACTORS else None


def _battery(seen: Seen) -> tuple[float, str] | None:
    level = seen.battery
    if level is None:
        return None
    found = next(((most, factor) for most, factor in BATTERY_FACTORS if level <= most), None)
    return found and (found[1], f"{seen.battery_text} is at most {found[0]:g} %")
