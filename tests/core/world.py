"""A tiny world around the core: makes events, plays the broker, and writes down what the core wants, one line each."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core.machine import Coordinator, pump, step
from schemas.device import DeviceCapabilities, DeviceState, FunctionOffer, ThermalState
from schemas.membership import Heartbeat, Held, NodeAnswer, NodeRecord, Offer, Register
from schemas.task import (
    AttemptError,
    FunctionHead,
    History,
    Needs,
    Outcome,
    OutcomeKind,
    ResultHead,
    ResultState,
    Retry,
    TaskHead,
    TaskPriority,
)

KEY = "U" + "A" * 55
MAINS = DeviceState(mains=True, thermal_state=ThermalState.NORMAL)


def head(task: str, function: str = "echo", **more: Any) -> TaskHead:
    """A task's head; needs may be given as plain keywords of `Needs`."""
    fields = set(Needs.__struct_fields__)
    needs = Needs(**{k: more.pop(k) for k in list(more) if k in fields})
    more.setdefault("retry", Retry(limit=2, backoff_s=0.5))
    more["priority"] = TaskPriority(more.get("priority", 3))
    return TaskHead(task, more.pop("submitter", "ann"), FunctionHead(function), needs=needs, **more)


def after(
    history: History, kind: OutcomeKind, node: str, error: str, *, started: bool = True, word: str = ""
) -> History:
    """The history as a node writes it into an outcome. Its clock is far off. `word`: the error's kind, if another."""
    if not started and kind is OutcomeKind.RETURNED:
        return history
    attempts = history.attempts + started
    errors = (*history.errors, AttemptError(node, attempts, 9e9, error, word or kind.value))
    return replace(
        history,
        attempts=attempts,
        errors=errors,
        failed_on=(*history.failed_on, node) if kind is OutcomeKind.FAILED else history.failed_on,
        avoid=(*history.avoid, node) if kind is OutcomeKind.REFUSED else history.avoid,
    )


