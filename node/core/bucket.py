"""A token bucket that may be overdrawn: what is larger than it passes, and whoever comes next waits for it. Pure."""

from __future__ import annotations

BURST_S = 0.25  # of its rate, that may be saved up


class Bucket:
    """Fills by `rate` tokens a second, up to `BURST_S` of it."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._level = 0.0
        self._at: float | None = None

    def take(self, size: float, now: float) -> float:
        """Take so many tokens at `now`; returns for how many seconds the taker has to wait, so that the rate is kept."""
        if self._at is not None:
            self._level = min(BURST_S * self._rate, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        self._level -= size
        return max(0.0, -self._level / self._rate)
