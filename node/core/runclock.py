"""The clock by which the time of running work is judged: it stands still while the node itself keeps that work stopped.

So a task's timeout is of the time that it was given, however little that is under a low ceiling or a suspension; what must
be over by a time of day has a deadline. All running work is stopped together, so that one clock does for all.
"""

from __future__ import annotations


class RunClock:
    """Of one node. All times are seconds of the same monotonic clock."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._since: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether it stands still."""
        return self._since is not None

    def stop(self, now: float) -> None:
        """Running work was stopped. Stopping twice changes nothing."""
        if self._since is None:
            self._since = now

    def go(self, now: float) -> None:
        """It runs again."""
        if self._since is not None:
            self._lost_s += max(0.0, now - self._since)
            self._since = None

    def read(self, now: float) -> float:
        """What this clock shows at `now`."""
        return (now if self._since is None else self._since) - self._lost_s
