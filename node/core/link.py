"""The link to the broker, named by what was measured on it (SPEC 5.6): round trip and goodput. Pure.

| quality | round trip under | goodput of real transfers at least |
|---|---|---|
| excellent | 20 ms | 20 Mbps |
| good | 80 ms | 5 Mbps |
| fair | 200 ms | 1 Mbps |
| poor | else | else |
| offline | no answer | |

The worse of both counts. A goodput counts only while it is fresh: without transfers there is none.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from schemas.device import NetworkQuality

Q = NetworkQuality
_BELOW_MS = ((20.0, Q.EXCELLENT), (80.0, Q.GOOD), (200.0, Q.FAIR))
_FROM_MBPS = ((20.0, Q.EXCELLENT), (5.0, Q.GOOD), (1.0, Q.FAIR))
_ORDER = tuple(Q)
TRIPS = 5  # of which the median counts: one slow answer is no slow link
FRESH_S = 600.0
ENOUGH_BYTES = 256 * 1024  # of a transfer, before its goodput says anything: less is mostly round trips, in any number
NEW_WEIGHT = 0.3  # of the latest goodput in the average


def quality(round_trip_ms: float | None, goodput_mbps: float | None = None) -> NetworkQuality:
    """The name of a link."""
    if round_trip_ms is None:
        return Q.OFFLINE
    by_trip = next((name for limit, name in _BELOW_MS if round_trip_ms < limit), Q.POOR)
    if goodput_mbps is None:
        return by_trip
    by_goodput = next((name for least, name in _FROM_MBPS if goodput_mbps >= least), Q.POOR)
    return max(by_trip, by_goodput, key=_ORDER.index)


class Trips:
    """The round trips of late."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=TRIPS)

    def add(self, round_trip_ms: float | None) -> float | None:
        """The median with this one; None (no answer) forgets those before."""
        if round_trip_ms is None:
            self._last.clear()
            return None
        self._last.append(round_trip_ms)
        return round(median(self._last), 1)


class Goodput:
    """What large transfers over the link reach together, in Mbps: the bytes of those that overlap, over the time they took.
    Small ones are not to be told here."""

    def __init__(self) -> None:
        self._active = 0
        self._since = 0.0
        self._bytes = 0
        self._mbps: float | None = None
        self._at = float("-inf")

    def begin(self, now: float) -> None:
        """A transfer began."""
        if not self._active:
            self._since, self._bytes = now, 0
        self._active += 1

    def end(self, size: int, now: float) -> None:
        """A transfer is over, after so many bytes (0: it failed)."""
        self._active -= 1
        self._bytes += size
        took_s = now - self._since  # by a clock that may be set back meanwhile
        if self._active or self._bytes < ENOUGH_BYTES or took_s <= 0:
            return
        latest = self._bytes * 8 / 1e6 / took_s
        before = None if now - self._at >= FRESH_S else self._mbps
        self._mbps = latest if before is None else before + NEW_WEIGHT * (latest - before)
        self._at = now

    def mbps(self, now: float) -> float | None:
        """The goodput of late; None when nothing large was transferred."""
        return round(self._mbps, 1) if self._mbps is not None and 0 <= now - self._at < FRESH_S else None
