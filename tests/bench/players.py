"""A crowd of playing nodes in one process: each registers with a key of its own, beats, and answers when probed.

``python -m tests.bench.players URL SEED COUNT`` prints ``ready`` once all are registered and beating, then answers every
line on stdin with ``<beats sent> <worst lateness in s> <digests sent> <those taken> <players relayed>``; it ends when stdin
does. Some lines also change something:

- ``apart``: each beat goes out at its own moment, as from devices with connections of their own, not with all of 10 ms;
- ``quiet``: of four of five devices load and memory hardly change; ``busy``: of all by much;
- ``relay``: those who lead a cluster that relays say their members' beats in digests. What members and leaders say to each
  other stays in this process: it is no part of what the coordinator is given.
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
from schemas.cluster import Membership
from schemas.device import DeviceCapabilities, DeviceState, DeviceType
from schemas.errors import FogError
from schemas.membership import Heartbeat, NodeAnswer, Offer, Register, Registered
from schemas.names import new_id
from schemas.procs import die_with_parent
from schemas.relay import Digest, DigestAck, Still
from schemas.target import Target

ASKING = 32  # registrations under way at a time
TICK_S = 0.01
BUSY_EVERY = 5  # of the players in a fleet that is mostly quiet, one in so many is busy
NOTHING = DeviceState()
APART_S = 0.0003  # less than lies between two beats of 10,000 nodes
REQUEST_S = 30.0

encode = msgspec.json.Encoder().encode
decode_registered = msgspec.json.Decoder(Registered).decode
decode_membership = msgspec.json.Decoder(Membership).decode
decode_ack = msgspec.json.Decoder(DigestAck).decode


class Player:
    """One node, as far as the wire can tell."""

    def __init__(self, number: int) -> None:
        self.id = f"player-{number:05d}"
        self.boot, self._seq = 0, 0
        self.seat: Membership | None = None  # where its beats are to be relayed
        self.relayed = False
        self.quiet = False
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
        beat = Heartbeat(self.id, self.boot, self._seq, round(time.time(), 3), state=self._state())
        bus.publish(subjects.heartbeat(self.id), encode(beat))

    def relayed_beat(self) -> Still:
        """The same, as its leader passes it on: heard up to a tenth of the interval ago."""
        self._seq += 1
        age_s = round(random.uniform(0.02, 0.08) * limits.HEARTBEAT_S, 3)
        state = NOTHING if self.quiet else self._state()  # see node/core/beats.py: what hardly changed is not said
        return Still(self.id, self.boot, self._seq, round(time.time() - age_s, 3), state=state, age_s=age_s)

    def _state(self) -> DeviceState:
        """What changed since the beat before: load and memory, of a busy device by much, of a quiet one by a little."""
        much = not self.quiet
        return DeviceState(
            cpu_utilization=round(random.random() if much else random.uniform(0.01, 0.05), 2),
            ram_available_mb=random.randint(1000, 3000) if much else random.randint(2980, 3020),
        )


async def play(url: str, seed: str, count: int) -> None:
    """Register `count` players and keep them beating, spread evenly over the interval."""
    bus = await Bus.connect(Target(url, seed), name="players")
    players = [Player(number) for number in range(count)]
    by_id = {player.id: player for player in players}

    def on_command(subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        node, verb = subjects.tail(subject, 1)
        player = by_id.get(node)
        if player is None:
            return
        if verb == "cluster":
            seat = decode_membership(data)
            player.seat, player.relayed = (seat if seat.relay and seat.peers else None), False
        if reply:
            bus.publish(reply, encode(NodeAnswer(player.id, player.boot)))

    await bus.subscribe(subjects.command("*", "*"), on_command)
    beating = Beating(bus, by_id)
    running = asyncio.create_task(beating.run())
    await register_all(bus, players, beating)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if running.done():
            running.result()
        beating.relaying |= line == "relay\n"
        if line in ("quiet\n", "busy\n"):
            for number, player in enumerate(players):
                player.quiet = line == "quiet\n" and number % BUSY_EVERY > 0
        if line == "apart\n":
            beating.tick_s = APART_S
        relayed = sum(player.relayed for player in players)
        print(beating.sent, round(beating.worst_s, 3), beating.digests, beating.taken, relayed, flush=True)
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

    def __init__(self, bus: Bus, players: dict[str, Player]) -> None:
        self._bus, self._players = bus, players
        self.relaying = False
        self.tick_s = TICK_S
        self.digests = self.taken = 0
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
                self._beat(player)
                self.worst_s = max(self.worst_s, now - at)
                self._due.append((at + limits.HEARTBEAT_S, player))
            await asyncio.sleep(self.tick_s)

    def _beat(self, player: Player) -> None:
        """By itself; or as the leader for all its members, who say nothing themselves from then on."""
        seat = player.seat if self.relaying else None
        if seat is None or (seat.leader != player.id and not player.relayed):
            player.beat(self._bus)
            self.sent += 1
        elif seat.leader == player.id:
            here = [self._players[peer.node] for peer in seat.peers]
            members = [m for m in here if m.seat is not None and m.seat.cluster == seat.cluster]
            for member in members:
                member.relayed = True
            digest = Digest(seat.cluster, seat.cluster_term, tuple(member.relayed_beat() for member in members))
            self._bus.call(subjects.digest(player.id), encode(digest), self._acked)
            self.sent += len(members)
            self.digests += 1

    def _acked(self, data: bytes, _headers: bytes) -> None:
        ack = decode_ack(data) if data else None
        self.taken += ack is not None and not ack.error and not ack.not_taken


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(play(sys.argv[1], sys.argv[2], int(sys.argv[3])))
