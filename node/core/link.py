"""The link to the broker, named by what was measured on it (SPEC 5.6). Pure."""

from __future__ import annotations

from schemas.device import NetworkQuality

_BELOW_MS = ((20.0, NetworkQuality.EXCELLENT), (80.0, NetworkQuality.GOOD), (200.0, NetworkQuality.FAIR))


def quality(round_trip_ms: float | None) -> NetworkQuality:
    """The name of a round trip to the broker: under 20 ms excellent, 80 good, 200 fair, else poor; None is offline."""
    if round_trip_ms is None:
        return NetworkQuality.OFFLINE
    return next((name for limit, name in _BELOW_MS if round_trip_ms < limit), NetworkQuality.POOR)
