"""The device score of SPEC 1.5 with its parts and their reasons, and the trust of SPEC 1.6 from what was verified."""

from __future__ import annotations

from coordinator.core.nodeview import NodeView
from schemas.api import ScorePart
from schemas.device import DeviceCapabilities, DeviceState, NetworkQuality

NETWORK = {
    NetworkQuality.EXCELLENT: 1.0,
    NetworkQuality.GOOD: 0.8,
    NetworkQuality.FAIR: 0.6,
    NetworkQuality.POOR: 0.3,
    NetworkQuality.OFFLINE: 0.1,
}
ENOUGH_TASKS = 20  # ended attempts after which a node's record counts in full


def score(node: NodeView) -> tuple[float, tuple[ScorePart, ...]]:
    """The node's score, 0..1, and its parts: hardware 40 %, power 30 %, network 20 %, trust 10 %."""
    parts = (
        hardware(node.record.capabilities, node.device),
        power(node.record.capabilities, node.device),
        network(node.device),
        trust(node.done, node.failed, pretending=node.record.capabilities.pretending),
    )
    return sum(p.value * p.weight for p in parts), parts


def hardware(c: DeviceCapabilities, d: DeviceState) -> ScorePart:
    """Mean of min(1, cores/8) · min(1, GHz/3) and min(1, free RAM/4 GiB). An unknown clock counts as half of 3 GHz."""
    free = d.ram_available_mb
    reasons = [f"{c.cpu_cores} cores"]
    if c.cpu_freq_ghz is None:
        reasons.append("clock unknown, counted as 1.5 GHz")
    else:
        reasons.append(f"{c.cpu_freq_ghz:g} GHz")
    cpu = min(1.0, c.cpu_cores / 8) * min(1.0, (1.5 if c.cpu_freq_ghz is None else c.cpu_freq_ghz) / 3)
    if isinstance(free, int):
        reasons.append(f"{free} MiB of RAM free")
        memory = min(1.0, free / 4096)
    else:
        reasons.append("free RAM unknown, counted as none")
        memory = 0.0
    return ScorePart("hardware", (cpu + memory) / 2, 0.4, tuple(reasons))


def power(c: DeviceCapabilities, d: DeviceState) -> ScorePart:
    """Mains 1; charging min(1, battery/50); else max(0.1, battery/100)."""
    percent = d.battery_percent if isinstance(d.battery_percent, float | int) else None
    if d.mains is True or (d.mains is not False and c.battery_powered is False):
        return ScorePart("power", 1.0, 0.3, ("mains",))
    if percent is None:
        return ScorePart("power", 0.1, 0.3, ("battery level unknown, counted as empty",))
    if d.is_charging is True:
        return ScorePart("power", min(1.0, percent / 50), 0.3, (f"charging at {percent:.0f} %",))
    return ScorePart("power", max(0.1, percent / 100), 0.3, (f"battery at {percent:.0f} %",))


def network(d: DeviceState) -> ScorePart:
    """By the measured quality of the link; unknown counts as poor."""
    quality = d.network_quality
    if isinstance(quality, NetworkQuality):
        return ScorePart("network", NETWORK[quality], 0.2, (f"{quality.value} link to the broker",))
    return ScorePart("network", 0.3, 0.2, ("link not measured yet, counted as poor",))


def trust(done: int, failed: int, *, pretending: bool = False) -> ScorePart:
    """Half for the key that its registration was signed with; the rest grows with the share of tasks done right."""
    reasons = ["+0.50 its key is enrolled, and it signed its registration"]
    level = 0.5
    ended = done + failed
    if ended:
        earned = 0.5 * done / ended * min(1.0, ended / ENOUGH_TASKS)
        level += earned
        reasons.append(f"+{earned:.2f} {done} of {ended} attempts were done right")
    else:
        reasons.append("+0.00 it has ended no task yet")
    if pretending:
        reasons.append("its readings are played through the environment")
    return ScorePart("trust", level, 0.1, tuple(reasons))
