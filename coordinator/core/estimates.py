"""How long work is likely to take: a moving mean per function (or program), and a speed factor per node."""

from __future__ import annotations

from coordinator.core import tune

ALPHA = 0.2  # weight of the newest duration
FUNCTIONS_KEPT = 4096


class Estimate:
    """The mean duration of one call (one item of a map), in ms; None before the first."""

    __slots__ = ("ms", "seen")

    def __init__(self) -> None:
        self.ms: float | None = None
        self.seen = 0

    def learn(self, ms: float) -> None:
        """Take one more duration into the mean; the first ones weigh more, so that it settles quickly."""
        self.seen += 1
        if self.ms is None:
            self.ms = ms
        else:
            self.ms += max(ALPHA, 1 / self.seen) * (ms - self.ms)


class Estimates:
    """All estimates by function name, bounded: the oldest name goes first."""

    def __init__(self) -> None:
        self._by_name: dict[str, Estimate] = {}

    def of(self, name: str) -> Estimate:
        """The estimate of a function, made when it is new."""
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) >= FUNCTIONS_KEPT:
                del self._by_name[next(iter(self._by_name))]
            found = self._by_name[name] = Estimate()
        return found

    def mean_ms(self, name: str) -> float | None:
        """The mean of one call, or None when nothing is known."""
        found = self._by_name.get(name)
        return None if found is None else found.ms


def task_ms(estimate: Estimate, items: int, told_s: float | None) -> float:
    """What a task is expected to take: learned, else told by its submitter, else `tune.UNKNOWN_MS`."""
    if estimate.ms is not None:
        return estimate.ms * items
    return tune.UNKNOWN_MS if told_s is None else told_s * 1000.0


def learn_speed(speed: float, estimate: Estimate, items: int, duration_ms: float) -> float:
    """A node's speed factor after one more result: this duration against the mean, kept within 0.1..10."""
    expected = max(tune.COST_FLOOR_MS, (estimate.ms or duration_ms) * items)
    ratio = max(tune.COST_FLOOR_MS, duration_ms) / expected
    return min(10.0, max(0.1, speed + 0.1 * (ratio - speed)))
