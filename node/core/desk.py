"""The desk: every attempt that the node holds, and what to start next. Pure; the daemon asks and does.

An attempt arrives (`take`), waits (`queue`), is handed to a lane (`assign`), runs as the head of its line (`begin`,
`advance`), and ends: `close` while its result or outcome is being stored, `settle` once that is certain and its WORK
message may be acked. The queue is strict: when its first attempt does not fit the free room, later ones wait as well, so a
large one is never starved by small ones. A node's queue is short, which bounds what that costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice

from node.core.attempts import (
    ADOPTED,
    CLOSING,
    FETCHING,
    GONE,
    LINED,
    NEW,
    QUEUED,
    REBASED,
    SETTLED,
    UNLEASED,
    USED_UP,
    Attempt,
    Taken,
)
from node.core.burial import Buried, judge
from node.core.endings import CANCELLED
from node.core.lanes import BATCH_S, LINE_S, QUICK_S, STUCK_S, Lane, Lanes, Room
from node.core.last import Last
from node.core.pace import Pace
from node.core.recent import Recent
from schemas import limits
from schemas.membership import Held


class Desk:
    """The attempts of one node, within the `room` that its owner offers."""

    def __init__(self, room: Room) -> None:
        self.held: dict[str, Attempt] = {}
        self.closing: dict[str, list[Attempt]] = {}
        self.lanes = Lanes(room)
        self.pace = Pace()
        self.recent = Recent()
        self.paused = False  # nothing more is started, for want of room for what it would come to
        self.suspended = False  # nor while the owner wants the device for himself
        self._queue: list[tuple[tuple[int, float, int], int, Attempt]] = []
        self._pushed = 0
        self._keys = 0

    # Arriving.

    def take(self, new: Attempt) -> tuple[Taken, str]:
        """Judge a message that arrived; returns what became of it and the reply to ack now (``""``: none).

        - What is held, or closing, under the same number: the new reply is adopted.
        - A higher number of what waits or runs: that goes on under the new number, and the older message is settled.
        - A higher number of what has a result on its way: nothing is started, that result is the task's end.
        - A lower number than the held or closing one, or what has ended here: acked again.
        - The number of what was cancelled here, in another message: handed back.
        """
        task, number = new.task.id, new.placement
        for old in self.closing.get(task, ()):
            if old.placement == number:
                old.reply, old.seq = new.reply, new.seq
                return ADOPTED, ""
            if old.placement > number:
                return SETTLED, new.reply
            if old.final:
                return ADOPTED, self._renumber(old, new)
        held = self.held.get(task)
        if held is not None:
            return self._meet(held, new)
        if self.recent.settles(task, number):
            if self.recent.is_taken(task, number, new.seq):
                return USED_UP, ""
            return SETTLED, new.reply
        self.held[task] = new
        return NEW, ""

    def _meet(self, held: Attempt, new: Attempt) -> tuple[Taken, str]:
        if new.placement == held.placement:
            held.reply, held.seq = new.reply, new.seq
            return ADOPTED, ""
        if new.placement < held.placement:
            return SETTLED, new.reply
        return REBASED, self._renumber(held, new)

    def _renumber(self, held: Attempt, new: Attempt) -> str:
        """It goes on under the newer number; the reply of the older message, to ack."""
        older = held.reply
        self.recent.add(held.task.id, held.placement, final=False)
        held.work, held.reply, held.seq = new.work, new.reply, new.seq
        return older

    def queue(self, attempt: Attempt) -> None:
        """Let a held attempt wait for its turn (again)."""
        attempt.place = QUEUED
        self._pushed += 1
        heappush(self._queue, (attempt.rank, self._pushed, attempt))

    # Starting.

    def assign(self, ticks: float = 0.0) -> list[tuple[Lane, list[Attempt]]]:
        """Hand out what fits now: lanes, some of them new, with the attempts to give to each one's runner, in order.

        Exclusive ones without a lease at `ticks` step aside; `grant` puts them back.
        """
        given: dict[int, tuple[Lane, list[Attempt]]] = {}
        while self._queue and not self.paused and not self.suspended:
            attempt = self._queue[0][2]
            if attempt.place is not QUEUED:
                heappop(self._queue)
                continue
            if attempt.task.exclusive and ticks >= attempt.leased_until:
                heappop(self._queue)
                attempt.place = UNLEASED
                continue
            lane = self._lane_for(attempt)
            if lane is None:
                break
            heappop(self._queue)
            attempt.place = LINED
            self._keys += 1
            attempt.key = self._keys
            lane.line.append(attempt)
            lane.load_s += attempt.estimate_s
            given.setdefault(lane.number, (lane, []))[1].append(attempt)
        return list(given.values())

    def _lane_for(self, attempt: Attempt) -> Lane | None:
        estimate = self.pace.estimate(attempt.pace, attempt.items)
        attempt.estimate_s = estimate or 0.0
        if estimate is None or estimate >= QUICK_S or attempt.alone or attempt.pace == "command":
            return self.lanes.open_for(attempt)
        lanes = self.lanes
        return lanes.joinable(attempt, BATCH_S) or lanes.open_for(attempt) or lanes.joinable(attempt, LINE_S)

    def begin(self, lane: Lane, now: float) -> Attempt | None:
        """The lane's runner turns to the head of its line: that attempt has started. None when the line is empty."""
        if not lane.line:
            return None
        lane.since = now
        lane.slow = False
        return lane.line[0]

    def advance(self, lane: Lane, now: float, duration_s: float) -> Attempt | None:
        """The head is through after `duration_s`; returns the new head, just begun, or None: the lane is closed then."""
        done = lane.line.popleft()
        lane.load_s -= done.estimate_s
        self.pace.learn(done.pace, duration_s, done.items)
        if lane.line:
            return self.begin(lane, now)
        self.lanes.close(lane)
        return None

    # Exclusive work.

    def exclusive(self) -> list[Attempt]:
        """What is held that runs under a lease only."""
        return [attempt for attempt in self.held.values() if attempt.task.exclusive]

    def grant(self, task: str, placement: int, until: float) -> Attempt | None:
        """It may run until then (never less than was granted before); None when it is not held under that number."""
        attempt = self.held.get(task)
        if attempt is None or attempt.placement != placement or not attempt.task.exclusive:
            return None
        attempt.leased_until = max(attempt.leased_until, until)
        if attempt.place is UNLEASED:
            self.queue(attempt)
        return attempt

    def unleased(self, ticks: float) -> list[Lane]:
        """Lanes that work on something exclusive whose lease is over, begun or not."""
        return [
            lane
            for lane in self.lanes.open.values()
            if lane.line and not lane.doomed and lane.line[0].task.exclusive and ticks >= lane.line[0].leased_until
        ]

    # Stopping.

    def condemn(self, attempt: Attempt, why: str) -> None:
        """It is to be stopped. The first reason stays, but for a cancel: from then on nothing is said of it."""
        if not attempt.stop_why or why == CANCELLED:
            attempt.stop_why, attempt.stop_placement = why, attempt.placement

    def doom(self, lane: Lane) -> bool:
        """The lane's runner is to be stopped; nothing of its line goes elsewhere before it is gone. False: it is already."""
        stopping, lane.doomed = lane.doomed, True
        return not stopping

    def behind(self, lane: Lane) -> list[Attempt]:
        """What stands behind the lane's head, in order: the runner can be asked to give it back."""
        return list(islice(lane.line, 1, None))

    def withdrawn(self, lane: Lane, keys: tuple[int, ...], now: float) -> tuple[list[Attempt], Attempt | None]:
        """The runner has given these back without beginning them: they wait again, but for those that are to be stopped.

        Returns them all, and the lane's new head if its head was among them. A lane that has nothing left is closed, unless
        its runner is being stopped: that holds its room until it is gone.
        """
        named = frozenset(keys)
        back = [attempt for attempt in lane.line if attempt.key in named]
        if not back:
            return [], None
        head = lane.line[0]
        for attempt in back:
            self._take_out(lane, attempt)
            self._wait_again(attempt)
        if lane.doomed:
            return back, None
        if not lane.line:
            self.lanes.close(lane)
        return back, self.begin(lane, now) if head in back else None

    def _take_out(self, lane: Lane, attempt: Attempt) -> None:
        lane.line.remove(attempt)
        lane.load_s -= attempt.estimate_s

    def _wait_again(self, attempt: Attempt) -> None:
        """As if never handed over; of what is to be stopped the end is for the caller to say."""
        attempt.started_at = 0.0
        if not attempt.stop_why:
            self.queue(attempt)

    def told_late(self, lane: Lane, key: int, duration_s: float) -> Attempt | None:
        """A runner that is being stopped is through with one that is not to be stopped: it is taken out of the line, and
        returned. Of what is to be stopped no end counts any more (None)."""
        attempt = next((a for a in lane.line if a.key == key and not a.stop_why), None)
        if attempt is not None:
            self._take_out(lane, attempt)
            self.pace.learn(attempt.pace, duration_s, attempt.items)
        return attempt

    def bury(self, lane: Lane, last: Last | None) -> Buried:
        """The lane's runner is gone, and `last` is what it wrote down: frees its room, lets wait again what had not begun, and
        says what the others came to, whose ends are for the caller to say."""
        buried = judge(lane, last)
        self.lanes.close(lane)
        lane.line.clear()
        for attempt in buried.again:
            attempt.alone = attempt.alone or buried.alone
            self._wait_again(attempt)
        return buried

    def overdue(self, now: float) -> list[Lane]:
        """Lanes whose head ran longer than its timeout."""
        return [
            lane
            for lane in self.lanes.open.values()
            if lane.since is not None
            and lane.line
            and not lane.doomed
            and now >= lane.since + lane.line[0].task.timeout_s
        ]

    def stuck(self, now: float) -> list[Lane]:
        """Lanes whose head, thought to be quick, keeps others waiting behind it; from now on they are `slow`."""
        found = [
            lane
            for lane in self.lanes.open.values()
            if lane.since is not None
            and len(lane.line) > 1
            and not (lane.doomed or lane.slow)
            and now >= lane.since + STUCK_S
        ]
        for lane in found:
            lane.slow = True
        return found

    def lane_of(self, task: str) -> Lane | None:
        """The lane that has the task in its line, if any."""
        return next((lane for lane in self.lanes.open.values() if any(a.task.id == task for a in lane.line)), None)

    def next_check(self) -> float | None:
        """When `overdue` or `stuck` can next have something to say, or None while nothing runs."""
        ends = [
            lane.since + (STUCK_S if len(lane.line) > 1 and not lane.slow else lane.line[0].task.timeout_s)
            for lane in self.lanes.open.values()
            if lane.since is not None and lane.line and not lane.doomed
        ]
        return min(ends, default=None)

    # Ending.

    def close(self, attempt: Attempt) -> None:
        """It is over; its result or outcome is on the way to the store."""
        task = attempt.task.id
        if self.held.get(task) is attempt:
            del self.held[task]
        attempt.place = CLOSING
        closing = self.closing.get(task)
        if closing is None:
            self.closing[task] = [attempt]
        else:
            closing.append(attempt)

    def restore(self, attempt: Attempt) -> None:
        """Of an attempt that a former boot ended, the result or outcome still waits here to be stored."""
        self.closing.setdefault(attempt.task.id, []).append(attempt)

    def settle(self, attempt: Attempt, final: bool, cancelled: bool = False) -> str:
        """What it came to is certain; returns the reply to ack. `final`: the task is over, not only this placement."""
        self.forget(attempt)
        self.recent.add(attempt.task.id, attempt.work.history.placement, final, attempt.seq if cancelled else 0)
        return attempt.reply

    def forget(self, attempt: Attempt) -> None:
        """Hold it no longer, and remember nothing: should it come again, it is new."""
        attempt.place = GONE
        task = attempt.task.id
        if self.held.get(task) is attempt:
            del self.held[task]
        closing = self.closing.get(task)
        if closing is not None and attempt in closing:
            closing.remove(attempt)
            if not closing:
                del self.closing[task]

    # Looking.

    def waiting(self) -> list[Attempt]:
        """What is held and not handed to a runner, in the order of its turn."""
        return sorted(
            (a for a in self.held.values() if a.place in (QUEUED, UNLEASED, FETCHING)),
            key=lambda a: a.rank,
        )

    def everything(self) -> Iterator[Attempt]:
        """Every attempt here: waiting, running, and closing."""
        yield from self.held.values()
        for attempts in self.closing.values():
            yield from attempts

    def report(self) -> tuple[Held, ...]:
        """What a heartbeat says of them. What closes counts as running, until its end is stored."""
        if not self.held and not self.closing:
            return ()
        running = (CLOSING, LINED)
        some = islice(self.everything(), limits.HELD_MAX)
        return tuple(Held(a.task.id, a.placement, a.place in running) for a in some)