class World:
    """The core with a broker that answers at once (unless `hold` is set: then `answer` is called by the test).

    `log` holds one readable line an action, `where` each task's place as the broker has it.
    """

    def __init__(self, term: int = 1) -> None:
        self.state = Coordinator(Random(7))
        self.now = 1000.0
        self.seq = 0
        self.log: list[str] = []
        self.all: list[a.Action] = []
        self.hold = False
        self.held_back: list[a.Action] = []
        self.where: dict[str, tuple[str, int]] = {}
        self.results: dict[str, ResultHead] = {}
        self.heads: dict[str, TaskHead] = {}
        self.records: dict[str, tuple[NodeRecord, int]] = {}
        self.beats: dict[str, int] = {}
        self.removed: list[e.Source] = []
        if term:
            self.feed(e.TakenOver("c1", term))
            self.log.clear()

    # driving

    def feed(self, *events: e.Event) -> list[str]:
        """Feed events, pump once, play the answers until nothing follows; the lines that were written meanwhile."""
        start = len(self.log)
        todo = list(events)
        while todo:
            wanted: list[a.Action] = []
            for event in todo:
                wanted += step(self.state, event, self.now)
            wanted += pump(self.state, self.now)
            todo = [x for action in wanted for x in self.take(action)]
        return self.log[start:]

    def take(self, action: a.Action) -> list[e.Event]:
        self.all.append(action)
        if not isinstance(action, a.WakeAt):
            self.log.append(line(action))
        if self.hold and isinstance(action, a.Place | a.Conclude | a.AskResults | a.StoreNode):
            self.held_back.append(action)
            return []
        return self.answer(action)

    def answer(self, action: a.Action) -> list[e.Event]:
        """What the broker says to an action."""
        if isinstance(action, a.Place):
            self.seq += 1
            self.where[action.task] = (action.node, self.seq)
            return [e.Placed(action.task, action.history.placement, self.seq)]
        if isinstance(action, a.Conclude):
            head = ResultHead(
                action.task, action.submitter, action.state, action.node, action.placement, reason=action.reason,
                dead_letter=action.letter is not None,
            )  # fmt: skip
            refused = self.results.setdefault(action.task, head) is not head
            name = action.submitter, action.task
            found = [e.LettersFound((name,))] if refused and action.letter is not None else []
            return [*found, e.Concluded(action.task, refused, action.placement, action.letter is not None)]
        if isinstance(action, a.AskLetters):
            return [e.LettersAsked(tuple(self.results[t] for _, t in action.tasks if t in self.results))]
        if isinstance(action, a.AskResults):
            return [e.ResultsAsked({t: self.results.get(t) for _, t in action.tasks}, action.asked_at)]
        if isinstance(action, a.StoreNode):
            old = self.records.get(action.record.node)
            revision = (old[1] if old else 0) + 1
            self.records[action.record.node] = (action.record, revision)
            return [e.NodeStored(action.record, action.reply, revision)]
        if isinstance(action, a.Remove):
            self.removed.append(action.source)
        return []

    def release(self) -> list[str]:
        """Play the answers that were held back."""
        self.hold = False
        back, self.held_back = self.held_back, []
        return self.feed(*[x for action in back for x in self.answer(action)])

    def wait(self, seconds: float, step_s: float = 0.25, beating: tuple[str, ...] | None = ()) -> list[str]:
        """Let time pass in ticks. `beating`: nodes that beat meanwhile, None: all that are not lost."""
        start = len(self.log)
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step_s)
            names = [n.id for n in self.state.nodes.values() if n.state.value != "lost"] if beating is None else beating
            for name in names:
                if self.now - self.state.nodes[name].last_beat >= 4.9:
                    self.beat(name)
            self.feed(e.Tick())
        return self.log[start:]

    # nodes

    def join(
        self, name: str, cores: float = 4, slots: int | None = None, memory_mb: int = 4096, functions: str = "echo sleep big",
        device: DeviceState = MAINS, session: str = "s1", labels: dict[str, str] | None = None, held: tuple[Held, ...] = (),
        key: str = KEY, kinds: tuple[str, ...] = ("function", "map"), asleep_s: float = 0.0,
        said: dict[str, Any] | None = None, **capabilities: Any,
    ) -> list[str]:  # fmt: skip
        """It registers; `said`: what it takes at the moment, as `Register` names it."""
        offer = Offer(
            cores,
            memory_mb,
            slots or max(1, int(cores)),
            labels or {},
            tuple(FunctionOffer(f) for f in functions.split()),
            kinds,
        )
        caps = DeviceCapabilities(cpu_cores=max(1, int(cores)), **capabilities)
        request = Register(name, key, session, caps, offer, device, held=held, asleep_s=asleep_s, **(said or {}))
        record, revision = self.records.get(name, (None, 0))
        self.beats[name] = -1
        return self.feed(e.NodeRegistering(request, record, revision, f"reply-{name}"))

    def beat(self, name: str, held: tuple[Held, ...] | None = None, **more: Any) -> list[str]:
        """A beat; what is held is what the core thinks, unless told."""
        node = self.state.nodes[name]
        self.beats[name] = seq = self.beats.get(name, -1) + 1
        if held is None:
            held = tuple(Held(t.id, t.history.placement, True) for t in node.attempts.values())
        more = {"seen_seq": self.seq, "boot": node.boot, "seq": seq, "next_due_s": 5.0, "full": seq == 0} | more
        return self.feed(e.Beat(Heartbeat(name, sent_at=self.now, held=held, **more)))

    def kill(self, name: str) -> list[str]:
        """Its connection closes and nobody answers."""
        return self.feed(e.Disconnected(name, "Client Closed")) + self.feed(
            e.ProbeEnded(name, None, no_responders=True)
        )

    def alive(self, name: str) -> e.ProbeEnded:
        return e.ProbeEnded(name, NodeAnswer(name, self.state.nodes[name].boot))

    # tasks

    def arrive(self, task: str, function: str = "echo", **more: Any) -> e.TaskArrived:
        self.seq += 1
        maybe_done = more.pop("maybe_done", False)
        self.heads[task] = h = head(task, function, **more)
        return e.TaskArrived(h, e.Source("tasks", self.seq, f"r{self.seq}"), self.now + self.seq / 1e6, maybe_done)

    def submit(self, task: str, function: str = "echo", **more: Any) -> list[str]:
        return self.feed(self.arrive(task, function, **more))

    def done(self, task: str, node: str = "", ms: float = 10.0, placement: int = 0) -> list[str]:
        """A node's success is stored and comes by."""
        held = self.state.tasks[task]
        head = ResultHead(
            task,
            "ann",
            ResultState.SUCCEEDED,
            node or held.bound,
            placement or held.history.placement,
            1,
            duration_ms=ms,
        )
        return self.feed(e.ResultSeen(self.results.setdefault(task, head)))

    def outcome(self, task: str, kind: OutcomeKind = OutcomeKind.FAILED, error: str = "boom", **more: Any) -> list[str]:
        """An attempt ends without a result. Of a task that is not held, `node` and `history` must be given."""
        self.seq += 1
        outcome_stored_at = more.pop("stored_at", 0.0)
        node = more.pop("node", "") or self.state.tasks[task].bound
        history = more.pop("history", None) or self.state.tasks[task].history
        history = after(history, kind, node, error, started=more.get("started", True), word=more.pop("word", ""))
        outcome = Outcome(msgspec.Raw(b"{}"), history, kind, node, 1, error, **more)
        stored_at = outcome_stored_at or self.now
        held = self.state.tasks.get(task)
        told = self.heads[task] if held is None else held.head
        return self.feed(e.OutcomeArrived(told, outcome, e.Source("outcomes", self.seq, f"o{self.seq}"), stored_at))

    def node_of(self, task: str) -> str:
        return self.state.tasks[task].bound

    def states(self) -> dict[str, str]:
        return {t.id: t.state.value for t in self.state.tasks.values()}


