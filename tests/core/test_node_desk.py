"""The node's desk, as a story of what arrives, runs and ends; and what holds whatever order things come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Raw

from node.core.attempts import Attempt, Place, Taken, attempt_of
from node.core.burial import Buried
from node.core.desk import Desk
from node.core.endings import CANCELLED, DROPPED
from node.core.lanes import LINE_MAX, LINE_S, STUCK_S, Lane, Room
from node.core.last import Last
from node.core.recent import RECENT_MAX, Recent
from schemas.task import CommandRun, FunctionRun, History, MapRun, Needs, Task, TaskPriority, Work

ROOM = Room(slots=3, cores=4.0, memory_mb=1000)


def attempt(
    task: str, placement: int = 1, *, seq: int = 0, cores: float = 1.0, memory_mb: int = 64, name: str = "f",
    priority: TaskPriority = TaskPriority.NORMAL, at: float = 0.0, timeout_s: float = 100.0,
) -> Attempt:  # fmt: skip
    needs = Needs(cores=cores, memory_mb=memory_mb)
    made = Task(task, "me", FunctionRun(name), priority=priority, needs=needs, timeout_s=timeout_s)
    work = Work(Raw(b"{}"), History(placement=placement, submitted_at=at))
    return attempt_of(made, work, seq, f"reply-{task}-{placement}-{seq}")


def arrive(desk: Desk, new: Attempt) -> tuple[Taken, str]:
    taken = desk.take(new)
    if taken[0] is Taken.NEW:
        desk.queue(new)
    return taken


def started(desk: Desk) -> list[list[str]]:
    return [[a.task.id for a in attempts] for _, attempts in desk.assign()]


def run_one(desk: Desk, name: str = "f", duration_s: float = 0.0001) -> None:
    """Let the desk learn how long `name` takes."""
    arrive(desk, attempt(f"learn-{name}", name=name))
    ((lane, (one,)),) = desk.assign()
    desk.begin(lane, 0.0)
    assert desk.advance(lane, 0.0, duration_s) is None
    desk.close(one)
    desk.settle(one, final=True)


# Starting.


def test_what_never_ran_gets_a_lane_of_its_own_up_to_the_slots() -> None:
    desk = Desk(ROOM)
    for i in range(5):
        arrive(desk, attempt(f"t{i}", seq=i))
    assert started(desk) == [["t0"], ["t1"], ["t2"]]
    assert started(desk) == []


def test_higher_priority_goes_first_and_equal_goes_by_the_age_of_the_task() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    arrive(desk, attempt("young", seq=1, at=20.0))
    arrive(desk, attempt("old", seq=2, at=10.0))
    arrive(desk, attempt("urgent", seq=3, at=30.0, priority=TaskPriority.CRITICAL))
    order = []
    for _ in range(3):
        ((lane, (one,)),) = desk.assign()
        desk.begin(lane, 0.0)
        desk.advance(lane, 0.0, 1.0)
        order.append(one.task.id)
    assert order == ["urgent", "old", "young"]


def test_a_large_task_at_the_head_of_the_queue_is_not_overtaken_for_ever() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("running", seq=1, cores=2.0))
    assert started(desk) == [["running"]]
    arrive(desk, attempt("large", seq=2, cores=4.0))
    arrive(desk, attempt("small", seq=3, cores=1.0))
    assert started(desk) == []
    lane = next(iter(desk.lanes.open.values()))
    desk.begin(lane, 0.0)
    desk.advance(lane, 1.0, 1.0)
    assert started(desk) == [["large"]]


@pytest.mark.parametrize(("cores", "memory_mb"), [(4.5, 10), (1.0, 1001)])
def test_what_can_never_fit_is_known_at_once(cores: float, memory_mb: int) -> None:
    assert not Desk(ROOM).lanes.ever_fits(cores, memory_mb)
    assert Desk(ROOM).lanes.ever_fits(4.0, 1000)


def test_quick_functions_are_lined_up_behind_one_runner_and_never_too_many() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    run_one(desk, duration_s=0.000_01)
    for i in range(3 * LINE_MAX):
        arrive(desk, attempt(f"t{i}", seq=i))
    assert [len(line) for line in started(desk)] == [LINE_MAX, LINE_MAX]


def test_functions_that_are_not_so_quick_are_spread_before_they_are_lined_up() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    run_one(desk, duration_s=0.004)
    for i in range(20):
        arrive(desk, attempt(f"t{i}", seq=i))
    given = desk.assign()
    assert [len(line) for _, line in given] == [5, 5]
    assert all(lane.load_s <= LINE_S + 1e-9 for lane, _ in given)


def test_slow_functions_are_never_lined_up() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    run_one(desk, duration_s=0.5)
    for i in range(3):
        arrive(desk, attempt(f"t{i}", seq=i))
    assert started(desk) == [["t0"]]


def test_a_lane_takes_only_what_needs_no_more_than_it_holds() -> None:
    desk = Desk(Room(1, 4.0, 1000))
    run_one(desk)
    arrive(desk, attempt("one", seq=1, cores=1.0))
    arrive(desk, attempt("two", seq=2, cores=2.0))
    assert started(desk) == [["one"]]


def test_a_line_goes_on_elsewhere_when_its_head_turns_out_to_be_slow() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    run_one(desk)
    for i in range(4):
        arrive(desk, attempt(f"t{i}", seq=i))
    ((lane, line),) = desk.assign()
    assert len(line) == 4
    desk.begin(lane, 10.0)
    assert desk.stuck(10.0 + STUCK_S / 2) == []
    assert desk.next_check() == 10.0 + STUCK_S
    assert desk.stuck(10.0 + STUCK_S) == [lane]
    assert desk.stuck(11.0) == [] and desk.next_check() == 110.0, "it is known: now its timeout counts"
    behind = desk.behind(lane)
    assert [a.task.id for a in behind] == ["t1", "t2", "t3"]
    assert started(desk) == [], "they may have begun: they stay until the runner has given them back"
    assert desk.withdrawn(lane, tuple(a.key for a in behind), 11.0) == (behind, None)
    assert started(desk) == [["t1", "t2", "t3"]]
    arrive(desk, attempt("t9", seq=9))
    assert lane.number not in {given.number for given, _ in desk.assign()}, "nothing is lined up behind it again"


def test_the_timeout_counts_from_the_moment_an_attempt_is_at_the_head_of_a_ready_runner() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t", timeout_s=5.0))
    ((lane, _),) = desk.assign()
    assert desk.overdue(1e9) == [] and desk.next_check() is None, "its runner is still starting"
    desk.begin(lane, 100.0)
    assert desk.overdue(104.9) == []
    assert desk.overdue(105.0) == [lane]
    desk.doom(lane)
    assert desk.overdue(200.0) == [], "it is being stopped already"


def lined_up(desk: Desk, count: int = 3, begun: bool = True) -> tuple[Lane, list[Attempt]]:
    """A lane with so many quick attempts in its line, named t0 and so on."""
    run_one(desk)
    for i in range(count):
        arrive(desk, attempt(f"t{i}", seq=i))
    ((lane, line),) = desk.assign()
    if begun:
        desk.begin(lane, 0.0)
    return lane, line


def names(attempts: Iterable[Attempt]) -> list[str]:
    return [one.task.id for one in attempts]


def test_what_a_runner_does_not_give_back_had_begun_and_goes_on() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    lane, (t0, t1, t2) = lined_up(desk)
    assert desk.withdrawn(lane, (t2.key,), 1.0) == ([t2], None)
    assert desk.advance(lane, 1.0, 0.1) is t1
    assert names(desk.waiting()) == ["t2"]
    assert t0 not in lane.line and desk.advance(lane, 1.1, 0.1) is None
    assert started(desk) == [["t2"]]


def test_a_runner_may_give_back_what_seemed_to_have_begun() -> None:
    """It was through with the one before when it was asked."""
    desk = Desk(Room(1, 1.0, 1000))
    lane, (_, t1, t2) = lined_up(desk)
    desk.advance(lane, 1.0, 0.0001)
    t1.started_at = 5.0
    arrive(desk, attempt("t3", seq=3))
    ((same, (t3,)),) = desk.assign()
    assert same is lane
    assert desk.withdrawn(lane, (t1.key, t2.key), 2.0) == ([t1, t2], t3)
    assert (lane.since, t1.started_at) == (2.0, 0.0)
    assert desk.withdrawn(lane, (t3.key,), 2.0) == ([t3], None)
    assert not desk.lanes.open, "it has nothing left"
    assert desk.withdrawn(lane, (t1.key,), 3.0) == ([], None), "it was said before"


def test_one_that_is_to_be_stopped_does_not_wait_again_when_it_is_given_back() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    lane, (_, t1, t2) = lined_up(desk)
    desk.condemn(t1, CANCELLED)
    assert desk.withdrawn(lane, (t1.key, t2.key), 1.0) == ([t1, t2], None)
    assert names(desk.waiting()) == ["t2"]


def test_nothing_of_a_stopped_runners_line_begins_elsewhere_before_it_is_gone() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    lane, (t0, t1, t2) = lined_up(desk)
    desk.condemn(t0, CANCELLED)
    assert desk.doom(lane) and not desk.doom(lane)
    assert started(desk) == [] and desk.waiting() == []
    buried = desk.bury(lane, Last(t0.key, 0))
    assert buried == Buried(stopped=((t0, True),), again=(t1, t2))
    desk.close(t0)
    desk.settle(t0, final=True)
    assert started(desk) == [["t1", "t2"]]


def test_what_a_stopped_runner_had_begun_besides_is_told() -> None:
    """It was through with the head when it was stopped for it, and had turned to the next."""
    desk = Desk(Room(1, 1.0, 1000))
    lane, (t0, t1, t2) = lined_up(desk)
    desk.condemn(t0, CANCELLED)
    desk.doom(lane)
    assert desk.bury(lane, Last(t1.key, t0.key)) == Buried(stopped=((t0, True),), cut=(t1,), again=(t2,))


def test_a_stopped_runner_may_still_tell_what_it_is_through_with_but_not_of_what_it_was_stopped_for() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    lane, (t0, t1, t2) = lined_up(desk)
    desk.condemn(t0, CANCELLED)
    desk.doom(lane)
    assert desk.told_late(lane, t0.key, 0.1) is None
    assert desk.told_late(lane, t1.key, 0.1) is t1
    assert desk.bury(lane, Last(t2.key, t1.key)) == Buried(stopped=((t0, True),), cut=(t2,))


def test_a_cancel_counts_also_where_it_is_being_stopped_for_another_reason() -> None:
    """It was dropped, came again under a newer number, and was cancelled: it must not begin once more."""
    desk = Desk(ROOM)
    arrive(desk, attempt("t", 1))
    ((lane, (one,)),) = desk.assign()
    desk.begin(lane, 0.0)
    desk.condemn(one, DROPPED)
    desk.doom(lane)
    arrive(desk, attempt("t", 2, seq=1))
    assert one.renewed, "the drop was not meant for the newer number"
    desk.condemn(one, CANCELLED)
    assert desk.bury(lane, Last(one.key, 0)) == Buried(stopped=((one, True),))
    assert (one.stop_why, one.renewed) == (CANCELLED, False)


def test_no_other_reason_takes_the_place_of_the_first() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t", 1))
    ((_, (one,)),) = desk.assign()
    desk.condemn(one, CANCELLED)
    arrive(desk, attempt("t", 2, seq=1))
    desk.condemn(one, "the node is going down")
    assert (one.stop_why, one.renewed) == (CANCELLED, True)


# A runner that ended by itself: `begun` and `through` are places in the line of three, counted from 1.


@pytest.mark.parametrize(
    ("begun", "through", "blamed", "cut", "again"),
    [
        (0, 0, "t0", [], ["t1", "t2"]),  # before it began anything: that must not go on for ever
        (1, 0, "t0", [], ["t1", "t2"]),
        (2, 1, "t1", ["t0"], ["t2"]),  # t0 was through, and its answer had not been sent
        (3, 2, "t2", ["t0", "t1"], []),
        (1, 1, None, ["t0"], ["t1", "t2"]),  # between two
        (3, 3, None, ["t0", "t1", "t2"], []),
    ],
)
def test_the_one_on_which_a_runner_ended_is_blamed_and_what_it_had_not_begun_waits_again(
    begun: int, through: int, blamed: str | None, cut: list[str], again: list[str]
) -> None:
    desk = Desk(Room(2, 2.0, 1000))
    lane, line = lined_up(desk, begun=begun > 0)
    before = line[0].key - 1  # of what the runner did earlier
    buried = desk.bury(lane, Last(before + begun, before + through))
    assert (buried.blamed and buried.blamed.task.id) == blamed
    assert buried.began is (blamed is not None and begun > 0)
    assert (names(buried.cut), names(buried.again), buried.stopped) == (cut, again, ())
    assert not desk.lanes.open and names(desk.waiting()) == again


def test_where_a_runner_can_write_nothing_down_none_of_several_is_blamed_until_it_dies_alone() -> None:
    """It may have been through with the first and not have said so yet."""
    desk = Desk(Room(2, 2.0, 1000))
    lane, _ = lined_up(desk)
    assert names(desk.bury(lane, None).again) == ["t0", "t1", "t2"]
    arrive(desk, attempt("t3", seq=3))
    alone = desk.assign()
    assert [names(attempts) for _, attempts in alone] == [["t0"], ["t1"]], "nothing stands behind them"
    first, (t0,) = alone[0]
    desk.begin(first, 1.0)
    assert desk.bury(first, None) == Buried(t0, True), "now it can only have been t0"
    desk.close(t0)
    assert started(desk) == [["t2"]]


# Arriving again.


def test_a_redelivery_of_what_is_held_adopts_the_new_reply_and_starts_nothing() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t", seq=1))
    assert arrive(desk, attempt("t", seq=1)) == (Taken.ADOPTED, "")
    assert started(desk) == [["t"]]
    assert arrive(desk, attempt("t", seq=7)) == (Taken.ADOPTED, "")
    assert started(desk) == []
    held = desk.held["t"]
    desk.close(held)
    assert arrive(desk, attempt("t", seq=9)) == (Taken.ADOPTED, "")
    assert desk.settle(held, final=True) == "reply-t-1-9"


def test_a_redelivery_of_what_has_ended_is_acked_again() -> None:
    desk = Desk(ROOM)
    run_one(desk, "f")
    again = attempt("learn-f", seq=5)
    assert desk.take(again) == (Taken.SETTLED, again.reply)


def test_a_newer_placement_of_a_waiting_task_keeps_its_turn_and_its_inputs_under_the_new_number() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    arrive(desk, attempt("blocker", seq=1))
    desk.assign()
    older = attempt("t", 1, seq=2)
    arrive(desk, older)
    older.inputs, older.fetched = (b"fetched",), True
    older_reply, newer = older.reply, attempt("t", 4, seq=3)
    assert arrive(desk, newer) == (Taken.REBASED, older_reply)
    assert desk.waiting() == [older]
    assert (older.placement, older.reply, older.inputs, older.fetched) == (4, newer.reply, (b"fetched",), True)


def test_a_newer_placement_of_a_running_task_lets_it_go_on_under_the_new_number() -> None:
    desk = Desk(ROOM)
    older = attempt("t", 1, seq=2)
    arrive(desk, older)
    desk.assign()
    assert arrive(desk, attempt("t", 2, seq=3)) == (Taken.REBASED, older_reply := "reply-t-1-2")
    assert older_reply != desk.held["t"].reply == "reply-t-2-3"
    assert desk.held["t"].placement == 2
    assert started(desk) == []


def test_an_older_placement_than_the_held_one_is_settled_by_it() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t", 5, seq=5))
    old = attempt("t", 3, seq=3)
    assert desk.take(old) == (Taken.SETTLED, old.reply)


def test_after_an_outcome_only_a_higher_placement_starts_anew() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t", 1))
    desk.close(held := desk.held["t"])
    desk.settle(held, final=False)
    assert desk.take(attempt("t", 1))[0] is Taken.SETTLED
    assert desk.take(attempt("t", 2))[0] is Taken.NEW


def test_a_number_that_was_cancelled_here_is_used_up_for_any_other_message() -> None:
    """A deposed coordinator gave it out, and its successor, which had it cancelled, may do so again."""
    desk = Desk(ROOM)
    arrive(desk, stray := attempt("t", 2, seq=5))
    desk.close(stray)
    desk.settle(stray, final=False, cancelled=True)
    assert desk.take(attempt("t", 2, seq=5))[0] is Taken.SETTLED  # its ack was lost
    other = attempt("t", 2, seq=9)
    assert desk.take(other) == (Taken.USED_UP, "")
    desk.close(other)
    desk.settle(other, final=False)  # it was handed back
    assert desk.take(attempt("t", 2, seq=9))[0] is Taken.SETTLED
    assert desk.take(attempt("t", 3, seq=10))[0] is Taken.NEW


def test_after_a_result_no_placement_starts_any_more() -> None:
    desk = Desk(ROOM)
    run_one(desk, "f")
    assert desk.take(attempt("learn-f", 99))[0] is Taken.SETTLED


def test_what_was_dropped_is_new_when_it_comes_again() -> None:
    desk = Desk(ROOM)
    arrive(desk, attempt("t"))
    desk.forget(desk.held["t"])
    assert started(desk) == []
    assert arrive(desk, attempt("t", seq=2))[0] is Taken.NEW


def test_what_ended_is_remembered_for_the_latest_tasks_only() -> None:
    recent = Recent()
    recent.add("first", 1, final=True)
    for i in range(RECENT_MAX):
        recent.add(f"t{i}", 1, final=True)
    assert recent.settles("first", 1)
    for i in range(RECENT_MAX):
        recent.add(f"u{i}", 1, final=True)
    assert not recent.settles("first", 1)
    assert all(recent.settles(f"u{i}", 1) for i in range(RECENT_MAX))


def test_what_ends_again_is_remembered_by_all_that_is_known_of_it() -> None:
    recent = Recent()
    recent.add("t", 3, final=False)
    for i in range(RECENT_MAX):
        recent.add(f"t{i}", 1, final=True)
    recent.add("t", 2, final=False)
    assert recent.settles("t", 3) and not recent.settles("t", 4)


def test_an_older_placement_that_ends_late_takes_nothing_back() -> None:
    recent = Recent()
    recent.add("t", 3, final=True)
    recent.add("t", 2, final=False)
    assert recent.settles("t", 4)


# Telling.


def test_a_report_lists_what_waits_runs_and_closes() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    arrive(desk, attempt("a", seq=1))
    arrive(desk, attempt("b", seq=2))
    desk.assign()
    assert [(h.task, h.running) for h in desk.report()] == [("a", True), ("b", False)]
    desk.close(desk.held["a"])
    assert {(h.task, h.running) for h in desk.report()} == {("a", True), ("b", False)}


def test_chunks_are_estimated_by_their_items_and_programs_never() -> None:
    chunk = attempt_of(Task("t", "me", MapRun("f", "job", 0, 500)), Work(Raw(b"{}"), History()), 1, "r")
    assert (chunk.pace, chunk.items) == ("map:f", 500)
    program = attempt_of(Task("t", "me", CommandRun(("true",))), Work(Raw(b"{}"), History()), 1, "r")
    assert (program.pace, program.items) == ("command", 1)


# Whatever comes, in whatever order.


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, redeliveries, starts, ends and stops in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(Room(2, 3.0, 300))
        self.now = 0.0
        self.seq = 0
        self.ended: Counter[tuple[str, int]] = Counter()
        self.accepted: set[tuple[str, int]] = set()
        self.settled_by_other: set[tuple[str, int]] = set()
        self.dropped: set[tuple[str, int]] = set()

    @rule(
        task=st.sampled_from("abcdefgh"), placement=st.integers(1, 4), cores=st.sampled_from([1.0, 2.0, 3.0]),
        memory_mb=st.sampled_from([0, 100, 300]), name=st.sampled_from("fg"), priority=st.sampled_from(TaskPriority),
    )  # fmt: skip
    def arrives(
        self, task: str, placement: int, cores: float, memory_mb: int, name: str, priority: TaskPriority
    ) -> None:
        self.seq += 1
        new = attempt(task, placement, seq=self.seq, cores=cores, memory_mb=memory_mb, name=name, priority=priority)
        before = self.desk.held.get(task)
        old = before and (task, before.placement)
        taken, _ = arrive(self.desk, new)
        key = (task, placement)
        if taken is Taken.NEW:
            assert key not in self.accepted or key in self.dropped, "a redelivery started something"
            self.dropped.discard(key)
            self.accepted.add(key)
        elif taken is Taken.REBASED:
            self.dropped.discard(key)
            self.accepted.add(key)
        if old and old != key and taken in (Taken.NEW, Taken.REBASED):
            self.settled_by_other.add(old)

    @rule()
    def starts(self) -> None:
        for lane, _ in self.desk.assign():
            if lane.since is None and lane.number % 2:  # every other runner is ready at once
                self.desk.begin(lane, self.now)

    def lanes(self, begun: bool) -> list[Lane]:
        return [lane for lane in self.desk.lanes.open.values() if (lane.since is not None) == begun]

    @precondition(lambda self: self.lanes(begun=False))
    @rule()
    def a_runner_is_ready(self) -> None:
        self.desk.begin(self.lanes(begun=False)[0], self.now)

    @precondition(lambda self: any(not lane.doomed for lane in self.lanes(begun=True)))
    @rule(duration_s=st.sampled_from([0.0001, 0.003, 1.0]), good=st.booleans())
    def a_head_ends(self, duration_s: float, good: bool) -> None:
        lane = next(lane for lane in self.lanes(begun=True) if not lane.doomed)
        head = lane.line[0]
        self.now += duration_s
        self.desk.advance(lane, self.now, duration_s)
        self.desk.close(head)
        head.estimate_s = 1.0 if good else 0.0  # carries on whether it ended well

    @precondition(lambda self: self.desk.closing)
    @rule()
    def the_store_answers(self) -> None:
        one = next(iter(self.desk.closing.values()))[0]
        self.ended[(one.task.id, one.placement)] += 1
        self.desk.settle(one, final=one.estimate_s > 0)

    @precondition(lambda self: self.desk.lanes.open)
    @rule(number=st.integers(0, 9), cancel=st.booleans())
    def one_in_a_line_is_to_be_stopped(self, number: int, cancel: bool) -> None:
        lane = next(iter(self.desk.lanes.open.values()))
        self.desk.condemn(lane.line[number % len(lane.line)], CANCELLED if cancel else "drained")
        if number == 0:
            self.desk.doom(lane)

    @precondition(lambda self: self.desk.lanes.open)
    @rule(begun=st.integers(0, 3), through=st.integers(0, 3), known=st.booleans())
    def a_runner_is_gone(self, begun: int, through: int, known: bool) -> None:
        lane = next(iter(self.desk.lanes.open.values()))
        before = lane.line[0].key - 1
        last = Last(before + begun, before + min(begun, through)) if known else None
        buried = self.desk.bury(lane, last)
        for one in (buried.blamed, *buried.cut, *(one for one, _ in buried.stopped)):
            if one is not None:
                self.desk.close(one)

    @precondition(lambda self: self.desk.lanes.open)
    @rule(first=st.integers(0, 3))
    def a_runner_gives_back(self, first: int) -> None:
        lane = next(iter(self.desk.lanes.open.values()))
        if lane.since is None or lane.doomed:
            first = max(first, 1)  # what it has not begun stays at its head
        back, _ = self.desk.withdrawn(lane, tuple(a.key for a in list(lane.line)[first:]), self.now)
        for one in back:
            if one.stop_why:
                self.desk.close(one)

    @precondition(lambda self: self.desk.waiting())
    @rule(drop=st.booleans())
    def a_waiting_one_is_taken_back(self, drop: bool) -> None:
        one = self.desk.waiting()[0]
        if drop:
            self.dropped.add((one.task.id, one.placement))
            self.desk.forget(one)
        else:
            self.desk.close(one)

    @rule()
    def a_slow_head_loses_its_line(self) -> None:
        self.now += STUCK_S
        for lane in self.desk.stuck(self.now):
            self.desk.withdrawn(lane, tuple(a.key for a in self.desk.behind(lane) if not a.stop_why), self.now)

    @invariant()
    def never_more_than_the_room(self) -> None:
        lanes = list(self.desk.lanes.open.values())
        assert len(lanes) <= 2
        assert sum(lane.cores for lane in lanes) <= 3.0
        assert sum(lane.memory_mb for lane in lanes) <= 300
        for lane in lanes:
            assert lane.line, "a lane without work holds room for nothing"
            assert all(a.task.needs.cores <= lane.cores for a in lane.line)
            assert all(a.task.needs.memory_mb <= lane.memory_mb for a in lane.line)

    @invariant()
    def each_attempt_is_in_one_place(self) -> None:
        lined = [a for lane in self.desk.lanes.open.values() for a in lane.line]
        assert len(lined) == len(set(map(id, lined)))
        assert {id(a) for a in lined} == {id(a) for a in self.desk.held.values() if a.place is Place.LINED}
        here = {(a.task.id, a.placement) for a in self.desk.everything()}
        for key in self.accepted:
            gone = self.ended[key] + (key in self.settled_by_other) + (key in self.dropped)
            assert (key in here) != (gone >= 1), "an accepted placement is here, or has ended"
            assert self.ended[key] <= 1, "and ends once"

    def teardown(self) -> None:
        """Let everything run out: nothing may be left over."""
        for _ in range(500):
            self.starts()
            for lane in self.lanes(begun=False):
                self.desk.begin(lane, self.now)
            for lane in self.lanes(begun=True):
                head = lane.line[0]
                self.desk.advance(lane, self.now, 0.001)
                self.desk.close(head)
            for attempts in list(self.desk.closing.values()):
                for one in attempts:
                    self.desk.settle(one, final=True)
            self.never_more_than_the_room()
        assert not list(self.desk.everything())
        assert not self.desk.lanes.open


AnyOrder.TestCase.settings = settings(stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase
