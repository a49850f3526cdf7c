"""The core against a broker that answers late, out of order and twice, with nodes that die: what must hold at every moment.

The broker here keeps messages; a task that has no result must lie in at least one of them after every single step (the
streams alone are enough), whatever the core forgot. In the end every task has exactly one result and nothing is left over.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core.machine import pump, step
from schemas import limits
from schemas.membership import Held, NodeState
from schemas.task import Outcome, OutcomeKind, ResultHead, ResultState, Retry
from tests.core.world import World, after, line

NODES = ("n1", "n2", "n3")
SIZES = {"n1": 1.0, "n2": 2.0, "n3": 4.0}
pick = st.integers(0, 10_000)


class Message(msgspec.Struct, frozen=True):
    """What lies in a stream. `history` is a WORK message's; `node` its queue."""

    stream: str
    task: str
    node: str = ""
    history: Any = None


def success(message: Message, node: str, ms: float) -> ResultHead:
    """What the node records."""
    return ResultHead(message.task, "ann", ResultState.SUCCEEDED, node, message.history.placement, 1, duration_ms=ms)


class Fleet(RuleBasedStateMachine):
    """The rules are what the world may do; each feeds one event, or makes one that waits to be delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.w = World()
        self.w.hold = True  # nothing is answered by itself
        self.messages: dict[int, Message] = {}
        self.seen: dict[str, int] = {}  # Nats-Msg-Id of WORK → its sequence
        self.results: dict[str, ResultHead] = {}
        self.refused = 0
        self.trace: list[str] = []
        self.submitted: list[str] = []
        self.due: list[e.Event] = []  # events on their way
        self.taken: list[tuple[str, int, Message]] = []  # a node holds it, maybe running
        self.ended: dict[str, list[str]] = {}
        self.cancels: set[str] = set()

    # the broker

    def store(self, message: Message) -> int:
        self.w.seq += 1
        self.messages[self.w.seq] = message
        return self.w.seq

    def result(self, head: ResultHead) -> bool:
        """The first one counts; it is republished."""
        if head.task in self.results:
            self.refused += 1
            return False
        self.results[head.task] = head
        self.due.append(e.ResultSeen(head))
        return True

    def feed(self, *events: e.Event) -> None:
        wanted: list[a.Action] = []
        for event in events:
            self.trace.append(f"  {event!r:.300}")
            wanted += step(self.w.state, event, self.w.now)
            self.kept()
        wanted += pump(self.w.state, self.w.now)
        for action in wanted:
            if isinstance(action, a.Place) and action.node in NODES:
                self.has_room(action.node)
            self.do(action)
        self.kept()

    def do(self, action: a.Action) -> None:
        self.trace.append(
            f"{line(action)} {self.messages.get(action.source.seq) if isinstance(action, a.Remove) else ''!r:.80}"
        )
        if isinstance(action, a.Place):
            key = f"{action.task}.{action.history.placement}"
            again = self.seen.get(key)
            if again is not None:
                self.due.append(
                    e.Placed(
                        action.task, action.history.placement, again, "there" if again in self.messages else "gone"
                    )
                )
                return
            if (
                action.source.seq not in self.messages
            ):  # no body to be had: its node acked it, for an end that is under way
                self.due.append(e.PlaceFailed(action.task, action.history.placement, "gone", gone=action.source))
                return
            seq = self.store(Message("work", action.task, action.node, action.history))
            self.seen[key] = seq
            self.due.append(e.Placed(action.task, action.history.placement, seq))
        elif isinstance(action, a.Remove):
            self.messages.pop(action.source.seq, None)
        elif isinstance(action, a.Conclude):
            stored = self.result(ResultHead(action.task, action.submitter, action.state, action.node, action.placement))
            self.due.append(e.Concluded(action.task, refused=not stored, placement=action.placement))
        elif isinstance(action, a.AskResults):
            self.due.append(e.ResultsAsked({t: self.results.get(t) for _, t in action.tasks}))
        elif isinstance(action, a.StoreNode):
            for event in self.w.answer(action):
                self.due.append(event)
        elif isinstance(action, a.Command) and action.verb == "cancel":
            self.stop(action.node, {action.task, *action.tasks})
        elif isinstance(action, a.Emit) and action.kind.split(".")[1] in (
            "succeeded",
            "failed",
            "cancelled",
            "expired",
        ):
            self.ended.setdefault(action.about, []).append(action.key)

    def stop(self, node: str, tasks: set[str]) -> None:
        """A node stops what it holds of these, and acks it."""
        for held in [t for t in self.taken if t[0] == node and t[2].task in tasks]:
            self.taken.remove(held)
            self.messages.pop(held[1], None)
        self.kept()

    # the world

    @initialize()
    def start(self) -> None:
        for name in NODES[:2]:
            self.join(name)

    def join(self, name: str, session: str = "s1") -> None:
        self.w.join(name, cores=SIZES[name], memory_mb=1000, session=session)
        while self.w.held_back:
            self.do(self.w.held_back.pop(0))
        for action in self.w.all:
            if isinstance(action, a.Place | a.AskResults | a.Conclude):
                raise AssertionError(action)

    @rule(
        number=pick,
        priority=st.sampled_from([1, 3, 7, 10]),
        cores=st.sampled_from([0.5, 1.0, 4.0]),
        memory=st.sampled_from([64, 600]),
        limit=st.integers(0, 2),
        deadline=st.sampled_from([None, None, None, 20.0]),
        function=st.sampled_from(["echo", "sleep", "nobody"]),
    )
    def submit(
        self, number: int, priority: int, cores: float, memory: int, limit: int, deadline: float | None, function: str
    ) -> None:
        task = f"t{len(self.submitted)}"
        event = self.w.arrive(
            task, function, priority=priority, cores=cores, memory_mb=memory, deadline_s=deadline,
            retry=Retry(limit, 0.5), maybe_done=number % 5 == 0,
        )  # fmt: skip
        self.messages[event.source.seq] = Message("tasks", task)
        self.submitted.append(task)
        self.feed(event)
        if number % 7 == 0:
            self.due.append(msgspec.structs.replace(event, maybe_done=True))  # redelivered

    @rule(number=pick, twice=st.booleans())
    def deliver(self, number: int, twice: bool) -> None:
        """One of the events on their way arrives, maybe again later."""
        if self.due:
            event = self.due.pop(number % len(self.due))
            self.feed(event)
            if twice:
                self.due.append(event)

    @rule(number=pick)
    def deliver_some(self, number: int) -> None:
        """What is oldest of the events on their way arrives."""
        for _ in range(1 + number % 4):
            if self.due:
                self.feed(self.due.pop(0))

    @rule()
    def deliver_all(self) -> None:
        events, self.due = self.due, []
        self.feed(*events)

    @rule(number=pick)
    def take(self, number: int) -> None:
        """A living node pulls one of its messages."""
        living = [n for n in NODES if n in self.w.state.nodes and self.w.state.nodes[n].state is not NodeState.LOST]
        held = {seq for _, seq, _ in self.taken}
        free = [(s, m) for s, m in self.messages.items() if m.stream == "work" and m.node in living and s not in held]
        if free:
            seq, message = free[number % len(free)]
            self.taken.append((message.node, seq, message))

    @rule(number=pick, how=st.sampled_from(["done", "done", "done", "failed", "returned", "refused"]))
    def end(self, number: int, how: str) -> None:
        """An attempt ends: a result, or an outcome; only then is its WORK message acked."""
        if not self.taken:
            self.take(number)
        if not self.taken:
            return
        node, seq, message = self.taken.pop(number % len(self.taken))
        if how == "done":
            self.result(success(message, node, float(number % 3000)))
        else:
            kind, started = OutcomeKind(how), how == "failed" or (how == "returned" and number % 2 == 0)
            history = after(message.history, kind, node, how, started=started)
            outcome = Outcome(msgspec.Raw(b"{}"), history, kind, node, 1, how, started=started)
            stored = self.store(Message("outcomes", message.task))
            self.due.append(
                e.OutcomeArrived(self.w.heads[message.task], outcome, e.Source("outcomes", stored, f"o{stored}"))
            )
        self.messages.pop(seq, None)

    @rule(number=pick, announced=st.booleans())
    def die(self, number: int, announced: bool) -> None:
        """With what it held; or it is only cut off, and comes back with it."""
        living = [n for n in self.w.state.nodes.values() if n.state is not NodeState.LOST]
        if not living:
            return
        node = living[number % len(living)].id
        if number % 3 or not announced:
            self.taken = [t for t in self.taken if t[0] != node]
        if announced:
            self.feed(e.Disconnected(node, "Client Closed"))
            self.feed(e.ProbeEnded(node, None, no_responders=True))

    @rule(number=pick, name=st.sampled_from(NODES))
    def come(self, number: int, name: str) -> None:
        """A node is (re)started: what it held is gone with its daemon, and its answer keeps nothing."""
        self.taken = [t for t in self.taken if t[0] != name]
        self.register(name, f"s{number}")

    def register(self, name: str, session: str) -> None:
        w = self.w
        w.all.clear()
        w.join(name, cores=SIZES[name], memory_mb=1000, session=session)
        w.held_back.clear()
        wanted, w.all = w.all, []
        for action in wanted:
            self.do(action)

    @rule(name=st.sampled_from(NODES))
    def beat(self, name: str) -> None:
        node = self.w.state.nodes.get(name)
        if node is None:
            return
        held = tuple(Held(m.task, m.history.placement, True) for n, _, m in self.taken if n == name)
        seen = max((s for n, s, _ in self.taken if n == name), default=0)
        self.w.all.clear()
        self.w.beat(name, held=held, seen_seq=seen)
        self.w.held_back.clear()
        wanted, self.w.all = self.w.all, []
        for action in wanted:
            self.do(action)

    @rule(number=pick)
    def cancel(self, number: int) -> None:
        if self.submitted and number % 3 == 0:
            task = self.submitted[number % len(self.submitted)]
            self.cancels.add(task)
            self.feed(e.CancelAsked(task, "ann"))

    @rule()
    def forget(self) -> None:
        """So many tasks have ended meanwhile that their ids are not remembered: RESULTS knows."""
        self.w.state.done.clear()
        self.w.state.done_why.clear()

    @rule(seconds=st.sampled_from([0.1, 0.6, 2.5, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.w.now += seconds
        self.feed(e.Tick())

    # what must hold

    def kept(self) -> None:
        """A task without a result lies in some stream."""
        lying = {m.task for m in self.messages.values()}
        for task in self.submitted:
            assert task in lying or task in self.results, self.story(task)

    def story(self, task: str) -> str:
        """What happened to a task that is in no stream."""
        return f"{task} is in no stream:\n" + "\n".join(x for x in self.trace if task in x)

    @invariant()
    def accounts_are_the_sum_of_what_is_held(self) -> None:
        for node in self.w.state.nodes.values():
            held = list(node.attempts.values())
            assert node.count == len(held)
            assert all(t.node is node and self.w.state.tasks[t.id] is t for t in held)
            assert abs(node.cores_free - (node.cores - sum(t.cls.cores for t in held if t.cls))) < 1e-6
            assert node.memory_free == node.memory_mb - sum(t.cls.memory_mb for t in held if t.cls)
            assert abs(node.backlog_ms - sum(t.cost_ms for t in held)) < 1e-6

    def has_room(self, name: str) -> None:
        """Whatever was placed just now fits the node's cores, memory and slots, or its short queue."""
        node = self.w.state.nodes[name]
        assert node.count <= limits.NODE_QUEUE_MAX
        fits = node.count <= node.slots and node.cores_free >= -1e-9 and node.memory_free >= 0
        assert fits or node.backlog_ms <= node.queue_ms + 1e-6

    @invariant()
    def counts_match(self) -> None:
        s = self.w.state
        for priority, pending in s.pending.items():
            assert pending == sum(t.in_queue and int(t.head.priority) == priority for t in s.tasks.values())
            assert s.window[priority] == sum(t.windowed and int(t.head.priority) == priority for t in s.tasks.values())
        assert s.parked == sum(t.parked for t in s.tasks.values()) == sum(s.parked_by.values())
        assert all(n >= 0 for n in s.parking.values())

    @invariant()
    def each_task_ends_once(self) -> None:
        assert all(len(set(keys)) == 1 for keys in self.ended.values()), "once, or the same again"

    @invariant()
    def nothing_ready_is_left_waiting(self) -> None:
        """After a pump, a class with waiting tasks has no ready node."""
        assert not any(c.pending and c.ready for c in self.w.state.classes.all())

    def teardown(self) -> None:
        """Everything is delivered, every node lives, every attempt succeeds: each task has one result, nothing is left."""
        for name in NODES:
            self.register(name, "last")
        for _ in range(400):
            self.deliver_all()
            for seq, m in list(self.messages.items()):
                if m.stream == "work" and m.node in NODES:
                    self.result(success(m, m.node, 5.0))
                    self.messages.pop(seq)
            self.taken = []
            for task in list(self.w.state.tasks.values()):
                if task.head.run.name == "nobody" or task.history.avoid:  # type: ignore[union-attr]
                    self.feed(e.CancelAsked(task.id, "ann"))
            for name in NODES:
                self.beat(name)
            self.w.now += 1.0
            self.feed(e.Tick())
            if not self.w.state.tasks and not self.due:
                break
        assert self.w.state.tasks == {}
        assert set(self.results) == set(self.submitted)
        assert set(self.ended) == set(self.submitted)
        assert self.messages == {}
        assert all(n.count == 0 and n.cores_free == n.cores for n in self.w.state.nodes.values())
        assert not any(self.w.state.window.values())
        assert not any(self.w.state.parking.values())


TestFleet = Fleet.TestCase
TestFleet.settings = settings(stateful_step_count=80)
