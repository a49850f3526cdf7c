"""A crowd of playing nodes in one process: each registers with a key of its own, beats, and answers when probed.

``python -m tests.bench.players URL SEED COUNT`` prints ``ready`` once all are registered and beating, then answers every
line on stdin with ``<beats sent> <worst lateness in s>``; it ends when stdin does.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import sys
import time
from collections import deque

import msgspec
import nkeys
import uvloop

from schemas import limits, subjects
from schemas.bus import Bus
from schemas.device import DeviceCapabilities, DeviceState, DeviceType
from schemas.errors import FogError
from schemas.membership import Heartbeat, NodeAnswer, Offer, Register, Registered
from schemas.names import new_id
from schemas.procs import die_with_parent
from schemas.target import Target

ASKING = 32  # registrations under way at a time
TICK_S = 0.01
REQUEST_S = 30.0

encode = msgspec.json.Encoder().encode
decode_registered = msgspec.json.Decoder(Registered).decode


class Player:
    """One node, as far as the wire can tell."""

    def __init__(self, number: int) -> None:
        self.id = f"player-{number:05d}"
        self.boot, self._seq = 0, 0
        self._key = nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)))
        self._session = new_id()

    async def register(self, bus: Bus) -> None:
        """Ask, sign the challenge, and be taken in; raises FogError when refused."""
        challenged = await self._ask(bus, "")
        answer = await self._ask(bus, challenged.challenge)
        if answer.error or not answer.boot:
            raise FogError(f"{self.id} was refused: {answer.error}")
        self.boot = answer.boot

    async def _ask(self, bus: Bus, challenge: str) -> Registered:
        signed = self._key.sign(f"{self.id}:{self._session}:{challenge}".encode()) if challenge else b""
        register = Register(
            self.id,
            self._key.public_key.decode().rstrip("="),
            self._session,
            DeviceCapabilities(DeviceType.SMARTPHONE, cpu_cores=8, cpu_freq_ghz=2.4, ram_total_mb=6144),
            Offer(cores=4.0, memory_mb=2048, slots=4),
            DeviceState(
                cpu_utilization=0.1, ram_available_mb=3000, battery_percent=80.0, is_charging=True, mains=False
            ),
            challenge,
            base64.b64encode(signed).decode(),
        )
        return decode_registered(await bus.request(subjects.register(self.id), encode(register), REQUEST_S))

    def beat(self, bus: Bus) -> None:
        """What a node says every five seconds: load and memory have changed, the rest has not."""
        self._seq += 1
        state = DeviceState(cpu_utilization=round(random.random(), 2), ram_available_mb=random.randint(1000, 3000))
        beat = Heartbeat(self.id, self.boot, self._seq, round(time.time(), 3), state=state)
        bus.publish(subjects.heartbeat(self.id), encode(beat))


async def play(url: str, seed: str, count: int) -> None:
    """Register `count` players and keep them beating, spread evenly over the interval."""
    bus = await Bus.connect(Target(url, seed), name="players")
    players = [Player(number) for number in range(count)]
    by_id = {player.id: player for player in players}

    def on_command(subject: str, reply: str, _data: bytes, _headers: bytes) -> None:
        player = by_id.get(subjects.tail(subject, 1)[0])
        if player is not None:
            bus.publish(reply, encode(NodeAnswer(player.id, player.boot)))

    await bus.subscribe(subjects.command("*", "*"), on_command)
    beating = Beating(bus)
    running = asyncio.create_task(beating.run())
    await register_all(bus, players, beating)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        if running.done():
            running.result()
        print(beating.sent, round(beating.worst_s, 3), flush=True)
        beating.worst_s = 0.0
    running.cancel()
    await bus.close()


async def register_all(bus: Bus, players: list[Player], beating: Beating) -> None:
    """Register everyone, a few at a time; each beats from its registration on."""
    left = iter(players)

    async def one_after_another() -> None:
        for player in left:
            await player.register(bus)
            beating.add(player)

    await asyncio.gather(*(one_after_another() for _ in range(ASKING)))
    beating.spread()


class Beating:
    """Keeps players beating every `limits.HEARTBEAT_S`, in a circle; `worst_s` is how late the latest beat was."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._due: deque[tuple[float, Player]] = deque()  # soonest first: all have the same interval
        self.sent, self.worst_s = 0, 0.0

    def add(self, player: Player) -> None:
        """Beat now, and from now on."""
        player.beat(self._bus)
        self.sent += 1
        self._due.append((time.monotonic() + limits.HEARTBEAT_S, player))

    def spread(self) -> None:
        """Give everyone an own moment within the interval, never later than it was due."""
        now, step = time.monotonic(), limits.HEARTBEAT_S / len(self._due)
        self._due = deque((now + index * step, player) for index, (_, player) in enumerate(self._due))

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                at, player = self._due.popleft()
                player.beat(self._bus)
                self.sent += 1
                self.worst_s = max(self.worst_s, now - at)
                self._due.append((at + limits.HEARTBEAT_S, player))
            await asyncio.sleep(TICK_S)


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(play(sys.argv[1], sys.argv[2], int(sys.argv[3])))
