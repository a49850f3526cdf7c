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

from coordinator import takeover
from coordinator.api import Api
from coordinator.bodies import Bodies
from coordinator.clock import Clock
from coordinator.core import events as ev
from coordinator.core.actions import Action
from coordinator.core.machine import Coordinator, pump, step
from coordinator.inbound import Bad, Inbound
from coordinator.lease import Lease
from coordinator.outbound import Outbound
from coordinator.registrar import Registrar
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus, Subscription
from schemas.codec import encode
from schemas.errors import FogError
from schemas.event import CoordinatorEvent
from schemas.eventlog import EventLog
from schemas.logs import fields
from schemas.membership import AllReport
from schemas.pull import Message, Puller
from schemas.store import Store
from schemas.task import TaskPriority

log = logging.getLogger("fog.coordinator")

TICK_S = 0.5
PULL_BATCH = 500
TASKS_PENDING_MAX = 20_000  # un-acked TASKS of one priority; the core's windows are smaller
OUTCOMES_PENDING_MAX = 5_000
SLOW_TURN_S = 1.0


class Acting:
    """The acting coordinator of one term."""

    def __init__(self, bus: Bus, store: Store, lease: Lease, clock: Clock, name: str, bad: Bad) -> None:
        self._bus, self._store, self._lease, self._clock, self._name = bus, store, lease, clock, name
        self._loop = asyncio.get_running_loop()
        self.state = Coordinator(random.Random())
        self.bodies = Bodies()
        self.events = EventLog(bus, store, f"/fog/coordinator/{name}")
        self.events.term = lease.term
        self.inbound = Inbound(bus, self.bodies, self._hand_on, bad)
        self.registrar = Registrar(bus, store, self._hand_on, bad, clock)
        self.outbound = Outbound(
            bus, store, self.bodies, self.events, self.inbound, self.registrar, self._hand_on, self._wake_at, lease.term
        )
        self.api = Api(bus, self.state, self._hand_on, bad, clock)
        self._heard: list[ev.Event] = []
        self._turn_due = False
        self._reading = True  # taking over: turns wait
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._ticker: asyncio.Task[None] | None = None
        self._pullers: list[Puller] = []
        self._consumers: list[tuple[str, str]] = []
        self._renewing: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Take over: read what the streams hold, then listen, pull and act."""
        term = self._lease.term
        await takeover.drop_old_consumers(self._bus)
        listen = {
            subjects.done("*", "*"): self.inbound.done,
            subjects.heartbeat("*"): self.inbound.beat,
            subjects.register("*"): self.registrar.heard,
            subjects.DISCONNECTS: self.inbound.disconnect,
        }
        for subject, handler in listen.items():
            self._subscriptions.append(await self._bus.subscribe(subject, handler))
        read: list[ev.Event] = []
        await takeover.read_everything(self._bus, self._store, self.inbound, read.append)
        self._heard[:0] = [*read, ev.TakenOver(self._name, term)]
        self._reading = False
        self._turn()
        self._subscriptions.append(await self._bus.subscribe(subjects.api("*", "*"), self.api.heard))
        for priority in TaskPriority:
            await self._pull_tasks(priority, term)
        await self._pull_outcomes(term)
        self._ticker = self._loop.create_task(self._tick())
        self._bus.publish(subjects.ALL_REPORT, encode(AllReport(term)))
        # What was read lives long: no collection need look through it.
        gc.freeze()
        log.info("acting", extra=fields(term=term, coordinator=self._name))

    async def _pull_tasks(self, priority: TaskPriority, term: int) -> None:
        name = takeover.consumer_name(f"p{priority:d}", term)

        async def make() -> None:
            await jetstream.create_consumer(
                self._bus,
                streams.TASKS,
                name,
                filter_subject=subjects.submit(priority, "*", "*"),
                ack_wait_s=limits.TASKS_ACK_WAIT_S,
                max_ack_pending=TASKS_PENDING_MAX,
            )

        def room() -> int:
            return 0 if self.bodies.full or not self._lease.valid else self.state.intake_room(priority)

        await make()
        await self._pull(
            Puller(self._bus, streams.TASKS, name, self._task, batch=PULL_BATCH, on_missing=make, room=room)
        )
        self._consumers.append((streams.TASKS, name))

    async def _pull_outcomes(self, term: int) -> None:
        name = takeover.consumer_name("outcomes", term)

        async def make() -> None:
            await jetstream.create_consumer(
                self._bus,
                streams.OUTCOMES,
                name,
                filter_subject=subjects.outcome("*", "*"),
                ack_wait_s=limits.TASKS_ACK_WAIT_S,
                max_ack_pending=OUTCOMES_PENDING_MAX,
            )

        await make()
        await self._pull(
            Puller(self._bus, streams.OUTCOMES, name, self.inbound.outcome, batch=PULL_BATCH, on_missing=make)
        )
        self._consumers.append((streams.OUTCOMES, name))

    async def _pull(self, puller: Puller) -> None:
        self._pullers.append(puller)
        await puller.start()

    def _task(self, message: Message) -> None:
        self.inbound.task(message)

    def _hand_on(self, event: ev.Event) -> None:
        self._heard.append(event)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Give the core everything that came together, place what can be placed, and say the outcome."""
        self._turn_due = False
        if self._reading or not self._lease.valid:
            return  # kept for when the lease is renewed; gone with the term otherwise
        now = self._clock()
        heard, self._heard = self._heard, []
        wanted: list[Action] = []
        for event in heard:
            try:
                wanted += step(self.state, event, now)
            except Exception:
                log.exception("an event could not be handled", extra=fields(event=f"{event!r:.300}"))
                self.inbound.bad.add("event", type(event).__name__, "could not be handled")
        wanted += pump(self.state, now)
        self.outbound.do(wanted, now)
        for puller in self._pullers:
            puller.ask()

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

    def link_lost(self) -> None:
        """Our connection to the broker went down."""
        self._hand_on(ev.LinkLost())

    def link_back(self) -> None:
        """Our connection to the broker is back."""
        self._hand_on(ev.LinkBack())
        if not self._reading and (self._renewing is None or self._renewing.done()):
            self._renewing = self._loop.create_task(self._renew_consumers())

    async def _renew_consumers(self) -> None:
        """Acks went with the old connection. What they were for is delivered anew, and acked or judged again."""
        left = list(self._consumers)
        while left and not self._reading:
            try:
                last = jetstream.last_seq(await jetstream.stream_info(self._bus, streams.TASKS))
                self.inbound.fresh_after_seq = max(self.inbound.fresh_after_seq, last)
                while left:
                    await jetstream.delete_consumer(self._bus, *left[-1])  # its puller makes it anew
                    left.pop()
            except FogError:
                await asyncio.sleep(TICK_S)

    async def stop(self, reason: str) -> None:
        """Stop listening, pulling and acting. With a valid lease the last events are still said."""
        if self._lease.valid:
            data = CoordinatorEvent(self._name, self._lease.term, reason)
            key = f"{self._name}.{self._lease.term}.stopped"
            self.events.emit("coordinator.stopped", self._name, key, data, self._clock())
        self._reading = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        for puller in self._pullers:
            await puller.stop()
        for subscription in self._subscriptions:
            await subscription.close()
        self.outbound.stop()
        self.registrar.stop()
        self.api.stop()
        if self._lease.valid:
            await self.events.drain(1.0)
        self.events.close()
