"""Many nodes in one process, each with a connection, a membership and a queue of its own: as daemons have, without runners.

``python -m tests.bench.crowd URL SEED FIRST COUNT`` plays those with numbers from FIRST on. It prints ``ready`` once all are
registered, then answers every line on stdin with ``<connected> <members again since they were last cut off>``; it ends when
stdin does.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from node.adviser import Adviser
from node.context import Context
from node.core.desk import Desk
from node.core.lanes import Room
from node.identity import Identity
from node.intake import Intake
from node.member import Member
from node.policy import PolicyFile
from schemas.bus import Bus
from schemas.device import DeviceCapabilities, DeviceState, DeviceType
from schemas.eventlog import EventLog
from schemas.membership import Held, Offer
from schemas.names import NODE_CONNECTION
from schemas.procs import die_with_parent
from schemas.store import Store
from schemas.target import Target

AT_ONCE = 32  # that come for the first time
CAPABILITIES = DeviceCapabilities(DeviceType.SMARTPHONE, cpu_cores=8, cpu_freq_ghz=2.4, ram_total_mb=6144)


class PlayedDevice:
    """A phone that lies on the table."""

    def state(self, _now: float) -> DeviceState:
        """At rest, on its charger."""
        return DeviceState(
            cpu_utilization=0.1, ram_available_mb=3000, battery_percent=80.0, is_charging=True, mains=False
        )

    def set_peers(self, _round_trips_ms: dict[str, int]) -> None: ...

    def set_encrypted(self, _encrypted: bool) -> None: ...

    def set_latency(self, _ms: float | None) -> None:
        """Of no interest here."""


class Watched(Member):
    """A membership that also tells when a reconnect left it as it was."""

    confirmed: asyncio.Event

    async def _still_registered(self) -> bool:
        still = await super()._still_registered()
        if still:
            self.confirmed.set()
        return still


class Node:
    """One of the crowd: what `node.daemon` does about its link, with the daemon's own parts."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"crowd-{number:05d}"
        self._folder = folder / self.name
        self._identity = Identity(self._folder)
        self.registered = asyncio.Event()
        self._ready = False

    async def join(self, target: Target) -> None:
        """Connect, register, and pull."""
        connection = NODE_CONNECTION + self.name
        self.bus = bus = await Bus.connect(
            target, name=connection, on_lost=self._on_lost, on_back=self._on_back, wait=True
        )
        self._store, offer = Store(bus), Offer(cores=4.0, memory_mb=2048, slots=4)
        context = Context(self.name, bus, self._store, EventLog(bus, self._store, f"/fog/node/{self.name}"), offer)
        desk = Desk(Room(4, 4.0, 2048))
        played: Any = PlayedDevice()
        nothing: Any = None  # no work comes
        self._intake = Intake(context, desk, nothing, nothing, nothing, nothing)
        adviser = Adviser(played, CAPABILITIES, offer, desk, PolicyFile(self._folder))
        self._member = Watched(context, desk, played, adviser, self._identity, self._look, 3600.0, self._accepted)
        self._member.confirmed = self.registered
        await self._member.start()
        self._ready = True
        self._keeping = asyncio.create_task(self._member.keep_registered())
        await self.registered.wait()
        await self._intake.start()

    async def _look(self) -> DeviceCapabilities:
        return CAPABILITIES

    def _accepted(self, _gone: tuple[Held, ...], _resumed: bool) -> None:
        self.registered.set()

    def _on_lost(self) -> None:
        self.registered.clear()

    def _on_back(self) -> None:
        if self._ready:
            self._store.retry_now()
            self._intake.link_back()
            self._starting = asyncio.create_task(self._intake.start())
            self._member.link_back()


async def play(url: str, seed: str, first: int, count: int) -> None:
    """Have everyone join, and tell how many are there when asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count), hard), hard))
    with tempfile.TemporaryDirectory(prefix="fog-crowd-") as folder:
        nodes = [Node(number, Path(folder)) for number in range(first, first + count)]
        left = iter(nodes)

        async def one_after_another() -> None:
            for node in left:
                await node.join(Target(url, seed))

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            there = sum(node.bus.connected for node in nodes)
            print(there, sum(node.registered.is_set() for node in nodes), flush=True)


if __name__ == "__main__":
    die_with_parent()
    logging.disable(logging.WARNING)
    uvloop.run(play(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
