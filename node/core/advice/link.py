"""The link to the broker (SPEC 5.6, 5.7): what it is good for, and which transport is preferred.

| | preference |
|---|---|
| power mode critical, battery ≤ 10 %, or offline | bitchat_only |
| power mode power_save | bitchat_preferred |
| an operator's policy says it | that, where it is not more direct than what the rows above ask for |
| ≤ 20 % and not charging, cellular, metered, latency > 300 ms, or a poor link | bitchat_preferred |
| else, with the priority *performance* | betanet_preferred |
| else | balanced: by size and priority of each message |
"""

from __future__ import annotations

from node.core.advice.power_mode import CRITICAL_BATTERY
from node.core.advice.readings import Seen
from schemas.advice import NetworkUse, PolicyPriority, PowerMode, Profile, QosPolicy, TransportPreference
from schemas.device import NetworkQuality, NetworkType

LOW_LATENCY_MS = 200.0  # above it, low_latency turns itself on
SLOW_MS = 300.0
Q, U, T = NetworkQuality, NetworkUse, TransportPreference
# What the link is good for, and how much goes in one transfer, KiB.
USES: dict[NetworkQuality, tuple[NetworkUse, int]] = {
    Q.EXCELLENT: (U.STANDARD, 1024),
    Q.GOOD: (U.STANDARD, 1024),
    Q.FAIR: (U.REDUCED, 256),
    Q.POOR: (U.OFFLINE_FIRST, 64),
    Q.OFFLINE: (U.LOCAL_ONLY, 0),
}
UNKNOWN_QUALITY = Q.FAIR
LOW_LATENCY_KB = 128  # one transfer must not keep the next message waiting


def network_use(seen: Seen, low_latency: bool) -> tuple[NetworkUse, int, list[str]]:
    """What the link is good for, the KiB of one transfer, and why it is not everything."""
    quality = seen.profile.network_quality
    use, transfer_kb = USES[quality or UNKNOWN_QUALITY]
    if low_latency:
        transfer_kb = min(transfer_kb, LOW_LATENCY_KB)
    if use is U.STANDARD:
        return use, transfer_kb, []
    said = f"the link is {quality}" if quality else f"the link has not been measured, counted as {UNKNOWN_QUALITY}"
    return use, transfer_kb, [f"network {use}: {said}; transfers of at most {transfer_kb} KiB"]


def low_latency(seen: Seen, policy: QosPolicy) -> list[str]:
    """Why latency comes first; empty when it does not."""
    if policy.priority is PolicyPriority.LOW_LATENCY:
        return ["low_latency: the operator's priority"]
    if seen.latency_ms is not None and seen.latency_ms > LOW_LATENCY_MS:
        return [f"low_latency: a round trip of {seen.latency_ms:.0f} ms is over {LOW_LATENCY_MS:g} ms"]
    return []


def why_spare(profile: Profile, latency_ms: float | None) -> list[str]:
    """Why few messages are to go over this link; empty where it takes any. `latency_ms`: the round trip that counts."""
    return _those({
        "the network is cellular": profile.network_type is NetworkType.CELLULAR,
        "the network is metered": profile.metered is True,
        f"a round trip of {latency_ms or 0:.0f} ms is over {SLOW_MS:g} ms": latency_ms is not None and latency_ms > SLOW_MS,
        "the link is poor": profile.network_quality in (Q.POOR, Q.OFFLINE),
    })  # fmt: skip


def transport(seen: Seen, mode: PowerMode, policy: QosPolicy) -> tuple[TransportPreference, list[str]]:
    """The preference and why."""
    profile, wish = seen.profile, policy.transport
    only = {
        f"the power mode is {mode}": mode is PowerMode.CRITICAL,
        f"{seen.battery_text} is at most {CRITICAL_BATTERY:g} %": (
            seen.battery is not None and seen.battery <= CRITICAL_BATTERY
        ),
        "the broker does not answer": profile.network_quality is Q.OFFLINE,
    }
    saves = {
        f"the power mode is {mode}": mode is PowerMode.POWER_SAVE,
        f"{seen.battery_text} is at most {seen.low:g} % and not charging": (
            seen.battery is not None and seen.battery <= seen.low and not seen.charging
        ),
    }
    first = [] if wish else why_spare(profile, seen.latency_ms)
    for preference, why in ((T.BITCHAT_ONLY, _those(only)), (T.BITCHAT_PREFERRED, _those(saves) + first)):
        if why and wish is not T.BITCHAT_ONLY:
            return preference, [f"transport {preference}: {'; '.join(why)}"]
    if wish is not None:
        return wish, [f"transport {wish}: the operator's policy"]
    if policy.priority is PolicyPriority.PERFORMANCE:
        return T.BETANET_PREFERRED, [f"transport {T.BETANET_PREFERRED}: the operator's priority is performance"]
    return T.BALANCED, []


def _those(table: dict[str, bool]) -> list[str]:
    return [words for words, holds in table.items() if holds]
