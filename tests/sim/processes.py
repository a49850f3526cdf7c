"""The processes of a world: coordinators, nodes and a submitter, each the real code on a loop and a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from coordinator.service import Service
from node.config import Settings
from node.core.link import Goodput
from node.daemon import Daemon
from schemas.device import DeviceCapabilities, DeviceState, ThermalState
from schemas.store import Store
from schemas.target import Target
from tests.sim import bus as sim_bus
from tests.sim.broker import Broker
from tests.sim.bus import SimBus
from tests.sim.clock import Loop, Timeline

TARGET = Target("nats://world")
KEY = "U" + "A" * 55


class Process:
    """Something that can be started, stalled, cut off and killed. `skew_s` is how far its machine's clock is off."""

    def __init__(self, world: Any, name: str, delay_s: float, skew_s: float) -> None:
        self.world, self.name, self.delay_s, self.skew_s = world, name, delay_s, skew_s
        self.loop: Loop | None = None
        self.bus: SimBus | None = None
        self.lives = 0
        self.touched_at = 0.0  # when something bad last happened to it
        self.cut = False
        self.about_to_say: Callable[[str], None] | None = None

    @property
    def alive(self) -> bool:
        return self.loop is not None and not self.loop.dead

    @property
    def well(self) -> bool:
        """It runs, and can reach the broker."""
        loop, bus = self.loop, self.bus
        return (
            loop is not None and not loop.dead and not loop.stalled and bus is not None
            and bus.connection is not None and bus.connection.open and bus.connection.known and not bus.connection.holed
        )  # fmt: skip

    def start(self) -> None:
        """A new process."""
        if self.alive:
            return
        self.lives += 1
        self.touch()
        self.bus = None
        loop = self.loop = Loop(self.world.timeline, self.name, self.world.fault_in(self.name))
        loop.owner = self
        loop.seen = self.world.invariants  # type: ignore[attr-defined]
        self.world.timeline.as_running(loop, self._go, loop)

    def _go(self, loop: Loop) -> None:
        loop.create_task(self.main()).add_done_callback(self._ended)

    def _ended(self, task: Any) -> None:
        """A daemon that ends by itself is at fault: the world stops none."""
        if self.alive and not task.cancelled() and task.exception() is not None:
            self.world.fault_in(self.name)({"message": "it ended by itself", "exception": task.exception()})

    def main(self) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError

    def new_bus(self, name: str) -> SimBus:
        assert self.loop is not None
        self.bus = SimBus(self.world.broker, self.loop, name, f"{self.name}-{self.lives}", self.delay_s)
        self.bus.cut = self.cut
        self.bus.about_to_say = self.about_to_say
        return self.bus

    def touch(self) -> None:
        self.touched_at = self.world.timeline.now

    def kill(self) -> None:
        """SIGKILL: some of what was just written still leaves."""
        if not self.alive:
            return
        self.touch()
        assert self.loop is not None
        if self.bus is not None and self.bus.connection is not None:
            connection, self.bus.connection = self.bus.connection, None
            self.bus._up = False
            self.bus._closing = True
            connection.client_died(self.world.rng.random() * 2 * self.delay_s)
        self.loop.kill()

    def stall(self, seconds: float) -> None:
        if self.alive:
            self.touch()
            assert self.loop is not None
            self.loop.stall(seconds)
            self.world.timeline.after(seconds, self.touch)

    def isolate(self, seconds: float, *, silent: bool) -> None:
        """Its link is cut: reset, or (silently) a hole that swallows packets."""
        self.touch()
        self.cut = True
        if self.bus is not None:
            self.bus.cut = True
            connection = self.bus.connection
            if connection is not None:
                if silent:
                    connection.hole()
                    rng = self.world.rng
                    self.world.timeline.after(rng.uniform(0.5, 1.5) * seconds, self._give_up, connection, True)
                    self.world.timeline.after(rng.uniform(0.5, 1.5) * seconds, self._give_up, connection, False)
                else:
                    connection.reset("Read Error")
        self.world.timeline.after(seconds, self._join, self.bus, self.bus and self.bus.connection)

    def _give_up(self, connection: Any, by_client: bool) -> None:
        """One end finds the other silent for too long, if it still is."""
        if connection.holed:
            if by_client:
                connection.client_breaks()
            else:
                self.world.broker.gone(connection, "Stale Connection")

    def _join(self, bus: SimBus | None, connection: Any) -> None:
        self.cut = False
        self.touch()
        if bus is not None:
            bus.cut = False
        if self.bus is not None:
            self.bus.cut = False
        if connection is not None and connection.holed:
            connection.heal()
            if not (connection.open and connection.known):  # one end is gone: the other learns of it
                connection.reset("Client Closed")


