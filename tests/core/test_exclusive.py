"""Exclusive work: leases as the coordinator grants them and as the node keeps them, and that nothing runs twice at a time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Raw

from coordinator.core import actions as a
from coordinator.core import events as e
from node.core.attempts import Place, Taken, attempt_of
from node.core.desk import Desk
from node.core.lanes import Lane, Room
from schemas import limits
from schemas.membership import Heartbeat, Held, Renewed
from schemas.task import FunctionRun, History, Needs, OutcomeKind, Retry, Task, Work
from tests.core.world import World

LONGEST_S = limits.EXCLUSIVE_LEASE_S + limits.EXCLUSIVE_MARGIN_S


def ask(w: World, node: str, *held: Held) -> Renewed:
    """A beat that asks, and its answer."""
    view = w.state.nodes[node]
    w.beats[node] = seq = w.beats.get(node, -1) + 1
    held = held or tuple(Held(t.id, t.history.placement, True) for t in view.attempts.values())
    beat = Heartbeat(node, view.boot, seq, w.now, next_due_s=5.0, full=not seq, seen_seq=w.seq, held=held)
    w.feed(e.Beat(beat, "_INBOX.x"))
    said = [action for action in w.all if isinstance(action, a.Renew)]
    return said[-1].renewed


def fleet(*nodes: str, term: int = 1) -> World:
    w = World(term)
    for node in nodes or ("n1", "n2"):
        w.join(node)
    return w


def placed(w: World, **more: object) -> str:
    """An exclusive task at a node; returns which."""
    w.submit("t1", exclusive=True, **more)
    return w.node_of("t1")


def places(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("place ")]


# The coordinator.


def test_an_answer_grants_what_is_exclusive_and_counts() -> None:
    w = fleet("n1")
    placed(w)
    w.submit("plain")
    renewed = ask(w, "n1", Held("t1", 1, False), Held("plain", 1, True), Held("other", 1, True))
    assert renewed == Renewed(1, 1, limits.EXCLUSIVE_LEASE_S, (("t1", 1),))
    assert ask(w, "n1", Held("t1", 2, False)).tasks == (), "another placement than the one that counts"


def test_an_exclusive_task_of_a_lost_node_moves_when_its_lease_must_have_ended_there() -> None:
    """Also where the connection closed and nobody answers: a node that is cut off looks the same."""
    w = fleet()
    first = placed(w)
    ask(w, first)
    assert places(w.kill(first)) == []
    assert w.states() == {"t1": "waiting"} and "lease has not ended" in w.state.tasks["t1"].reason
    assert places(w.wait(LONGEST_S - 1, beating=None)) == []
    lines = w.wait(2, beating=None)
    assert [line for line in lines if line.startswith(("ask", "place"))][:1] == ["ask t1"], "RESULTS is asked again"
    assert places(lines) == [f"place t1.2 at {'n2' if first == 'n1' else 'n1'}"]


def test_what_was_never_granted_never_ran_and_moves_at_once() -> None:
    w = fleet()
    assert len(places(w.kill(placed(w)))) == 1


def test_other_work_of_a_lost_node_does_not_wait() -> None:
    w = fleet()
    w.submit("t1", node="")
    assert len(places(w.kill(w.node_of("t1")))) == 1


def test_what_its_node_told_the_end_of_moves_at_once() -> None:
    w = fleet()
    first = placed(w)
    ask(w, first)
    lines = w.outcome("t1", OutcomeKind.RETURNED, started=False)
    assert len(places(lines + w.wait(1.5, beating=None))) == 1


def test_a_node_that_comes_back_within_its_lease_goes_on_with_it() -> None:
    w = fleet()
    first = placed(w)
    ask(w, first)
    w.kill(first)
    w.wait(3, beating=("n1", "n2"))
    assert ask(w, first, Held("t1", 1, True)).tasks == (("t1", 1),)
    assert w.states() == {"t1": "placed"}
    for _ in range(5):
        assert places(w.wait(4, beating=("n1", "n2"))) == []
        ask(w, first)


def test_a_result_that_comes_while_the_lease_is_waited_for_ends_the_task() -> None:
    w = fleet()
    first = placed(w)
    ask(w, first)
    w.kill(first)
    w.done("t1", node=first)
    assert places(w.wait(2 * LONGEST_S, beating=None)) == [] and not w.states()


def test_after_a_takeover_a_lost_nodes_exclusive_task_waits_for_one_full_lease_from_then() -> None:
    """The new term does not know what the old one granted last."""
    old = fleet()
    first = placed(old)
    ask(old, first)
    w = World(0)
    w.now, w.seq = old.now + 2, old.seq
    w.records = old.records
    for record, revision in old.records.values():
        w.feed(e.NodeKnown(record, revision))
    head, where = old.heads["t1"], old.where["t1"]
    w.feed(e.WorkFound(head, History(placement=1), where[0], e.Source("work", where[1]), None))
    w.feed(e.TakenOver("c2", 2))
    began = w.now
    w.join("n1" if first == "n2" else "n2")
    assert places(w.wait(LONGEST_S - 1, beating=(("n1" if first == "n2" else "n2"),))) == []
    assert len(places(w.wait(15, beating=(("n1" if first == "n2" else "n2"),)))) == 1
    assert w.now - began < LONGEST_S + 15


# The node.


def attempt(task: str = "t1", placement: int = 1):  # type: ignore[no-untyped-def]
    made = Task(task, "me", FunctionRun("f"), exclusive=True, needs=Needs())
    one = attempt_of(made, Work(Raw(b"{}"), History(placement=placement)), 1, "r")
    one.alone = True
    return one


def test_exclusive_work_without_a_lease_does_not_start_and_holds_up_nobody() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    one = attempt()
    other = attempt_of(Task("t2", "me", FunctionRun("f")), Work(Raw(b"{}"), History(placement=1)), 2, "r2")
    for each in (one, other):
        desk.take(each)
        desk.queue(each)
    assert [lane.line[0] for lane, _ in desk.assign(100.0)] == [other]
    assert one.place is Place.UNLEASED and one in desk.waiting()
    assert desk.grant("t1", 2, 110.0) is None, "a grant for another placement"
    assert desk.grant("t1", 1, 110.0) is one
    assert desk.assign(110.0) == [], "it had to wait for so long that it ended"
    desk.grant("t1", 1, 120.0)
    ((lane, _),) = desk.assign(110.5)
    assert desk.unleased(119.9) == [] and desk.unleased(120.0) == [lane]


def test_a_late_answer_does_not_shorten_a_lease() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    one = attempt()
    desk.take(one)
    desk.queue(one)
    desk.grant("t1", 1, 120.0)
    desk.grant("t1", 1, 115.0)
    assert one.leased_until == 120.0


# Both, with clocks that differ in speed, links that are cut, answers that are late, and coordinators that die.


class Node:
    """The part of a node that leases are about. Its clock runs at `speed` from some other start."""

    def __init__(self, name: str, speed: float) -> None:
        self.name, self.speed = name, speed
        self.desk = Desk(Room(1, 1.0, 1000))
        self.linked = True
        self.lanes: list[Lane] = []
        self.stopping: list[tuple[float, Lane]] = []  # with the real times at which the process is gone at the latest
        self.answers: list[tuple[float, Renewed]] = []

    def ticks(self, now: float) -> float:
        return 7000.0 + now * self.speed

    def arrive(self, placement: int) -> None:
        one = attempt("t1", placement)
        if self.desk.take(one)[0] is Taken.NEW:
            self.desk.queue(one)

    def look(self, now: float) -> None:
        """What a daemon does every moment: end what is over, start what may."""
        ticks = self.ticks(now)
        for lane in self.desk.unleased(ticks):
            self.stop(lane, now)
        for at, lane in self.stopping:
            if at <= now:
                ((head, _),) = self.desk.bury(lane, None).stopped
                self.desk.forget(head)  # the worst case: that it was stopped is told to nobody
        self.stopping = [one for one in self.stopping if one[0] > now]
        self.lanes += [lane for lane, _ in self.desk.assign(ticks)]

    def stop(self, lane: Lane, now: float) -> None:
        self.desk.condemn(lane.line[0], "over")
        self.desk.doom(lane)
        self.lanes.remove(lane)
        self.stopping.append((now + limits.EXCLUSIVE_STOP_S / self.speed, lane))

    def running(self) -> int:
        return len(self.lanes) + len(self.stopping)


class NeverTwice(RuleBasedStateMachine):
    """One exclusive task that never ends, two nodes, and whatever can go wrong between them and their coordinators."""

    def __init__(self) -> None:
        super().__init__()
        self.w = fleet()
        self.nodes = {"n1": Node("n1", 0.93), "n2": Node("n2", 1.07)}
        self.term = 1
        self.w.submit("t1", exclusive=True, timeout_s=1e6, retry=Retry(limit=100))

    def deliver(self) -> None:
        """WORK reaches the node where it lies, if the link is up."""
        task = self.w.state.tasks.get("t1")
        node = self.nodes.get(self.w.where["t1"][0])
        if node is not None and node.linked and task is not None:
            node.arrive(task.source_placement)

    def look(self) -> None:
        self.deliver()
        for node in self.nodes.values():
            node.look(self.w.now)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]), times=st.integers(1, 8))
    def time_passes(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.look()
            self.w.now += seconds / 4
            self.look()
            self.w.feed(e.Tick())

    @rule(late=st.booleans())
    def the_nodes_ask(self, late: bool) -> None:
        """Most answers come at once, some when they are of little use."""
        for node in self.nodes.values():
            if node.linked and node.name in self.w.state.nodes:
                self.node_asks(node)
                if not late:
                    self.answered(node, lost=False)

    def node_asks(self, node: Node) -> None:
        held = tuple(Held(one.task.id, one.placement, True) for one in node.desk.everything())
        sent = node.ticks(self.w.now)
        node.answers.append((sent, ask(self.w, node.name, *(held or (Held("none", 1, False),)))))

    @precondition(lambda self: any(node.answers for node in self.nodes.values()))
    @rule(name=st.sampled_from(["n1", "n2"]), lost=st.booleans())
    def an_answer_arrives_or_is_lost(self, name: str, lost: bool) -> None:
        self.answered(self.nodes[name], lost)

    def answered(self, node: Node, lost: bool) -> None:
        if node.answers:
            sent, renewed = node.answers.pop(0)
            if not lost and node.linked:
                for task, placement in renewed.tasks:
                    node.desk.grant(task, placement, sent + renewed.lease_s - limits.EXCLUSIVE_STOP_S)
        self.look()

    @rule(name=st.sampled_from(["n1", "n2"]))
    def a_link_breaks(self, name: str) -> None:
        self.nodes[name].linked = False
        self.w.kill(name)

    @rule(name=st.sampled_from(["n1", "n2"]))
    def a_link_comes_back(self, name: str) -> None:
        node = self.nodes[name]
        node.linked = True
        held = tuple(Held(one.task.id, one.placement, True) for one in node.desk.everything())
        self.w.join(name, held=held)
        kept = self.w.state.nodes[name].attempts
        for one in list(node.desk.everything()):
            if one.task.id not in kept:
                lane = node.desk.lane_of(one.task.id)
                if lane is None:
                    node.desk.forget(one)
                elif lane in node.lanes:
                    node.stop(lane, self.w.now)
        self.look()

    @rule()
    def another_coordinator_takes_over(self) -> None:
        old, self.term = self.w, self.term + 1
        task, where = old.state.tasks["t1"], old.where["t1"]
        w = World(0)
        w.now, w.seq, w.heads, w.beats = old.now, old.seq, old.heads, old.beats
        w.records, w.where = old.records, dict(old.where)
        for record, revision in w.records.values():
            w.feed(e.NodeKnown(record, revision))
        history = History(placement=task.source_placement)
        w.feed(e.WorkFound(old.heads["t1"], history, where[0], e.Source("work", where[1]), None, task.not_before))
        w.feed(e.TakenOver(f"c{self.term}", self.term))
        self.w = w
        for node in self.nodes.values():
            if node.linked:
                self.a_link_comes_back(node.name)

    @invariant()
    def it_runs_at_one_place_at_most(self) -> None:
        self.look()
        assert sum(node.running() for node in self.nodes.values()) <= 1


TestNeverTwice = NeverTwice.TestCase
TestNeverTwice.settings = settings(stateful_step_count=40)