def line(action: a.Action) -> str:
    """An action as one readable line."""
    if isinstance(action, a.Place):
        why = f" ({action.reason})" if action.reason else ""
        return f"place {action.task}.{action.history.placement} at {action.node}{why}"
    if isinstance(action, a.Remove):
        return f"remove {action.source.stream} {action.source.seq}"
    if isinstance(action, a.Emit):
        return f"emit {action.kind} {action.key}"
    if isinstance(action, a.Conclude):
        return f"conclude {action.task} {action.state.value}: {action.reason}"
    if isinstance(action, a.AskResults):
        return "ask " + " ".join(t for _, t in action.tasks)
    if isinstance(action, a.AskLetters):
        return "ask about the letters of " + " ".join(t for _, t in action.tasks)
    if isinstance(action, a.DropLetter):
        return f"drop the letter of {action.task}"
    if isinstance(action, a.Command):
        upto = (
            [f"{task}≤{n}" for task, n in zip(action.tasks, action.placements, strict=True)]
            if action.placements
            else []
        )
        return " ".join(x for x in ("command", action.node, action.verb, action.task, *(upto or action.tasks)) if x)
    if isinstance(action, a.Probe):
        return f"probe {action.node}"
    if isinstance(action, a.Forget):
        return f"forget {action.task}"
    if isinstance(action, a.StoreNode):
        return f"store {action.record.node} boot {action.record.boot}"
    if isinstance(action, a.Answer):
        r = action.registered
        said = f"boot {r.boot} term {r.term} every {r.interval_s:g} s{', drained' if r.drained else ''}"
        return f"answer {action.reply}: {r.error or said}"
    return type(action).__name__.lower()


FRESH = History()