class CoordinatorProcess(Process):
    """`coordinator.service.Service`, whole."""

    service: Service

    async def main(self) -> None:
        self.service = Service(TARGET, self.name, 1, 0.0 if self.world.plan.relay else inf)
        await self.service.run()

    @property
    def acting(self) -> Any:
        """Its term, if it has one."""
        return getattr(self.service, "_acting", None) if self.alive and hasattr(self, "service") else None


class SimDevice:
    """A device on the mains with so many cores."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._state = DeviceState(mains=True, thermal_state=ThermalState.NORMAL)

    def capabilities(self) -> DeviceCapabilities:
        return DeviceCapabilities(cpu_cores=self._cores, ram_total_mb=8192)

    def state(self, now: float) -> DeviceState:
        return self._state

    def set_peers(self, _round_trips_ms: dict[str, int]) -> None: ...

    def set_encrypted(self, _encrypted: bool) -> None: ...

    def set_latency(self, round_trip_ms: float | None) -> None: ...

    @property
    def goodput(self) -> Goodput:
        return Goodput()

    def set_broker(self, host: str) -> None: ...

    def close(self) -> None: ...


class SimIdentity:
    """A key that everybody believes."""

    key = KEY

    def __init__(self, folder: Path) -> None: ...

    def sign(self, node: str, session: str, challenge: str) -> str:
        return "signed"


class NodeProcess(Process):
    """`node.daemon.Daemon`, whole but for its device, its key and its runners."""

    def __init__(self, world: Any, name: str, delay_s: float, skew_s: float, cores: int, memory_mb: int) -> None:
        super().__init__(world, name, delay_s, skew_s)
        self.cores, self.memory_mb = cores, memory_mb
        self.daemon: Daemon | None = None

    async def main(self) -> None:
        settings = Settings(
            name=self.name, cores=float(self.cores), memory_mb=self.memory_mb, slots=self.cores, leave_grace_s=1.0,
            look_again_s=86_400.0,
        )  # fmt: skip
        daemon = self.daemon = Daemon(
            self.name, settings, TARGET, self.world.folder / self.name, lambda: SimDevice(self.cores)
        )  # type: ignore[arg-type,return-value]
        await daemon.run()

    @property
    def desk(self) -> Any:
        """What it holds; None before it has one."""
        recorder = getattr(self.daemon, "_recorder", None) if self.alive else None
        return None if recorder is None else recorder._desk

    def kill(self) -> None:
        super().kill()
        self.world.invariants.node_died(self.name)
        self.daemon = None


class Submitter(Process):
    """Who submits and cancels. It stays up; its link may not."""

    store: Store

    async def main(self) -> None:
        bus = self.new_bus("fog-client")
        await sim_bus.connect(bus, None, None, wait=True)
        self.store = Store(bus)
        with contextlib.suppress(AttributeError):
            self.ready()

    ready: Callable[[], None]


def make_rng(seed: int, what: str) -> Random:
    """A generator of its own for each purpose, so that one more draw here changes nothing there."""
    return Random(f"{seed}.{what}")


__all__ = ["Broker", "CoordinatorProcess", "NodeProcess", "Process", "Submitter", "Timeline", "make_rng"]
