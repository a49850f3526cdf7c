"""One term of a coordinator: from the moment that it holds the lease until it loses it or is told to stop.

Messages become events (`inbound`), a *turn* gives all that came together to the core, and its actions go out
(`outbound`). A turn acts only while the lease is valid; what it would have said is said by the successor.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random
from collections import deque
from functools import partial
from itertools import pairwise

from coordinator import dead, takeover
from coordinator.api import Api
from coordinator.areas import Area, Areas, Term
from coordinator.bodies import Bodies
from coordinator.clock import Clock
from coordinator.clusters import ClustersArea
from coordinator.consumers import Consumers, drop_old_consumers
from coordinator.core import events as ev
from coordinator.core.actions import Action
from coordinator.core.machine import Coordinator, pump, step
from coordinator.faults import PUMP, Faults, Key, key_of
from coordinator.inbound import Bad, Inbound
from coordinator.lease import Lease
from coordinator.ledger import Ledger
from coordinator.outbound import Outbound
from coordinator.policies import PoliciesArea
from coordinator.registrar import Registrar
from coordinator.rollouts import RolloutArea
from schemas import jetstream, streams, subjects
from schemas.bus import Bus, Subscription
from schemas.codec import encode
from schemas.errors import FogError, Unreachable
from schemas.event import CoordinatorEvent
from schemas.eventlog import EventLog
from schemas.logs import fields
from schemas.membership import AllReport
from schemas.pull import Message, delivery_of
from schemas.store import Store
from schemas.task import TaskPriority
from schemas.ticks import ticks

log = logging.getLogger("fog.coordinator")

TICK_S = 0.5
TURN_MAX = 2_000  # events of one turn, and
TURN_S = 0.2  # how long it goes on taking more: on a busy machine the lease is renewed between all the same
TASKS_PENDING_MAX = 20_000  # un-acked TASKS of one priority; the core's windows are smaller
OUTCOMES_PENDING_MAX = 5_000
OUTCOME_BYTES = 64 << 20  # of outcomes under way, beyond which no more are pulled
REPORTS_PER_S = 2_000  # of nodes that are asked to report
AREAS: tuple[type[Area], ...] = (  # what the service does beside its tasks
    PoliciesArea, ClustersArea, RolloutArea, Ledger,
)  # fmt: skip
POISON = "the coordinator cannot handle it: its log says why"


class Acting:
    """The acting coordinator of one term. `over` is set when it must end before its lease does."""

    def __init__(
        self, bus: Bus, store: Store, lease: Lease, clock: Clock, name: str, bad: Bad, faults: Faults | None = None,
        relay_from: float = math.inf,
    ) -> None:  # fmt: skip
        self._bus, self._store, self._lease, self._clock, self._name = bus, store, lease, clock, name
        self._faults = faults or Faults()
        self._loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self.state = Coordinator(random.Random())
        self.bodies = Bodies()
        self.events = EventLog(bus, store, f"/fog/coordinator/{name}")
        self.events.term = lease.term
        self.inbound = Inbound(bus, self.bodies, self._hand_on, bad)
        self.registrar = Registrar(bus, store, self._hand_on, bad, clock)
        self.outbound = Outbound(
            bus,
            store,
            self.bodies,
            self.events,
            self.inbound,
            self.registrar,
            self._hand_on,
            self._wake_at,
            lease.term,
            self._may,
        )
        may, nodes = self._may, self.state.nodes
        self.areas = Areas(
            AREAS,
            Term(bus, store, self.events, bad, clock, lease.term, name, may, nodes, self._hand_on, relay_from),
        )
        self.api = Api(bus, self.state, self._hand_on, bad, clock, self.areas.endpoints())
        self.consumers = Consumers(bus, lease.term, self._may, self._holds)
        self._heard: deque[ev.Event] = deque()
        self._turn_due = False
        self._reading = True  # taking over: turns wait
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._ticker: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []

    def _may(self) -> bool:
        """Whether this term may act at this moment."""
        return self._lease.valid and not self.over.is_set()

    async def _breathe(self) -> None:
        """Let others run, the lease's renewal among them. Raises Unreachable once the term is over."""
        await asyncio.sleep(0)
        if not self._may():
            raise Unreachable("the lease ended while taking over")

    async def start(self) -> None:
        """Take over: read what the streams hold, then listen, pull and act. Raises Unreachable once the lease is over."""
        since_s = self._lease.taken_at
        took: dict[str, int] = {}

        def passed(step: str) -> None:
            nonlocal since_s
            took[f"{step}_ms"], since_s = round(1000 * (ticks() - since_s)), ticks()

        await self._breathe()
        await drop_old_consumers(self._bus, self._lease.term)
        await self.outbound.fence.take()
        listen = {
            subjects.done("*", "*"): self.inbound.done,
            subjects.heartbeat("*"): self.inbound.beat,
            subjects.register("*"): self._registering,
            subjects.DISCONNECTS: self.inbound.disconnect,
        }
        for subject, handler in listen.items():
            self._subscriptions.append(await self._bus.subscribe(subject, handler))
        passed("fence")
        read: deque[ev.Event] = deque()
        # What is read lives long: no collection need look through it, now or later.
        gc.collect()
        gc.disable()
        try:
            await takeover.read_everything(self._bus, self._store, self.inbound, read.append, self._breathe)
            passed("read")
            await self._take_in(read)
            passed("take_in")
        finally:
            gc.enable()
        self._subscriptions.append(await self._bus.subscribe(subjects.api("*", "*"), self._asked))
        await self._pull()
        await self._breathe()
        self._ticker = self._loop.create_task(self._tick())
        self._telling = self._loop.create_task(self._tell())
        self.areas.start()
        self._bus.publish(subjects.ALL_REPORT, encode(AllReport(self._lease.term, self._report_spread_s())))
        gc.freeze()
        passed("open")
        took = {"took_ms": sum(took.values()), **took}
        log.info("acting", extra=fields(term=self._lease.term, coordinator=self._name, **took))

    async def _take_in(self, read: deque[ev.Event]) -> None:
        """Give the core what was read, in turns of a bounded size, before what was heard meanwhile."""
        read.append(ev.TakenOver(self._name, self._lease.term))
        read.extend(self._heard)
        self._heard = read
        self._reading = False
        while not self.state.term:
            self._turn_soon()
            await self._breathe()

    async def _tell(self) -> None:
        """Ends that nobody told, and letters that nobody judged; who fails at that leaves it to the next term."""
        try:
            await takeover.read_untold(self._bus, self.inbound, self._hand_on, self._breathe, self._clock())
        except FogError as error:
            log.warning("ends of tasks may be untold", extra=fields(error=error.message))
        try:
            await self.outbound.letters_fence.take()  # what an earlier term still says is not stored from now on
            await dead.read_letters(self._bus, self._hand_on)
        except FogError as error:
            log.warning("dead letters may lie there that should not", extra=fields(error=error.message))
        for before_s, at_s in pairwise((0.0, *takeover.LATE_S)):
            await asyncio.sleep(at_s - before_s)
            try:
                await takeover.read_late(self._bus, self.inbound, self._hand_on, self._breathe, self._lease.term)
            except FogError as error:
                log.info("late work is looked for later", extra=fields(error=error.message))

    def _report_spread_s(self) -> float:
        """All nodes beat at once otherwise, and register anew."""
        return max(0.02, len(self.state.nodes) / REPORTS_PER_S)

    async def _pull(self) -> None:
        tasks = [
            self.consumers.pull(
                streams.TASKS,
                f"p{priority:d}",
                subjects.submit(priority, "*", "*"),
                self._task,
                pending_max=TASKS_PENDING_MAX,
                room=partial(self._intake_room, priority),
            )
            for priority in TaskPriority
        ]
        outcomes = self.consumers.pull(
            streams.OUTCOMES,
            "outcomes",
            subjects.outcome("*", "*"),
            self.inbound.outcome,
            pending_max=OUTCOMES_PENDING_MAX,
            room=lambda: OUTCOMES_PENDING_MAX if self.inbound.outcome_bytes < OUTCOME_BYTES else 0,
        )
        try:
            async with asyncio.TaskGroup() as group:
                for pull in (*tasks, outcomes):
                    group.create_task(pull)
        except* FogError as failed:
            raise Unreachable(f"the consumers could not be made: {failed.exceptions[0]}") from failed

    def _intake_room(self, priority: int) -> int:
        return 0 if self.outbound.placer.full else self.state.intake_room(priority)

    def _holds(self, consumer: str, number: int) -> bool:
        """Whether what a consumer delivered under this number is on the books, or about to be."""
        replies = (task.source.reply for task in self.state.tasks.values())
        return bool(self._heard) or any(reply and delivery_of(reply) == (consumer, number) for reply in replies)

    def _task(self, message: Message) -> None:
        self.inbound.task(message)

    def _asked(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """A request of the API; without the lease another answers it."""
        if self._may():
            self.api.heard(subject, reply, data, headers)

    def _registering(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """A registration; without the lease another answers it."""
        if self._may():
            self.registrar.heard(subject, reply, data, headers)

    def _hand_on(self, event: ev.Event) -> None:
        self._heard.append(event)
        if not self._turn_due:
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Give the core what came together (of much, a part: the lease is renewed between), place what can be placed."""
        self._turn_due = False
        if self._reading or not self._may():
            return  # kept for when the lease is renewed; gone with the term otherwise
        now = self._clock()
        wanted: list[Action] = []
        sound = self._step_all(wanted, now)
        said = self._do(wanted, now)  # what was decided before a fault is right
        if said and sound and self._pump(now):
            self.consumers.ask()
        if self.state.changed:
            changed, self.state.changed = self.state.changed, set()
            self.areas.changed(changed, now)
        if self._heard:
            self._turn_soon()

    def _step_all(self, wanted: list[Action], now: float) -> bool:
        """Whether the core took it all; what it wants is in `wanted`."""
        heard, poison = self._heard, self._faults.poison
        ends_at = ticks() + TURN_S
        for _ in range(min(len(heard), TURN_MAX)):
            if ticks() > ends_at:
                break
            event = heard.popleft()
            if poison and key_of(event) in poison and self._refuse(event):
                continue
            try:
                wanted += step(self.state, event, now)
            except Exception:
                log.exception("an event could not be handled", extra=fields(event=f"{event!r:.300}"))
                if not self._survives(key_of(event), now):
                    return False
        return True

    def _pump(self, now: float) -> bool:
        try:
            wanted = pump(self.state, now)
        except Exception:
            log.exception("what waits could not be placed")
            return self._survives(PUMP, now)
        return self._do(wanted, now)

    def _do(self, wanted: list[Action], now: float) -> bool:
        """Say it, if we still may: a long turn may outlive the lease. What was decided and not said ends the term."""
        if wanted and not self._lease.valid:
            self._end("the lease ended within a turn")
            return False
        self.outbound.do(wanted, now)
        return True

    def _survives(self, key: Key, now: float) -> bool:
        """After a fault the state may be half changed, so the term ends; unless it fails at this again and again, and has
        no message that could be left out."""
        self.inbound.bad.add("event", key[0], "could not be handled")
        poison = self._faults.add(key, now)
        if poison and not key[1] and self.state.term:
            return True
        self._end(f"a fault at {key[0]} {key[1]}".rstrip())
        return False

    def _refuse(self, event: ev.Event) -> bool:
        """Leave out an event at which the core fails every time. A task that it was about ends with a result that says so."""
        kind, about = key_of(event)
        if not about:
            return False
        self.inbound.bad.add("event", kind, f"left out, since it cannot be handled: {about}")
        match event:
            case ev.TaskArrived() | ev.OutcomeArrived():
                self._fail(event.head.id, event.head.submitter, event.source)
            case ev.WorkFound() if event.node == subjects.WAITING:
                self._fail(event.head.id, event.head.submitter, event.source)
            case ev.TaskUnreadable():
                self._fail(event.task, event.submitter, event.source)
        return True

    def _fail(self, task: str, submitter: str, source: ev.Source) -> None:
        self.outbound.refuse(task, submitter, source, POISON)
        self.bodies.drop(task)

    def _end(self, why: str) -> None:
        if not self.over.is_set():
            log.error("this term ends", extra=fields(term=self._lease.term, why=why))
            self.over.set()

    def _wake_at(self, at: float) -> None:
        if at >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - self._clock()), self._wake)

    def _wake(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        self._hand_on(ev.Tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._hand_on(ev.Tick())
            if self._may():
                self.areas.tick(self._clock())

    def link_lost(self) -> None:
        """Our connection to the broker went down."""
        self._hand_on(ev.LinkLost())

    def link_back(self) -> None:
        """Our connection to the broker is back."""
        self._hand_on(ev.LinkBack())
        if not self._reading:
            self.consumers.renew(self._now_stored)

    async def _now_stored(self) -> None:
        """What TASKS holds by now may have been delivered before."""
        last = jetstream.last_seq(await jetstream.stream_info(self._bus, streams.TASKS))
        self.inbound.fresh_after_seq = max(self.inbound.fresh_after_seq, last)

    async def stop(self, reason: str) -> None:
        """Stop listening, pulling and acting. With a valid lease the last events are still said; else nothing any more."""
        if self._lease.valid:
            data = CoordinatorEvent(self._name, self._lease.term, reason)
            key = f"{self._name}.{self._lease.term}.stopped"
            self.events.emit("coordinator.stopped", self._name, key, data, self._clock())
        else:
            self._store.close()
            self.events.close()
        self._reading = True
        self.outbound.stop()
        self.registrar.stop()
        self.api.stop()
        await self.areas.stop()
        for waker in (self._ticker, self._telling, self._alarm):
            if waker is not None:
                waker.cancel()
        for subscription in self._subscriptions:
            await subscription.close()
        await self.consumers.stop()
        if self._lease.valid:
            await self.events.drain(1.0)
        self.events.close()
        gc.unfreeze()
