"""A world: a broker, two coordinators, nodes and a submitter, all of one seed, with faults until it is left to heal.

Everything random is drawn from generators made of the seed, so a seed is a world: `python -m tests.sim --seed N` runs it
again, with its transcript. (Sets of strings would not keep their order: `__main__` fixes the hash seed.)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import coordinator.acting
import node.clusters
import node.orders
from coordinator.core import machine
from node.core.lanes import STUCK_S
from schemas import subjects
from schemas.api import CancelRequest, DrainRequest
from schemas.errors import FogError
from schemas.task import FunctionRun, Needs, Retry, Task, TaskPriority
from tests.sim.broker import Broker
from tests.sim.clock import Timeline
from tests.sim.faults import Faults, Plan, plan_of
from tests.sim.invariants import Invariants, Violation
from tests.sim.patches import replaced, surroundings
from tests.sim.processes import CoordinatorProcess, NodeProcess, Process, Submitter, make_rng
from tests.sim.streams import Stored

EPOCH = 1_800_000_000.0
LAST = 60  # events that are told around a violation
BURST = 40  # tasks that come at once
SETTLE_S = 900.0  # after the last fault, until all must be done


class Report(Struct):
    """What came of a world."""

    seed: int
    rule: str = ""
    problem: str = ""
    last: tuple[str, ...] = ()
    virtual_s: float = 0.0
    events: int = 0
    tasks: int = 0
    begun: int = 0
    terms: int = 0
    faults: dict[str, int] = {}
    healed_s: float = 0.0


class _Log(logging.Handler):
    """The processes' own logs: into the transcript; an exception that was caught and logged is a fault of ours."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = getattr(self._world.timeline._running, "owner", None)
        if owner is None or not owner.alive:
            return
        more = " ".join(f"{k}={v}" for k, v in getattr(record, "fields", {}).items())
        self._world.note("log", f"{owner.name} {record.getMessage()} {more}".rstrip())
        if record.exc_info:
            error = record.exc_info[1]
            if isinstance(error, Violation):
                return
            text = logging.Formatter().formatException(record.exc_info) if error is not None else ""
            self._world.timeline.failed = Violation("a fault", f"{owner.name}: {record.getMessage()}\n{text}")


