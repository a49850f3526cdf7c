"""How long things take here: a moving average of seconds per call, by function."""

from __future__ import annotations

NEW_WEIGHT = 0.2  # of the latest duration in the average
NAMES_MAX = 2_000  # names remembered; the oldest goes


class Pace:
    """Learned seconds per call (per item for map chunks). What never ran has no estimate."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def learn(self, name: str, duration_s: float, calls: int) -> None:
        """Take in that `calls` calls of `name` took `duration_s` together."""
        each = max(0.0, duration_s) / max(1, calls)
        old = self._seconds.get(name)
        if old is None and len(self._seconds) >= NAMES_MAX:
            del self._seconds[next(iter(self._seconds))]
        self._seconds[name] = each if old is None else old + NEW_WEIGHT * (each - old)

    def estimate(self, name: str, calls: int) -> float | None:
        """Seconds that `calls` calls of `name` will take, or None when it never ran here."""
        each = self._seconds.get(name)
        return None if each is None else each * calls
