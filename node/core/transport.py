"""Which way a message takes, how long it may wait, and why (SPEC 5.7): one pure function.

What may be held is what this device keeps on its disk: results and ledger claims. Those go by the device's preference:

| preference | at most 10 KiB, priority under 8 | larger, or more urgent | where that cannot be had |
|---|---|---|---|
| betanet_only | betanet | betanet | it is kept until it can |
| betanet_preferred | betanet | betanet | bitchat |
| balanced | bitchat | betanet | the other |
| bitchat_preferred | bitchat | bitchat | betanet |
| bitchat_only | bitchat | bitchat | it makes the batch due |

A batch goes with the next heartbeat, for which the radio wakes anyway, and after `hold_s` at the latest: 0 where the link and
the battery allow it now, `GATHER_S` where the preference is balanced (a battery that has enough for now), else `HOLD_S`.

An outcome lets others run what failed or was handed back here: nothing holds it, nor a result that must not wait (`_urgent`).
"""

from __future__ import annotations

from functools import cache
from math import inf

from msgspec import Struct

from node.core.advice.link import why_spare
from node.core.advice.power_mode import CONSERVATIVE_BATTERY
from schemas.advice import Advice, PolicyPriority, Profile, QosPolicy, TransportPreference
from schemas.transport import Routing, Transport, What

T, B, C = TransportPreference, Transport.BETANET, Transport.BITCHAT
OUTCOME = What.OUTCOME  # by itself, as B and C: see `attempts.QUEUED`
WAITS = (T.BITCHAT_PREFERRED, T.BITCHAT_ONLY)
LARGE_BYTES = 10 * 1024  # more than this is large
URGENT_PRIORITY = 8
HOLD_S = 60.0  # a batch waits no longer; the next heartbeat comes sooner, but of a node that sleeps
GATHER_S = 1.0


class Row(Struct, frozen=True):
    """The way of a small message that is not urgent, the way of others, and what stands in for each."""

    small: Transport
    other: Transport
    instead: dict[Transport, Transport]


TABLE: dict[TransportPreference, Row] = {
    T.BETANET_ONLY: Row(B, B, {}),
    T.BETANET_PREFERRED: Row(B, B, {B: C}),
    T.BALANCED: Row(C, B, {B: C, C: B}),
    T.BITCHAT_PREFERRED: Row(C, C, {C: B}),
    T.BITCHAT_ONLY: Row(C, C, {}),
}
# What no preference holds, and why.
NEVER_HELD: dict[What, str] = {
    What.PRESENCE: "it keeps the node's place, its work and its leases",
    What.ANSWER: "somebody asked, and waits",
    What.OUTPUT: "somebody may be watching, and it is kept nowhere",
    What.EVENT: "it is not kept on this device's disk",
    What.APP_REPORT: "only the newest counts, and a rollout waits for it",
}


class Message(Struct, frozen=True):
    """What is to be sent. `leased`: of exclusive work, whose lease ends with it. `left_s`: until it can no longer count."""

    what: What
    size: int = 0
    priority: int = 0
    leased: bool = False
    left_s: float = inf


class Way(Struct, frozen=True):
    """How it can go now. `spares`: why the link or the battery wants batches, "" where they allow everything. `room`: the
    outbox takes more. `parting`: why nothing may stay here, "" where it may."""

    preference: TransportPreference
    spares: str = ""
    connected: bool = True
    room: bool = True
    parting: str = ""

    @property
    def hold_s(self) -> float:
        """How long a batch may wait."""
        if not self.spares or TABLE[self.preference].small is B:
            return 0.0
        return GATHER_S if self.preference is T.BALANCED else HOLD_S


def way_of(advice: Advice, profile: Profile, policy: QosPolicy) -> Way:
    """What a device of this advice has to spare, by the readings as they counted for that: with their margins, so that batches
    flap no more than the preference does. What is unknown of a battery counts as low. A device that is only too hot has
    nothing to spare, however it is told to prefer bitchat: its batches go at once."""
    preference, counted = advice.transport, advice.carried
    why = why_spare(profile, counted.latency_ms)
    if profile.has_battery is not False and profile.is_charging is not True:
        level, low = counted.battery_percent, max(CONSERVATIVE_BATTERY, policy.battery_save_threshold or 0.0)
        if level is None:
            why.append("the battery level is unknown")
        elif level <= low:
            why.append(f"battery {level:g} % is at most {low:g} % and not charging")
    if preference in WAITS and (policy.transport in WAITS or policy.priority is PolicyPriority.BATTERY_SAVE):
        why.append("the operator's policy")
    return Way(preference, "; ".join(why))


def decide(message: Message, way: Way) -> Routing:
    """The way of one message."""
    if why := NEVER_HELD.get(message.what):
        return Routing(B, why)
    preferred, at_once = _by_preference(way.preference, message.size > LARGE_BYTES, message.priority >= URGENT_PRIORITY)
    transport, because, fallback = preferred.transport, preferred.reason, preferred.fallback
    if not way.connected:
        kept = C if fallback is C else transport
        return Routing(kept, f"{because}; the link is down: kept until it is back", None if fallback is C else fallback)
    if transport is B:
        return preferred
    if why := _urgent(message, way):
        return Routing(fallback or C, f"{because}; now: {why}", C if fallback else None)
    hold_s = way.hold_s
    if not hold_s:
        return at_once
    return Routing(C, f"{because}; with the next heartbeat, in {hold_s:g} s at most: {way.spares}", fallback, hold_s)


@cache
def _by_preference(preference: TransportPreference, large: bool, urgent: bool) -> tuple[Routing, Routing]:
    """The way by the table alone, and the same where nothing is to be spared. Kept, since every result asks for it: writing out
    its reasons anew took more than the rest of the decision (measured: 1.2 → 0.5 µs a result)."""
    row = TABLE[preference]
    transport = row.other if large or urgent else row.small
    fallback, because = row.instead.get(transport), str(preference)
    if row.small is not row.other:
        because += f": {'more than' if large else 'at most'} {LARGE_BYTES // 1024} KiB"
        because += f", priority {'at least' if urgent else 'under'} {URGENT_PRIORITY}"
    now = f"{because}; at once: the link and the battery allow it"
    return Routing(transport, because, fallback), Routing(transport, now, fallback)


def _urgent(message: Message, way: Way) -> str:
    """Why it must not wait for a batch; "" when it may."""
    if message.what is OUTCOME:
        return "others wait to run it"
    if message.leased:
        return "it ran under a lease, which is not renewed after its end"
    if message.left_s <= HOLD_S:
        return f"it counts for {max(0.0, message.left_s):.0f} s more only"
    if way.parting:
        return way.parting
    return "" if way.room else "the outbox has no room for it"
