"""Which device may take a version: yes, *deferred* (how it is now stands against it), or *rejected* (what it is does).

Unknown is never yes: what is unknown about what a device *is* rejects it, about how it *is now* defers it. But for three:
heat, since many machines have no sensor; whether a network is metered, which few can tell, unless it is cellular; and goodput,
which shows in transfers alone: a device that has made none lately may begin one.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from coordinator.core.nodeview import metered
from schemas.device import HOT, DeviceCapabilities, DeviceState, NetworkQuality, ThermalState
from schemas.rollout import AppNeeds, AppVersion, Targets

NO_SERVICES = "its owner does not allow services or checks by a command there: `fog node --allow app`"
OFFLINE = "it is offline: until it is back"
RANK = {quality: rank for rank, quality in enumerate(reversed(NetworkQuality))}  # offline 0 … excellent 4


class Facts(Struct, frozen=True):
    """What the machine is told of a device. `online`: it can be told something now. `trust` is 0..1.

    `critical`: its own power mode is critical, so that it takes nothing."""

    node: str
    boot: int
    online: bool
    capabilities: DeviceCapabilities
    device: DeviceState
    labels: dict[str, str]
    kinds: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    trust: float = 0.0
    critical: bool = False


class Fit(Struct, frozen=True):
    """Every reason against it; with neither kind, the device may take the version now. What defers says until what."""

    rejected: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()

    @property
    def now(self) -> bool:
        """Whether it may be told now."""
        return not self.rejected and not self.deferred


def is_target(targets: Targets, facts: Facts) -> bool:
    """Whether the rollout is about this device at all."""
    return (
        all(facts.labels.get(key) == value for key, value in targets.labels.items())
        and (not targets.nodes or facts.node in targets.nodes)
        and (not targets.clusters or bool(set(targets.clusters) & set(facts.clusters)))
    )


def judge(version: AppVersion, facts: Facts) -> Fit:
    """All reasons at once, those that last and those that pass."""
    own = (NO_SERVICES,) if version.starts_processes and "app" not in facts.kinds else ()
    return Fit(own + tuple(_lasting(version.needs, facts)), tuple(_passing(version.needs, facts)))


def _lasting(needs: AppNeeds, facts: Facts) -> Iterator[str]:
    has = facts.capabilities
    if has.cpu_cores < needs.cores:
        yield f"it has {has.cpu_cores} cores, {needs.cores:g} are needed"
    yield from _at_least("clock", has.cpu_freq_ghz, needs.clock_ghz, "GHz")
    yield from _at_least("RAM", has.ram_total_mb, needs.ram_mb, "MiB")
    if needs.gpu and not has.has_gpu:
        yield "it has no GPU" if has.has_gpu is False else "whether it has a GPU is unknown"
    if needs.arch and has.arch not in needs.arch:
        yield f"its architecture is {has.arch or 'unknown'}, not {' or '.join(needs.arch)}"
    if needs.device_types and has.device_type not in needs.device_types:
        kinds = " or ".join(needs.device_types)
        yield f"it is a {has.device_type.value}, not a {kinds}" if has.device_type else "its device type is unknown"
    if missing := sorted(set(needs.frameworks) - set(has.supports_ml_frameworks) - set(has.runtimes)):
        yield f"it lacks {', '.join(missing)}"
    if needs.attestation and not has.attestation_support:
        yield "it cannot attest what it runs"
    if facts.trust < needs.trust:
        yield f"its trust is {facts.trust:.2f}, {needs.trust:g} is needed"
    encrypted = facts.device.network_encrypted
    if needs.encrypted_link and encrypted is not True:
        why = "is not encrypted" if encrypted is False else "may not be encrypted: it has not said"
        yield f"its link to the broker {why}"


def _at_least(what: str, has: float | None, needed: float, unit: str) -> Iterator[str]:
    if needed and has is None:
        yield f"its {what} is unknown, {needed:g} {unit} are needed"
    elif needed and has is not None and has < needed:
        yield f"its {what} is {has:g} {unit}, {needed:g} are needed"


def _passing(needs: AppNeeds, facts: Facts) -> Iterator[str]:
    if not facts.online:
        yield OFFLINE
        return  # how it is now is not known
    yield from _power(needs, facts)
    now = facts.device
    if isinstance(now.thermal_state, ThermalState) and now.thermal_state in HOT:
        yield f"it is {now.thermal_state.value}: until it has cooled down"
    if metered(now) and not needs.metered:
        yield "its network is metered: until it has another"
    if needs.storage_mb:
        free = now.storage_free_mb
        if not isinstance(free, int):
            yield "its free storage is unknown: until it says"
        elif free < needs.storage_mb:
            yield f"{free} MiB of storage are free: until {needs.storage_mb} are"
    yield from _network(needs, now)


def _power(needs: AppNeeds, facts: Facts) -> Iterator[str]:
    now, percent = facts.device, facts.device.battery_percent
    if facts.critical:
        yield "its power mode is critical: until it is not"
    if now.mains is True or now.is_charging is True or not needs.battery_percent:
        return
    if not isinstance(percent, float | int):
        if facts.capabilities.battery_powered is not False:
            yield "its battery level is unknown: until it says, or charges"
    elif percent < needs.battery_percent:
        yield f"battery {percent:.0f} % and not charging: until {needs.battery_percent:.0f} %, or it charges"


def _network(needs: AppNeeds, now: DeviceState) -> Iterator[str]:
    if needs.offline_capable:
        return
    quality, latency, goodput = now.network_quality, now.network_latency_ms, now.network_goodput_mbps
    if isinstance(quality, NetworkQuality) and RANK[quality] < RANK[needs.network]:
        yield f"its network is {quality.value}: until it is {needs.network.value}"
    elif not isinstance(quality, NetworkQuality) and RANK[needs.network] > RANK[NetworkQuality.POOR]:
        yield "its network was not measured yet: until it is"
    if needs.latency_ms and not isinstance(latency, float | int):
        yield "its latency was not measured yet: until it is"
    elif needs.latency_ms and isinstance(latency, float | int) and latency > needs.latency_ms:
        yield f"its latency is {latency:.0f} ms: until it is at most {needs.latency_ms:g}"
    if needs.bandwidth_mbps and isinstance(goodput, float | int) and goodput < needs.bandwidth_mbps:
        yield f"its network brings {goodput:.1f} Mbit/s: until it brings {needs.bandwidth_mbps:g}"
