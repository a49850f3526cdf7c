"""When a connection is pinged, so that a dead link shows: along with what goes out anyway, rather than by itself. Pure.

On a phone each message after a silence wakes the radio. Of a daemon that beats every 15 s the client's own pings, every 20 s,
were two fifths of all wakings (measured: 6 of 16 in two minutes).
"""

from __future__ import annotations

INTERVAL_S = 20.0  # a dead link shows after two unanswered pings; heartbeats are what nodes are judged by
WAIT_MAX_S = 60.0  # however rarely something else goes out
SLACK = 1.2  # a ping by itself comes only where what was to take it along is so much late


class Pings:
    """One connection's. Times in seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._last, self._wait_s = 0.0, INTERVAL_S

    def sent(self, now: float) -> None:
        """One was just sent, by itself."""
        self._last, self._wait_s = now, INTERVAL_S

    def along(self, now: float, next_s: float) -> bool:
        """Something goes out now, and again in `next_s`: whether a ping goes with it, as sent."""
        if now + next_s < self._last + INTERVAL_S:
            return False
        self._last, self._wait_s = now, min(WAIT_MAX_S, max(INTERVAL_S, SLACK * next_s))
        return True

    def left_s(self, now: float) -> float:
        """Until one goes by itself, unless one goes along before."""
        return max(0.0, self._last + self._wait_s - now)
