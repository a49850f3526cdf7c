"""The coordinator's whole state, as plain attributes. Nothing in it matters that the streams could not give back."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from random import Random  # the type only: the generator is handed in
from typing import Any, NamedTuple

from coordinator.core import tune
from coordinator.core.actions import Action, WakeAt
from coordinator.core.classes import PRIORITIES, Classes, NeedsClass
from coordinator.core.estimates import Estimates
from coordinator.core.events import NodeRegistering, Source
from coordinator.core.nodeview import NodeView
from coordinator.core.record import TaskRecord


class Hold(NamedTuple):
    """Nobody is called lost for its silence, since `silent` of the `expected` nodes fell silent at the same moment; until
    `until` at the latest."""

    number: int
    since: float
    until: float
    silent: int
    expected: int


Out = list[Action]
Alarm = Callable[["Coordinator", Any, float, Out], None]
NEVER = float("inf")


class Coordinator:
    """Everything that the core knows. `rng` decides ties and jitter; `term` is 0 until `TakenOver`."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.name = ""
        self.term = 0
        self.taken_over_at = 0.0
        self.link_up = True
        self.link_since = -NEVER
        # when nobody is judged (judging.py)
        self.ticked_at = 0.0
        self.stalled_at = -NEVER
        self.hold: Hold | None = None
        self.holds = 0
        self.held_until = -NEVER  # the last hold that ended since beats resumed
        self.hold_free_at = -NEVER  # no hold begins before
        self.silent: tuple[float, int, int] = (-NEVER, 0, 0)  # counted when, silent nodes, nodes that should beat
        self.closed_at: OrderedDict[str, float] = OrderedDict()  # connections that ended lately, the latest last
        # nodes
        self.nodes: dict[str, NodeView] = {}
        self.changed: set[str] = set()  # ids of those that joined, changed or left since the shell last looked
        self.slots: list[NodeView | None] = []
        self.free_slots: list[int] = []
        self.registering: dict[str, tuple[NodeRegistering, float]] = {}
        self.strangers: OrderedDict[str, float] = OrderedDict()
        # tasks
        self.tasks: dict[str, TaskRecord] = {}
        self.done: OrderedDict[str, int] = OrderedDict()  # a plain dict finds its oldest key by a long walk
        self.done_why: OrderedDict[str, TaskRecord] = OrderedDict()
        self.strays: dict[str, Source | None] = {}
        self.letters: set[tuple[str, str]] = set()  # dead letters that the ends of their tasks are to judge
        self.parts: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # of tasks that were split
        self.ages: OrderedDict[tuple[str, str, int, int], float] = OrderedDict()  # the `order` of parts yet to arrive
        self.estimates = Estimates()
        self.classes = Classes(self.estimates)
        self.unclassed: deque[TaskRecord] = deque()
        self.aside: OrderedDict[str, TaskRecord] = OrderedDict()  # without a class, since no node could take them
        self.aside_left = 0  # of those, how many are to be looked at again
        self.active: dict[int, list[tuple[float, int, NeedsClass]]] = {p: [] for p in PRIORITIES}
        self.window: dict[int, int] = dict.fromkeys(PRIORITIES, 0)
        self.pending: dict[int, int] = dict.fromkeys(PRIORITIES, 0)
        self.youngest: dict[int, float] = dict.fromkeys(PRIORITIES, 0.0)
        self.placed_at: dict[int, float] = dict.fromkeys(PRIORITIES, 0.0)
        self.parking: dict[int, int] = dict.fromkeys(PRIORITIES, 0)
        self.parked = 0
        self.parked_by: dict[str, int] = {}  # of each submitter
        self.stayed: dict[int, int] = dict.fromkeys(PRIORITIES, 0)  # would be parked, but for the limit
        self.fresh: deque[tuple[float, TaskRecord]] = deque()
        self.to_ask: list[TaskRecord] = []
        self.to_relieve: list[NodeView] = []  # nodes still to be looked at in this round
        # time
        self.timers: list[tuple[float, int, Alarm, Any]] = []
        self.timer_number = 0
        self.watched: dict[float, list[NodeView]] = {}  # whose beats are looked for, by the moment of the alarm
        self.timers_kept = 0  # how many were left when those of ended tasks were last sorted out
        self.wake_at = NEVER
        self.housekept_at = 0.0
        self.split_ms = tune.SPLIT_MS  # a map chunk that would run longer is split
        self.counts: Counter[str] = Counter()

    def at(self, when: float, alarm: Alarm, what: Any) -> None:
        """Have `alarm(state, what, now, out)` called by the first `Tick` at or after `when`."""
        self.timer_number += 1
        heapq.heappush(self.timers, (when, self.timer_number, alarm, what))

    def run_timers(self, now: float, out: Out) -> None:
        """Call what is due."""
        timers = self.timers
        while timers and timers[0][0] <= now:
            _, _, alarm, what = heapq.heappop(timers)
            alarm(self, what, now, out)

    def compact_timers(self) -> None:
        """Sort out those of ended tasks, once there are more than twice what was left the last time."""
        if len(self.timers) <= 2 * self.timers_kept + tune.COMPACT_MIN:
            return
        self.timers = [t for t in self.timers if not isinstance(t[3], TaskRecord) or self.tasks.get(t[3].id) is t[3]]
        heapq.heapify(self.timers)
        self.timers_kept = len(self.timers)

    def ask_to_wake(self, out: Out) -> None:
        """Ask for a `Tick` at the next alarm, unless one was asked for that is early enough."""
        if self.timers and self.timers[0][0] < self.wake_at:
            self.wake_at = self.timers[0][0]
            out.append(WakeAt(self.wake_at))

    def intake_room(self, priority: int) -> int:
        """How many more TASKS messages of this priority the shell may pull now.

        While a full window stands still, a few more at a time are let in: they move to ``_waiting``, so that what could run
        is found behind them. With ``_waiting`` full, none is.
        """
        left = self.waiting_room()
        if left <= 0:
            return 0
        too_many = self.stayed[priority] - tune.STAY_MAX
        room = tune.PRIORITY_WINDOW - self.window[priority] - max(0, too_many)
        if room < tune.LOOK_PAST and too_many < 0 and self.stands_still(priority):
            room = max(room, tune.LOOK_PAST - self.parking[priority])
        return max(0, min(room, left))

    def waiting_room(self) -> int:
        """How many more tasks ``_waiting`` may hold."""
        return tune.WAITING_MAX - self.parked - sum(self.parking.values())

    def stands_still(self, priority: int) -> bool:
        """Whether nothing of this priority was placed for `tune.STILL_S` (by the clock of the last housekeeping)."""
        return self.pending[priority] > 0 and self.housekept_at - self.placed_at[priority] > tune.STILL_S
