"""What must hold at every moment and at the end, judged by what the world knows and the processes do not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from coordinator.core import actions as act
from coordinator.core import events as ev
from coordinator.core.machine import Coordinator
from coordinator.core.record import Life
from node.core.attempts import Attempt
from schemas import limits, subjects
from schemas.task import ResultHead, ResultState
from tests.sim.leaders import Leaders
from tests.sim.streams import Stored, Stream

KILL_BOUND_S = 3.0  # from a kill to its tasks' next placement, where nothing else is wrong
FREEZE_BOUND_S = 20.0  # the same from a freeze: the announced gap with its grace, and two beats more
SETTLED_S = 15.0  # a node that was left in peace for so long is at home
ACTS_S = 12.0  # a lease of others that runs out, a reconnect, a takeover
QUIET_S = 45.0  # what happened longer ago explains nothing
_result = msgspec.json.Decoder(ResultHead).decode


class Violation(Exception):
    """An invariant is broken: `rule` names it."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class Invariants:
    """Told by the broker what it stores and removes, by the runners what runs, by the coordinators what they decide."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.acked: dict[str, float] = {}
        self.results: dict[str, ResultHead] = {}
        self.result_at: dict[str, float] = {}
        self.copies: Counter[str] = Counter()
        self.terms: dict[int, str] = {}
        self.running: dict[tuple[str, str], Attempt] = {}
        self.begun: Counter[str] = Counter()
        self.begun_at: set[tuple[str, int, str, int]] = set()  # node, its life, task, placement
        # (node, task) → placement that was cancelled there, and its key then
        self.cancelled_at: dict[tuple[str, str], tuple[int, int]] = {}
        self.node_terms: dict[tuple[str, int], int] = {}
        self.stored_at: dict[int, tuple[str, str]] = {}  # every WORK sequence there ever was → node, task
        self.acted_at = 0.0  # when a coordinator was last seen to act
        self.ends: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()
        self.leaders = Leaders(world)

    def broken(self, rule: str, what: str) -> None:
        """Stops the world."""
        if self.world.timeline.failed is None:
            self.world.timeline.failed = Violation(rule, what)
        raise self.world.timeline.failed

    # The broker.

    def stored(self, stream: Stream, message: Stored) -> None:
        if not stream.name.startswith("FOG_"):
            return
        task = message.subject.rpartition(".")[2]
        self.world.note("stored", f"{stream.name} {message.seq} {message.subject}")
        if stream.queue:
            self.copies[task] += 1
            if stream.name == "FOG_WORK":
                self.stored_at[message.seq] = (message.key, task)
        elif stream.name == "FOG_DEAD":
            if task != "mark":
                self.counts["dead letters"] += 1
        elif task != "mark":
            head = _result(message.data)
            if task in self.results:
                self.broken("one result", f"{task} has two")
            if head.dead_letter and not self._letter(head):
                self.broken("letter", f"{task} says that there is a dead letter of it, and there is none")
            self.results[task] = head
            self.result_at[task] = self.world.timeline.now
            if head.state is not ResultState.SUCCEEDED:
                self._fenced(message, head)

    def _fenced(self, message: Stored, head: ResultHead) -> None:
        """A coordinator's own result is of the term that acts, once that has begun to act."""
        writer = self.world.writer_of(message)
        if writer is not None and writer < max(self.terms, default=0):
            self.broken("fence", f"term {writer} recorded {head.task} {head.state.value} while {max(self.terms)} acts")

    def _letter(self, head: ResultHead) -> bool:
        """Whether a dead letter of it lies there."""
        return subjects.dead(head.submitter, head.task) in self.world.broker.named["FOG_DEAD"].by_subject

    def removed(self, stream: Stream, message: Stored) -> None:
        task = message.subject.rpartition(".")[2]
        head = self.results.get(task) if stream.name == "FOG_DEAD" else None
        if head is not None and head.dead_letter and not self._letter(head):
            self.broken("letter", f"the dead letter of {task}, which was given up, is removed")
        if not stream.queue:
            return
        self.world.note("removed", f"{stream.name} {message.seq} {message.subject}")
        self.copies[task] -= 1
        if not self.copies[task]:
            del self.copies[task]
            if task not in self.results:
                self.broken("kept", f"{task} lies in no stream and has no result")

    # Nodes.

    def began(self, node: str, attempt: Attempt) -> None:
        task, placement = attempt.task.id, attempt.placement
        self.world.note("began", f"{node} {task}.{placement}")
        self.begun[task] += 1
        once = node, self.world.nodes[node].lives, task, placement
        if once in self.begun_at:
            self.broken("begins once", f"{task}.{placement} began on {node} again")
        self.begun_at.add(once)
        if (node, task) in self.running:
            self.broken("twice at once", f"{task}.{placement} began on {node}, where it runs")
        self.running[(node, task)] = attempt
        told = self.cancelled_at.get((node, task))
        if told is not None and placement <= told[0] and attempt.key != told[1]:
            self.broken("cancelled", f"{task}.{placement} began on {node}, which was told to stop it")
        if attempt.task.exclusive:
            twice = [n for n, t in self.running if t == task and n != node]
            if twice:
                self.broken("exclusive", f"{task} runs on {node} and {twice}")
        process = self.world.nodes[node]
        here = [a.task.needs for (n, _), a in self.running.items() if n == node]
        cores, memory = sum(n.cores for n in here), sum(n.memory_mb for n in here)
        if cores > process.cores + 1e-6 or memory > process.memory_mb or len(here) > process.cores:
            self.broken("overcommit", f"{node} runs {len(here)} with {cores} cores and {memory} MiB")

    def ended(self, node: str, attempt: Attempt) -> None:
        self.running.pop((node, attempt.task.id), None)

    def node_died(self, node: str) -> None:
        """What it was told, and what ran, is gone with it."""
        for key in [k for k in self.running if k[0] == node]:
            del self.running[key]
        for key in [k for k in self.cancelled_at if k[0] == node]:
            del self.cancelled_at[key]

    def commanded(self, node: str, verb: str, command: Any, answer: Any, held: dict[str, tuple[int, int]]) -> None:
        """A node carried out (or refused) a command; `held` are the placements that it had of what the command names, with the
        key under which a runner had it: one that stood in a line may be begun before the runner hears."""
        if answer.ok and verb == "cancel":
            for task, told in held.items():
                self.cancelled_at[(node, task)] = told
        self.world.note("command", f"{node} {verb} term {command.term} {command.task} {command.tasks} ok={answer.ok}")
        seen = self.node_terms.get((node, self.world.nodes[node].lives), 0)
        if answer.ok and command.term < seen:
            self.broken("old term", f"{node} carried out {verb} of term {command.term} after one of {seen}")
        self.node_terms[(node, self.world.nodes[node].lives)] = max(seen, command.term)

    def about_to_fail(self, process: Any, bound_s: float) -> None:
        """A node that was left in peace is killed, or frozen for longer than the bound: what it holds moves within that."""
        world = self.world
        desk = getattr(process, "desk", None)
        if desk is None or not process.well or self._age_s(process) < SETTLED_S or not self._calm(SETTLED_S):
            return
        held = [(a.task.id, a.placement) for a in desk.held.values()]
        world.timeline.after(bound_s, self._moved, process.name, process.lives, held, max(self.terms), bound_s)

    def _age_s(self, process: Any) -> float:
        return float(self.world.timeline.now - process.touched_at)

    def _calm(self, for_s: float) -> bool:
        """For so long nothing was wrong with the broker, or with the coordinator that acts (its link above all: while that is
        young it judges nobody)."""
        acting = [c for c in self.world.coordinators if c.acting is not None and c.acting.state.term]
        return len(acting) == 1 and acting[0].well and min(self.world.broker_quiet_s(), self._age_s(acting[0])) > for_s

    def _moved(self, name: str, lives: int, held: list[tuple[str, int]], term: int, bound_s: float) -> None:
        if self.world.faults.over or not self._calm(bound_s + SETTLED_S) or max(self.terms) != term:
            return
        state = next(c.acting.state for c in self.world.coordinators if c.acting is not None and c.acting.state.term)
        if state.hold is not None or self.world.submitter.name == name:
            return
        self.counts["moves judged"] += len(held)
        for task_id, placement in held:
            task = state.tasks.get(task_id)
            same = task is not None and task.history.placement == placement
            gone = self.world.nodes[name].lives == lives or not self.world.nodes[name].well
            if same and gone and task.state is Life.PLACED and task.bound == name:
                self.broken("moved in time", f"{task_id}.{placement} still lies at {name}, which is gone")

    # Coordinators.

    def somebody_acts(self) -> None:
        """Looked at all the time: where the broker and a coordinator were left in peace for so long, one acts."""
        world, now = self.world, self.world.timeline.now
        if any(c.acting is not None and c.acting.state.term and c.acting._may() for c in world.coordinators):
            self.acted_at = now
        well = [c.name for c in world.coordinators if c.well and self._age_s(c) > ACTS_S]
        if well and min(world.broker_quiet_s(), now - self.acted_at) > ACTS_S:
            self.broken("somebody acts", f"nobody does for {ACTS_S} s, though {well[0]} and the broker are well")
        world.timeline.after(1.0, self.somebody_acts)

    def took_over(self, name: str, term: int) -> None:
        if term in self.terms:
            self.broken("one leader a term", f"{name} and {self.terms[term]} both act in {term}")
        if self.terms and term < max(self.terms):
            self.broken("terms grow", f"{name} acts in {term} after {max(self.terms)}")
        self.terms[term] = name
        self.world.note("acting", f"{name} term {term}")

    def stepped(self, state: Coordinator, event: ev.Event, wanted: list[act.Action]) -> None:
        """The core took an event."""
        if not wanted and type(event) is ev.Beat:
            return
        if type(event) is ev.TakenOver:
            self.took_over(event.coordinator, event.term)
        elif type(event) is ev.Placed:
            self._placed(state, event)
        for action in wanted:
            if type(action) is act.Emit:
                self._emitted(state, action)

    def _placed(self, state: Coordinator, event: ev.Placed) -> None:
        """What the books say lies at a node was stored there."""
        task = state.tasks.get(event.task)
        if task is not None and task.state is Life.PLACED and task.source.stream == "work":
            told = self.stored_at.get(task.source.seq)
            if told is None or told != (task.bound, task.id):
                self.broken(
                    "books", f"{task.id} is taken for placed at {task.bound} as {task.source.seq}, where {told} was"
                )

    def _emitted(self, state: Coordinator, action: act.Emit) -> None:
        if action.kind == "node.lost":
            self._lost(action)
        elif action.kind == "task.lost" and "does not hold it" in action.data.reason:  # type: ignore[union-attr]
            self._missed(state, action)
        elif action.kind in ("task.succeeded", "task.failed", "task.cancelled", "task.expired"):
            keys = self.ends.setdefault(action.about, set())
            keys.add(action.key)
            if len(keys) > 1:
                self.broken("ends once", f"{action.about} ended as {sorted(keys)}")

    def _lost(self, action: act.Emit) -> None:
        """Nobody is called lost who lives and was left in peace, whatever happened to the coordinator."""
        node = self.world.nodes[action.about]
        self.world.note("lost", f"{node.name}: {action.data.reason}")  # type: ignore[union-attr]
        if node.well and self.world.timeline.now - node.touched_at > QUIET_S and self.world.broker_quiet_s() > QUIET_S:
            self.broken("healthy is not lost", f"{node.name} lives: {action.data.reason}")  # type: ignore[union-attr]

    def _missed(self, state: Coordinator, action: act.Emit) -> None:
        """What is missed at a node is not there, and not on its way to it."""
        data: Any = action.data
        node = self.world.nodes[data.node]
        desk = node.desk
        if desk is None or not node.well:
            return
        holds = any(a.task.id == data.task and a.placement == data.placement for a in desk.everything())
        stream = self.world.broker.named["FOG_WORK"]
        consumer = stream.of_key.get(data.node)
        for message in stream.by_key.get(data.node, {}).values():
            if (
                not message.subject.endswith("." + data.task)
                or self.world.broker.clock() - message.at > 2 * limits.HEARTBEAT_S
            ):
                continue  # what lay there for two beats may come (again) in the very moment in which it is given up
            if holds or consumer is None or message.seq not in consumer.counts:
                self.broken(
                    "missed", f"{data.task}.{data.placement} is called missing at {data.node} before it was there"
                )

    def accounts(self, state: Coordinator) -> None:
        """The books are the sum of what is held."""
        for node in state.nodes.values():
            held = list(node.attempts.values())
            if node.count != len(held) or any(t.node is not node for t in held):
                self.broken("accounts", f"{node.id} counts {node.count} and holds {len(held)}")
            cores = node.cores - sum(t.cls.cores for t in held if t.cls)
            if abs(node.cores_free - cores) > 1e-6 or node.count > limits.NODE_QUEUE_MAX:
                self.broken("accounts", f"{node.id} has {node.cores_free} cores free, and should have {cores}")

    # The end.

    def done(self) -> bool:
        """Whether every acknowledged task has its result and nothing is left over."""
        return not self.left()

    def left(self) -> str:
        """What is not as it should be when all is done."""
        world = self.world
        if world.submitting or world.draining:
            return "tasks are still being submitted, or nodes drained"
        missing = [task for task in self.acked if task not in self.results]
        if missing:
            return f"{len(missing)} without a result: {', '.join(missing[:5])}"
        if wrong := self._letters():
            return wrong
        for stream in world.broker.streams.values():
            lying = [m.subject for m in stream.messages.values() if stream.queue]
            if lying:
                return f"{len(lying)} left in {stream.name}: {', '.join(lying[:5])}"
        states = [c.acting.state for c in world.coordinators if c.acting is not None and c.acting.state.term]
        if len(states) != 1:
            return f"{len(states)} coordinators act"
        return self._books(states[0]) or self.leaders.left()

    def _letters(self) -> str:
        """What is given up after its attempts has a dead letter, and nothing else has."""
        for task, head in self.results.items():
            given_up = head.state is ResultState.FAILED and head.reason.startswith("failed after")
            if not given_up == head.dead_letter == self._letter(head):
                there = "a" if self._letter(head) else "no"
                return f"{task} has {there} dead letter: {head.state.value}, {head.reason}, {head.dead_letter}"
        return ""

    def _books(self, state: Coordinator) -> str:
        if state.tasks:
            task = next(iter(state.tasks.values()))
            return f"{len(state.tasks)} tasks on the books: {task.id} is {task.state.value}"
        for node in state.nodes.values():
            if node.count or node.cores_free != node.cores or node.memory_free != node.memory_mb or node.backlog_ms:
                return f"{node.id} has {node.cores_free} of {node.cores} cores free"
        counts = {"window": state.window, "pending": state.pending, "parking": state.parking, "stayed": state.stayed}
        for what, told in counts.items():
            if any(told.values()):
                return f"{what} is {told}"
        if state.parked or state.parked_by:
            return f"{state.parked} are parked"
        held = [n.name for n in self.world.nodes.values() if n.desk is not None and list(n.desk.everything())]
        return f"{held[0]} holds something" if held else ""
