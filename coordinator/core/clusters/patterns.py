"""When a node tends to be there, learned over days: the share of each hour of the day that it was online. Hours are kept
in UTC, and named by the device's own zone where it tells that; when the zone's offset changes, so do the names, at once.

Hours are closed one after the other; each moves its share by `WEIGHT` towards what was seen (an exponentially weighted
mean over about a week). An hour that the coordinator saw less than half of teaches nothing.
"""

from __future__ import annotations

from zlib import crc32

from schemas.cluster import Shares

HOUR_S = 3600.0
WEIGHT = 0.25
ENOUGH_HOURS = 72  # looked at, before anything is said
ALWAYS, SELDOM = 0.9, 0.1
QUARTERS = ("00-06", "06-12", "12-18", "18-24")
SHARDS = 64  # keys of the bucket
FULL = 255


class Pattern:
    """One node's: hours looked at, 24 shares, and the running hour (`since`: online from then on; None: away)."""

    __slots__ = ("hours", "offset_min", "online_s", "shares", "since", "word")

    def __init__(self, hours: int = 0, shares: bytes = bytes(24)) -> None:
        self.hours = hours
        self.shares = [share / FULL for share in (shares + bytes(24))[:24]]
        self.online_s = 0.0
        self.since: float | None = None
        self.offset_min: int | None = None
        self.word = self._word()

    def seen(self, online: bool, now: float) -> None:
        """It is online, or away, from now on."""
        if online == (self.since is not None):
            return
        if self.since is not None:
            self.online_s += now - self.since
        self.since = now if online else None

    def zone(self, offset_min: int | None) -> None:
        """Its zone is so far ahead of UTC; None: unknown."""
        if offset_min != self.offset_min:
            self.offset_min = offset_min
            self.word = self._word()

    def close(self, hour: int, looked_s: float, now: float) -> None:
        """The hour of the day is over, of which `looked_s` seconds were seen."""
        if self.since is not None:
            self.online_s += max(0.0, now - self.since)
            self.since = now
        share, self.online_s = min(1.0, self.online_s / max(looked_s, 1.0)), 0.0
        if looked_s < HOUR_S / 2:
            return
        first = self.hours < 24  # nothing is known of this hour yet
        self.shares[hour] = share if first else self.shares[hour] + WEIGHT * (share - self.shares[hour])
        self.hours += 1
        self.word = self._word()

    def _word(self) -> str:
        """``always``, ``seldom``, or the quarter of the day (its own, else of UTC) in which it is there most; "" before enough
        was seen."""
        if self.hours < ENOUGH_HOURS:
            return ""
        mean = sum(self.shares) / 24
        if mean >= ALWAYS or mean <= SELDOM:
            return "always" if mean >= ALWAYS else "seldom"
        ahead = round((self.offset_min or 0) / 60)
        quarters = [sum(self.shares[(hour - ahead) % 24] for hour in range(6 * n, 6 * n + 6)) for n in range(4)]
        return f"{QUARTERS[quarters.index(max(quarters))]} {'UTC' if self.offset_min is None else 'local time'}"


class Patterns:
    """Those of all nodes."""

    def __init__(self, now: float) -> None:
        self.of: dict[str, Pattern] = {}
        self._hour, self._since = int(now // HOUR_S), now

    def read(self, shares: Shares) -> None:
        """What an earlier coordinator learned."""
        self.of |= {node: Pattern(hours, kept) for node, (hours, kept) in shares.nodes.items()}

    def seen(self, node: str, online: bool, now: float) -> None:
        """The node is online, or away."""
        found = self.of.get(node) or self.of.setdefault(node, Pattern())
        found.seen(online, now)

    def word(self, node: str, offset_min: int | None = None) -> str:
        """When the node, in a zone so far ahead of UTC, tends to be there; "" while unknown."""
        found = self.of.get(node)
        if found is None:
            return ""
        found.zone(offset_min)
        return found.word

    def forget(self, node: str) -> None:
        """It belongs to the fleet no more."""
        self.of.pop(node, None)

    def tick(self, now: float) -> bool:
        """Time passed; True if an hour was closed, so that all should be written."""
        hour = int(now // HOUR_S)
        if hour == self._hour:
            return False
        end = min(now, (self._hour + 1) * HOUR_S)
        for pattern in self.of.values():
            pattern.close(self._hour % 24, end - self._since, now)
        self._hour, self._since = hour, now
        return True

    def shards(self) -> dict[str, Shares]:
        """All of it as it is kept, by key."""
        kept: dict[str, dict[str, tuple[int, bytes]]] = {}
        for node, pattern in self.of.items():
            shares = bytes(round(FULL * share) for share in pattern.shares)
            kept.setdefault(f"s{crc32(node.encode()) % SHARDS:02d}", {})[node] = (pattern.hours, shares)
        return {key: Shares(nodes) for key, nodes in kept.items()}
