"""The node daemon: its parts put together, from the first start of a runner to the last beat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from node.adviser import Adviser
from node.apps.fetch import Fetcher
from node.apps.keeper import Apps
from node.apps.peers import Peers
from node.apps.share import Share
from node.beside import Beside
from node.blobs import Blobs
from node.clusters import Clusters
from node.config import Settings, read_share
from node.context import Context
from node.core.desk import Desk
from node.core.lanes import Room
from node.core.serving import why_not_serve
from node.device import Device
from node.enforce.enforcer import Enforcer, usable_cores
from node.enforce.throttle import PacedObjects, Throttle
from node.executor import Executor
from node.harvester import Harvester
from node.heed import Heed
from node.identity import Identity
from node.intake import Intake
from node.kept import Folder
from node.leaser import Leaser
from node.member import Member
from node.nearness import Nearness
from node.offer import offer_of
from node.orders import Orders
from node.outbox import Outbox
from node.outputs import Outputs
from node.policy import PolicyFile
from node.recorder import Recorder
from node.relay import Relay
from node.sleeper import Sleeper
from node.terms import terms_of
from node.transports import Transports
from schemas.advice import Advice
from schemas.bus import Bus
from schemas.device import DeviceCapabilities
from schemas.errors import FogError
from schemas.event import NodeEvent
from schemas.eventlog import EventLog
from schemas.logs import fields
from schemas.membership import Held
from schemas.names import NODE_CONNECTION
from schemas.store import Store
from schemas.target import Target

log = logging.getLogger("fog.node")

STOP_S = 2.0  # for runners to be gone after their grace, and again for the broker to take the last messages
T = TypeVar("T")
LEAVING = "the node is going down"


class Daemon:
    """One node of the fleet, from `run` to a signal."""

    def __init__(
        self, name: str, settings: Settings, target: Target, folder: Path, make_device: Callable[[], Device]
    ) -> None:
        self._name, self._settings, self._target = name, settings, target
        self._identity, self._folder = Identity(folder), folder
        self._make_device, self._device = make_device, make_device()
        self._apps = Apps(folder / "apps", services="app" in settings.allow)
        self._stop = asyncio.Event()
        self._parts_ready = False
        self._reading: asyncio.Task[None] | None = None
        self._again = Beside(log, "what the cut link ended could not be begun again")
        self._terms = terms_of(settings.harvest) if settings.harvest.enabled else None
        self._harvester: Harvester | None = None

    async def run(self) -> None:
        """Join and work until SIGTERM or SIGINT, then leave in order. Raises FogError when it cannot work at all."""
        loop = asyncio.get_running_loop()
        for name, do in self._signals().items():
            with contextlib.suppress(NotImplementedError, AttributeError):  # Windows
                loop.add_signal_handler(getattr(signal, name), do)
        await self._apps.open()  # what ran runs again, whether or not a broker can be reached
        try:
            await self._join()
        finally:
            await self._apps.close()

    async def _join(self) -> None:
        connecting = asyncio.create_task(
            Bus.connect(
                self._target, name=NODE_CONNECTION + self._name, on_lost=self._on_lost, on_back=self._on_back, wait=True
            )
        )
        bus = await self._unless_stopped(connecting)
        if bus is None:
            return
        bus.when_closed(self._stop.set)
        try:
            await self._work(bus)
        finally:
            await bus.close()
            self._device.close()
        if bus.closed_for:
            raise FogError(f"the broker ended the connection: {bus.closed_for}", hint="start the node again")

    def _signals(self) -> dict[str, Callable[[], None]]:
        return {"SIGTERM": self._stop.set, "SIGINT": self._stop.set, "SIGUSR1": self._sleep, "SIGUSR2": self._wake}

    def _sleep(self) -> None:
        """Before it is part of a fleet there is nobody to tell."""
        if self._parts_ready:
            self._sleeper.sleep()

    def _wake(self) -> None:
        if self._parts_ready:
            self._sleeper.wake("a signal")

    async def _unless_stopped(self, task: asyncio.Task[T]) -> T | None:
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    async def _work(self, bus: Bus) -> None:
        # The desk exists before its offer is known: a runner tells the functions.
        capabilities = self._device.capabilities()
        room_of = offer_of(self._settings, capabilities, ())
        desk = Desk(Room(room_of.slots, room_of.cores, room_of.memory_mb))
        store = Store(bus)
        context = Context(self._name, bus, store, EventLog(bus, store, f"/fog/node/{self._name}"), room_of)
        throttle = Throttle()
        objects = PacedObjects(bus, throttle)
        blobs = Blobs(
            objects, lambda: None if self._enforcer.ceilings.bandwidth_mbps is not None else self._device.goodput
        )
        self._adviser = adviser = Adviser(self._device, capabilities, room_of, desk, PolicyFile(self._folder))
        self._transports = transports = Transports(context, lambda: adviser.way)
        kept = Folder(self._folder / "outbox")
        self._outbox = outbox = Outbox(context, desk, objects, kept, transports, self._on_full)
        recorder = Recorder(context, desk, Outputs(context), blobs, outbox, adviser.working)
        self._executor = executor = Executor(desk, self._settings.imports, recorder)
        self._enforcer = Enforcer(executor, usable_cores(capabilities.cpu_cores), self._settings.limits, throttle)
        self._context, self._store, self._recorder = context, store, recorder
        try:
            await outbox.open()
            hello = await self._unless_stopped(asyncio.create_task(executor.pool.hello()))
            if hello is None:
                return
            if hello.error:
                raise FogError(hello.error, hint="correct the module, or leave --import out")
            context.offer = offer_of(self._settings, capabilities, hello.offers)
            member = self._make_parts(capabilities, blobs)
            await self._join_peers(bus, throttle)
            self._follow(adviser, Heed(context, desk, executor, self._orders, recorder, member.beat))
            await self._clusters.start()
            await self._orders.start()
            await member.start()
            self._parts_ready = True
            await self._serve(member)
            await self._leave(context, executor)
        finally:
            adviser.stop()
            await self._enforcer.close()
            await executor.pool.close()
            await outbox.keep_all()
            store.close()
            transports.close()
            outbox.close()
            if self._harvester is not None:
                await self._harvester.close()

    def _make_parts(self, capabilities: DeviceCapabilities, blobs: Blobs) -> Member:
        """What makes it a part of a fleet, once it is known what this device offers."""
        context, executor, recorder, adviser = self._context, self._executor, self._recorder, self._adviser
        desk, transports = executor.desk, self._transports
        self._member = member = Member(
            context, desk, self._device, adviser, self._identity,
            self._look_again, self._settings.look_again_s, self._on_registered,
        )  # fmt: skip
        member.enforced = self._enforcer.report
        self._clusters = Clusters(context, self._device.state, self._settings.vote)
        relay = Relay(context, self._clusters.seats, lambda: member.beat(True), member.plan)
        self._clusters.relay = member.relay = relay
        self._sleeper = sleeper = Sleeper(
            context, recorder, member.beat, self._room_again, self._settings.sleep_s, self._folder / "asleep"
        )
        self._orders = orders = Orders(
            context, desk, executor, recorder, adviser, member.beat, member.on_term, self._clusters, sleeper,
            transports,
        )  # fmt: skip
        self._leaser = member.leaser = Leaser(context, desk, executor, member.beat)
        self._intake = Intake(
            context, desk, executor, recorder, blobs, self._leaser.arrived, lambda: bool(adviser.way.spares)
        )
        self._registered = asyncio.Event()
        self._harvester = self._make_harvester(capabilities)
        self._nearness = nearness = Nearness(
            context,
            self._clusters.seats,
            lambda: adviser.advice.power_mode,
            lambda: adviser.state,
            self._device.set_peers,
        )
        member.on_beat.extend((transports.on_beat, self._intake.on_beat, nearness.on_beat))
        orders.on_assignment = self._apps.on_assignment
        return member

    async def _join_peers(self, bus: Bus, throttle: Throttle) -> None:
        """Apps come from the store, and from members of its clusters, which get them from here if its owner wants that."""
        context, adviser, clusters = self._context, self._adviser, self._clusters

        def why_not() -> str:
            return why_not_serve(adviser.advice, adviser.state, context.refuses)

        def site() -> str:
            return adviser.state.network_gateway or ""

        self._share = share = Share(clusters.seats, self._apps.shelf, throttle, why_not, site)
        clusters.share(share.held, share.near)
        peers = Peers(
            context, clusters.seats, clusters.seated, throttle.paced, lambda: bool(share.at) and not why_not(), site
        )

        def transfer_bytes() -> int:
            return adviser.advice.transfer_kb * 1024

        self._apps.attach(context, lambda disk, shelf: Fetcher(bus, disk, shelf, peers, transfer_bytes, throttle))
        await self._open_share()

    async def _open_share(self) -> None:
        """Also after the link was gone: the device's address may be another one then."""
        if self._settings.share:
            parts = urlsplit(self._target.url.split(",")[0])
            await self._share.open(
                *read_share(self._settings.share), (parts.hostname or "127.0.0.1", parts.port or 4222)
            )

    def _make_harvester(self, capabilities: DeviceCapabilities) -> Harvester | None:
        """What lets this device work only while nobody needs it, if its owner wants that."""
        if self._terms is None:
            return None
        return Harvester(
            self._context, self._orders, self._recorder, self._enforcer, self._executor.busy, self._terms,
            capabilities.ram_total_mb, self._device, self._member.beat, self._folder, self._transports,
        )  # fmt: skip

    async def _serve(self, member: Member) -> None:
        """Until told to stop; raises when membership or the intake fails for good."""
        tasks = [
            asyncio.create_task(member.keep_registered()),
            asyncio.create_task(self._begin_intake()),
            asyncio.create_task(self._stop.wait()),
        ]
        if self._harvester is not None:
            tasks.append(asyncio.create_task(self._harvester.run()))
        try:
            while not self._stop.is_set():
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                tasks = [task for task in tasks if task not in done]
        finally:
            for task in tasks:
                task.cancel()

    async def _begin_intake(self) -> None:
        await self._registered.wait()
        while True:
            try:
                await self._intake.start()
                return
            except FogError as error:
                log.warning("cannot pull work yet", extra=fields(error=error.message))
                await asyncio.sleep(1.0)

    async def _look_again(self) -> DeviceCapabilities:
        """Discover what the device is, on a thread and through a `Device` of its own: it may run slow programs."""

        def look() -> DeviceCapabilities:
            device = self._make_device()
            try:
                return device.capabilities()
            finally:
                device.close()

        return await asyncio.to_thread(look)

    # What the parts tell.

    def _on_registered(self, gone: tuple[Held, ...], resumed: bool) -> None:
        if resumed:
            self._orders.end_drain()
        for one in gone:
            self._orders.drop(one.task, one.placement)
        self._registered.set()
        reading = asyncio.get_running_loop().create_task(self._read_assigned())
        self._reading, old = reading, self._reading
        if old is not None:
            old.cancel()

    async def _read_assigned(self) -> None:
        """What rollouts told this device while it was away; tried until it is read."""
        while True:
            try:
                await self._apps.read_assigned()
                return
            except FogError as error:
                log.warning("cannot read what rollouts told this device yet", extra=fields(error=error.message))
                await asyncio.sleep(2.0)

    def _on_lost(self) -> None:
        log.warning("the broker is gone", extra=fields(url=self._target.shown))
        self._device.set_latency(None)
        if self._parts_ready:
            self._outbox.link_lost()

    def _on_back(self) -> None:
        log.info("the broker is back")
        if self._parts_ready:
            self._store.retry_now()
            self._outbox.link_back()
            if lost := self._context.events.lost:
                log.warning("events were lost: more than can be kept were said meanwhile", extra=fields(events=lost))
            if self._settings.share:
                self._again.begin(self._open_share())
            if self._registered.is_set():
                self._intake.link_back()
                self._again.begin(self._begin_intake())
            self._member.link_back()

    def _follow(self, adviser: Adviser, heed: Heed) -> None:
        adviser.on_advice.extend((self._enforce, heed, self._apps.heed, lambda _: self._transports.reconsider()))
        adviser.held_mb = lambda: self._enforcer.report().memory_measured_mb or 0
        adviser.begin()

    def _enforce(self, advice: Advice) -> None:
        """Hold running work to the advice's limits; where they are all that is offered, nothing has to be watched."""
        limits = advice.limits
        lowered = limits.cpu_percent < 100 or limits.memory_mb < self._context.offer.memory_mb
        self._enforcer.apply(limits if lowered else None)

    def _on_full(self, full: bool) -> None:
        """What runs may end, and is kept; nothing more is begun until there is room, and what waits goes to others."""
        context = self._context
        self._executor.desk.paused = full
        if self._parts_ready:
            self._member.beat()
            key = f"{context.session}.outbox.{round(1000 * time.time())}"
            data = NodeEvent(context.node, context.boot, context.full)
            context.events.emit(
                "node.outbox-full" if full else "node.outbox-room", context.node, key, data, time.time()
            )
            if full:
                self._recorder.hand_back(context.full)
            self._room_again()
        self._executor.pump()

    def _room_again(self) -> None:
        self._intake.room_again()

    # Leaving.

    async def _leave(self, context: Context, executor: Executor) -> None:
        """Say so, hand back what waits, let what runs finish for a moment, hand back the rest, and see it all stored."""
        begun = time.monotonic()
        context.leaving = True
        self._member.beat()
        self._orders.close_to(LEAVING)
        if not await executor.until_idle(self._settings.leave_grace_s):
            self._orders.stop_all(LEAVING)
            await executor.until_idle(STOP_S)
        if self._harvester is not None:
            self._harvester.leave()
        await self._recorder.all_posted(max(STOP_S, self._settings.leave_grace_s))
        stored = await context.events.drain(STOP_S)
        self._clusters.stop()
        self._nearness.stop()
        await self._share.close()
        await self._intake.stop()
        self._member.beat()
        self._member.stop()
        self._sleeper.stop()
        self._leaser.stop()
        log.info("left", extra=fields(node=context.node, after_s=round(time.monotonic() - begun, 1), stored=stored))
