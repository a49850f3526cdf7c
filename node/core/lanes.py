"""Lanes: what one runner has been given, and the room that all of them hold together.

A runner does one thing at a time. What is known to be quick is lined up behind the head of a lane, so that the runner
never waits for the daemon; the lane holds the room of one task, because only its head runs.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

from node.core.attempts import Attempt

QUICK_S = 0.005  # only what takes less than this is lined up
BATCH_S = 0.002  # a lane is filled this far before another one is opened
LINE_S = 0.020  # and never further than this
LINE_MAX = 128  # attempts in one line
STUCK_S = 0.100  # a head that takes longer than this loses its line


class Room(Struct, frozen=True):
    """What running attempts may hold together."""

    slots: int
    cores: float
    memory_mb: int


class Lane(Struct, eq=False):
    """One runner's line. The head runs from `since` on (None: its runner is still starting).

    What stands behind it stays there until the runner said that it gave it back, or is gone: it may have begun already.
    `doomed`: its runner is being stopped. `slow`: its head was thought quick and is not, so nothing is lined up behind it.
    """

    number: int
    cores: float
    memory_mb: int
    pace: str
    line: deque[Attempt] = field(default_factory=deque)
    load_s: float = 0.0
    since: float | None = None
    doomed: bool = False
    slow: bool = False


class Lanes:
    """All lanes and what they hold of the room."""

    def __init__(self, room: Room) -> None:
        self.most = self.room = room  # what the owner offers, and what of it may be used now
        self.open: dict[int, Lane] = {}
        self._last = 0
        self._cores = 0.0
        self._memory_mb = 0

    def ever_fits(self, cores: float, memory_mb: int) -> bool:
        """Whether it could run here if nothing else did, and nothing limited what is offered."""
        return cores <= self.most.cores + 1e-9 and memory_mb <= self.most.memory_mb

    def open_for(self, attempt: Attempt) -> Lane | None:
        """A new lane that holds the attempt's needs, or None when there is no room."""
        cores, memory_mb = attempt.task.needs.cores, attempt.task.needs.memory_mb
        if len(self.open) >= self.room.slots or self._cores + cores > self.room.cores + 1e-9:
            return None
        if self._memory_mb + memory_mb > self.room.memory_mb:
            return None
        self._last += 1
        lane = Lane(self._last, cores, memory_mb, attempt.pace)
        self.open[lane.number] = lane
        self._cores += cores
        self._memory_mb += memory_mb
        return lane

    def joinable(self, attempt: Attempt, up_to_s: float) -> Lane | None:
        """A lane that the quick attempt can stand in without its line growing beyond `up_to_s`."""
        needs, load = attempt.task.needs, attempt.estimate_s
        for lane in self.open.values():
            if lane.pace != attempt.pace or lane.doomed or lane.slow or not lane.line or len(lane.line) >= LINE_MAX:
                continue
            if lane.line[0].alone:
                continue
            if needs.cores <= lane.cores and needs.memory_mb <= lane.memory_mb and lane.load_s + load <= up_to_s:
                return lane
        return None

    def close(self, lane: Lane) -> None:
        """Give back what the lane held. Closing twice changes nothing."""
        if self.open.pop(lane.number, None) is not None:
            self._cores = self._cores - lane.cores if self.open else 0.0
            self._memory_mb -= lane.memory_mb