class World:
    """One seed's world. `run` returns what came of it, at most until `until_s`."""

    def __init__(
        self, seed: int, plan: Plan | None = None, *, transcript: bool = False, until_s: float = float("inf")
    ) -> None:
        self.seed, self._until_s = seed, until_s
        self.plan = plan or plan_of(seed)
        self.timeline = Timeline()
        self.timeline.grain_s = self.plan.grain_s
        self.rng = make_rng(seed, "world")
        self.chance = make_rng(seed, "chance")
        self.bursting = make_rng(seed, "bursts")
        self.epoch = EPOCH
        self.last: deque[str] = deque(maxlen=LAST)
        self.transcript: list[str] | None = [] if transcript else None
        self.invariants = Invariants(self)
        self.folder = Path()
        self.submitting = self.draining = 0
        p, rng = self.plan, self.rng
        self.broker = Broker(
            self.timeline, make_rng(seed, "broker"), self.invariants, EPOCH, rng.uniform(-p.skew_s, p.skew_s)
        )
        self.broker.api_s, self.broker.quantum_s = p.api_s, p.quantum_s

        def place() -> tuple[float, float]:
            return rng.uniform(0.2, 1.0) * p.delay_s, rng.uniform(-p.skew_s, p.skew_s)

        self.coordinators = [CoordinatorProcess(self, f"c{i + 1}", *place()) for i in range(p.coordinators)]
        self.nodes = {
            name: NodeProcess(self, name, *place(), cores=rng.choice((1, 2, 4)), memory_mb=rng.choice((256, 1024)))
            for name in (f"n{i + 1}" for i in range(p.nodes))
        }
        self.submitter = Submitter(self, "client", *place())
        self.faults = Faults(self, make_rng(seed, "faults"))
        self.broker_touched_at = 0.0
        self._accounts_at = 0.0

    # What others ask of it.

    def note(self, what: str, text: str) -> None:
        """A line of the transcript."""
        line = f"{self.timeline.now:12.6f} {what:8} {text}"
        self.last.append(line)
        if self.transcript is not None:
            self.transcript.append(line)

    def fault_in(self, name: str) -> Any:
        def on_fault(context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, Violation):
                self.timeline.failed = error
            elif self.timeline.failed is None:
                text = (
                    "".join(logging.Formatter().formatException((type(error), error, error.__traceback__)))
                    if error
                    else ""
                )
                self.timeline.failed = Violation("a fault", f"{name}: {context.get('message')}\n{text}")

        return on_fault

    def broker_quiet_s(self) -> float:
        return self.timeline.now - self.broker_touched_at

    def writer_of(self, message: Stored) -> int | None:
        """The term of the coordinator that made a result or a letter, as it was tagged when it was first said."""
        return self._writers.get(bytes(message.data))

    # Running it.

    def run(self) -> Report:
        self.folder = Path(tempfile.mkdtemp(prefix="fog-sim-"))
        problem = None
        log = _Log(self)
        often = gc.get_threshold()
        gc.set_threshold(100_000, 50, 100)  # what lives long is much, and stays
        try:
            with surroundings(self, log, self.plan.slack), self._watched():
                try:
                    self._live()
                except Violation as error:
                    problem = error
                finally:
                    for process in self._processes():
                        with contextlib.suppress(Violation):
                            process.kill()
        finally:
            gc.set_threshold(*often)
            shutil.rmtree(self.folder, ignore_errors=True)
        found = self.invariants
        return Report(
            self.seed, problem.rule if problem else "", str(problem or ""), tuple(self.last) if problem else (),
            self.timeline.now, self.timeline.events, len(found.acked), sum(found.begun.values()), len(found.terms),
            dict(self.faults.counts + found.counts), self.timeline.now - self.plan.trouble_s,
        )  # fmt: skip

    def _processes(self) -> list[Process]:
        return [*self.coordinators, *self.nodes.values(), self.submitter]

    @contextlib.contextmanager
    def _watched(self) -> Any:
        """The core's steps and the nodes' orders are looked at as they happen."""
        p, found, timeline, real_step = self.plan, self.invariants, self.timeline, machine.step
        self._writers: dict[bytes, int] = {}
        real_carry = node.orders.Orders._carry_out
        real_accept = node.daemon.Member._accept
        real_told = node.clusters.Clusters.told

        def step(state: Any, event: Any, now: float) -> Any:
            wanted = real_step(state, event, now)
            found.stepped(state, event, wanted)
            if timeline.now - self._accounts_at > p.slack:
                self._accounts_at = timeline.now
                found.accounts(state)
            return wanted

        def carry_out(orders: Any, verb: str, data: bytes) -> Any:
            command = node.orders._command(data)
            desk = orders._desk.held
            held = {t: (desk[t].placement, desk[t].key) for t in (command.task, *command.tasks) if t in desk}
            answer = real_carry(orders, verb, data)
            found.commanded(orders._context.node, verb, command, answer, held)
            return answer

        def told(clusters: Any, said: Any) -> str:
            refused: str = real_told(clusters, said)
            found.leaders.told(clusters._context.node, said, refused, clusters.seats)
            return refused

        def accept(member: Any, answer: Any, *said: Any) -> None:
            name = member._context.node
            key = (name, self.nodes[name].lives)
            found.node_terms[key] = max(found.node_terms.get(key, 0), answer.term)
            real_accept(member, answer, *said)

        from coordinator import fenced

        real_post = fenced.Fenced.post

        def post(this: Any, subject: str, data: bytes, msg_id: str, over: Any) -> None:
            self._writers[bytes(data)] = this.fence.term
            real_post(this, subject, data, msg_id, over)

        with contextlib.ExitStack() as stack:
            stack.enter_context(replaced(coordinator.acting, "step", step))
            stack.enter_context(replaced(node.orders.Orders, "_carry_out", carry_out))
            stack.enter_context(replaced(node.daemon.Member, "_accept", accept))
            stack.enter_context(replaced(node.clusters.Clusters, "told", told))
            stack.enter_context(replaced(fenced.Fenced, "post", post))
            yield

    def _live(self) -> None:
        plan, timeline, rng = self.plan, self.timeline, self.rng
        for process in self._processes():
            timeline.at(rng.uniform(0, plan.start_s), process.start)
        self.submitter.ready = lambda: None
        for number in range(plan.tasks):
            self.submitting += 1
            timeline.at(plan.start_s + rng.uniform(0, 0.9 * plan.trouble_s), self._submit, number)
        for number in range(plan.bursts):
            self.submitting += BURST
            timeline.at(plan.start_s + self.bursting.uniform(0, 0.9 * plan.trouble_s), self._burst, number)
        self.faults.plan()
        self.invariants.somebody_acts()
        timeline.run(min(plan.trouble_s, self._until_s))
        self.faults.end()
        deadline = timeline.now + (SETTLE_S if plan.tasks else 0.0)
        while timeline.now < min(deadline, self._until_s):
            if self.invariants.done():
                timeline.run(timeline.now + 30.0)  # nothing may come back
                if self.invariants.done():
                    return
            timeline.run(timeline.now + 2.0)
        if plan.tasks and deadline < self._until_s:
            self.invariants.broken("all is done", self.invariants.left())

    # The submitter.

    def _submit(self, number: int) -> None:
        rng, plan = self.rng, self.plan
        task_id = f"t{number}"
        seconds = round(rng.choice((0.01, 0.1, 0.5, 2.0, 8.0, 30.0)) * rng.uniform(0.5, 1.5), 3)
        how = rng.choices(("ok", "fail", "die"), (30, 3, 1))[0]
        pinned = rng.choice(list(self.nodes)) if rng.random() < 0.05 else ""
        cores = self.nodes[pinned].cores if pinned else max(n.cores for n in self.nodes.values())
        task = Task(
            task_id, rng.choice(("ann", "bob")),
            FunctionRun("work", msgspec.Raw(msgspec.json.encode((seconds, how)))),
            priority=rng.choice(list(TaskPriority)),
            needs=Needs(cores=min(cores, rng.choice((0.5, 1.0, 1.0, 2.0))), memory_mb=rng.choice((64, 64, 200)), node=pinned),
            exclusive=bool(plan.exclusive) and rng.random() < plan.exclusive, retry=Retry(rng.choice((0, 1, 2)), 0.5, 10.0),
            timeout_s=rng.choice((3600.0, 3600.0, 5.0)),
            deadline_s=rng.choice((None, None, None, rng.uniform(5, 60))),
        )  # fmt: skip
        self._put(task, rng.uniform(0.1, 20.0) if rng.random() < plan.cancels else None)

    def _burst(self, number: int) -> None:
        """Quick ones; now and then one takes about as long as a head may before the line behind it is taken back."""
        rng = self.bursting
        for i in range(BURST):
            seconds = rng.uniform(0.9, 1.3) * STUCK_S if rng.random() < 0.03 else 0.001
            how = "die" if rng.random() < 0.01 else "ok"
            run = FunctionRun("quick", msgspec.Raw(msgspec.json.encode((round(seconds, 4), how))))
            task = Task(f"b{number}-{i}", "ann", run, needs=Needs(cores=0.5), retry=Retry(2, 0.5, 10.0))
            self._put(task, rng.uniform(0, 1) if rng.random() < self.plan.cancels else None)

    def _put(self, task: Task, cancel_s: float | None) -> None:
        """Submit it, and cancel it after so long."""
        task_id = task.id
        loop = self.submitter.loop
        if loop is None or loop.dead or not hasattr(self.submitter, "store"):
            self.submitting -= 1
            return

        def answered(answer: Any) -> None:
            if not isinstance(answer, Exception):
                self.submitting -= 1
                self.invariants.acked[task_id] = self.timeline.now
                if cancel_s is not None:
                    loop.create_task(self._cancel(task_id, task.submitter, cancel_s))

        def post() -> None:
            subject = subjects.submit(task.priority, task.submitter, task_id)
            self.submitter.store.post(subject, msgspec.json.encode(task), task_id, answered)

        self.timeline.as_running(loop, post)

    def drain(self, node: str, for_s: float) -> None:
        """Somebody drains a node, and has it take work again after that."""
        loop = self.submitter.loop
        if loop is not None and not loop.dead:
            self.draining += 1
            self.timeline.as_running(loop, loop.create_task, self._drain(node, for_s))

    async def _drain(self, node: str, for_s: float) -> None:
        asked = DrainRequest(node, deadline_s=for_s)
        for request in (asked, msgspec.structs.replace(asked, resume=True)):
            while not await self._ask(subjects.api("node", "drain"), request):  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            await asyncio.sleep(for_s)
        self.draining -= 1

    async def _ask(self, subject: str, request: Any) -> bool:
        bus = self.submitter.bus
        assert bus is not None
        try:
            return b'"code"' not in await bus.request(subject, msgspec.json.encode(request), 2.0)
        except FogError:
            return False

    async def _cancel(self, task: str, submitter: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        bus = self.submitter.bus
        assert bus is not None
        with contextlib.suppress(FogError):
            await bus.request(
                subjects.api("task", "cancel"), msgspec.json.encode(CancelRequest(task, submitter, "no more")), 2.0
            )


def run(seed: int, plan: Plan | None = None, *, until_s: float = float("inf")) -> Report:
    """Run one seed's world."""
    return World(seed, plan, until_s=until_s).run()
