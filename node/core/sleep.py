"""A sleep that the device announces: how long it is, and when it is over. Pure: both clocks come in.

`ticks` go on while the machine is suspended, `awake` stands still then; their difference tells that it was.
"""

from __future__ import annotations

SUSPENDED_S = 5.0  # a difference that is no mistake of two readings


class Sleep:
    """Whether this node sleeps. It need not be suspended meanwhile: what runs goes on as long as it can."""

    def __init__(self) -> None:
        self._until = 0.0
        self._apart = 0.0  # the clocks' difference when it was announced

    def __bool__(self) -> bool:
        return self._until > 0

    def announce(self, for_s: float, ticks: float, awake: float) -> None:
        """From now on, for so long."""
        self._until, self._apart = ticks + for_s, ticks - awake

    def wake(self) -> None:
        """It is over."""
        self._until = 0.0

    def gap_s(self, ticks: float) -> float:
        """What is left of it; 0 when it does not sleep. Never quite 0 while it does."""
        return max(0.05, self._until - ticks) if self._until else 0.0

    def over(self, ticks: float, awake: float) -> str:
        """Why it is over by itself; ``""`` while it is not."""
        if not self._until:
            return ""
        if ticks >= self._until:
            return "its time is over"
        return "the machine goes on" if ticks - awake > self._apart + SUSPENDED_S else ""
