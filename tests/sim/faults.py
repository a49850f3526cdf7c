"""What goes wrong in a world, and when: drawn from its seed, until the world is left to heal."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random
from typing import Any

from msgspec import Struct

from schemas import limits
from schemas.streams import OUTCOMES, RESULTS, TASKS, WORK
from tests.sim.invariants import FREEZE_BOUND_S, KILL_BOUND_S


class Plan(Struct, frozen=True):
    """The size of a world and the mean number of each fault in its time of trouble. `slack`: see `patches`. `bursts`: so often
    many quick tasks come at once, which stand in lines before their runners. `relay`: heartbeats go by way of the leaders."""

    nodes: int = 4
    coordinators: int = 2
    tasks: int = 60
    bursts: int = 0
    trouble_s: float = 90.0
    start_s: float = 3.0
    cancels: float = 0.1
    exclusive: float = 0.0
    slow: str = ""  # the stream whose disk is slow (else any)
    delay_s: float = 0.002
    api_s: float = 0.005
    skew_s: float = 0.0
    slack: float = 1.0
    quantum_s: float = 0.0
    grain_s: float = 0.0
    rates: dict[str, float] = {}
    relay: bool = False


KINDS = (
    "node killed", "node stalled", "node cut", "node silent", "coordinator killed", "coordinator stalled",
    "coordinator cut", "coordinator silent", "broker killed", "slow disk", "client cut", "acks lost", "stalled as it speaks",
    "acks unheard", "node clock", "coordinator clock", "node drained",
)  # fmt: skip

SPOKEN = {
    ".cancel": 40,
    ".drain": 40,
    ".report": 20,
    ".result.": 20,
    ".work.": 2,
    "$JS.ACK.": 1,
}  # how often it is stopped then


def plan_of(seed: int) -> Plan:
    """The world of a seed: every one has a character of its own, so that some faults are seen alone and some together."""
    rng = Random(f"{seed}.plan")
    kinds = [kind for kind in KINDS if rng.random() < rng.choice((0.15, 0.5, 0.8))]
    rates = {kind: rng.choice((1.0, 3.0, 8.0)) for kind in kinds}
    return Plan(
        nodes=rng.choice((1, 2, 3, 5, 8)),
        coordinators=rng.choice((1, 2, 2, 2)),
        tasks=rng.choice((10, 40, 80)),
        trouble_s=rng.choice((40.0, 90.0, 150.0)),
        delay_s=rng.choice((0.0005, 0.005, 0.05)),
        api_s=rng.choice((0.001, 0.01, 0.2)),
        skew_s=rng.choice((0.0, 0.5, 3600.0)),
        exclusive=rng.choice((0.0, 0.1)),
        rates=rates,
        bursts=rng.choice((0, 0, 4, 12)),
        relay=rng.random() < 0.5,
    )


QUEUES = (
    TASKS,
    WORK,
    OUTCOMES,
    RESULTS,
)  # what tasks go through: slow half of the times, however many streams there are


class Faults:
    """Does it. `counts` tells what was done."""

    def __init__(self, world: Any, rng: Random) -> None:
        self.world, self.rng = world, rng
        self.counts: Counter[str] = Counter()
        self.over = False
        self._speaking = world.plan.rates.get("stalled as it speaks", 0.0)

    def plan(self) -> None:
        """Spread the faults over the time of trouble."""
        plan, rng = self.world.plan, self.rng
        if self._speaking:
            for process in self.world.coordinators:
                process.about_to_say = partial(self._about_to_say, process)
        for kind, mean in plan.rates.items():
            if kind == "stalled as it speaks":
                continue
            for _ in range(int(rng.expovariate(1 / mean)) + 1):
                at = rng.uniform(plan.start_s, plan.trouble_s * 0.95)
                self.world.timeline.at(at, self._do, kind)

    def end(self) -> None:
        """From now on all heals."""
        self.over = True
        for process in self.world._processes():
            process.start()
        if not self.world.broker.up:
            self.world.broker.start()
        for stream in self.world.broker.streams.values():
            stream.disk_s = 0.0

    def _do(self, kind: str) -> None:
        if self.over:
            return
        who, _, what = kind.partition(" ")
        world, rng = self.world, self.rng
        if kind == "stalled as it speaks":
            return
        self.counts[kind] += 1
        if who == "broker":
            self._broker()
        elif who == "slow":
            self._disk()
        elif kind == "acks unheard":
            self._unheard()
        elif who == "acks":
            self._acks()
        else:
            pool = {"node": list(world.nodes.values()), "coordinator": world.coordinators, "client": [world.submitter]}[
                who
            ]
            acting = [c for c in world.coordinators if c.acting is not None]
            process = rng.choice(acting if who == "coordinator" and acting and rng.random() < 0.8 else pool)
            self._hit(process, what)

    def _hit(self, process: Any, what: str) -> None:
        rng = self.rng
        long = rng.choice((0.3, 1.5, 3.0, 8.0, 25.0)) * rng.uniform(0.5, 1.5)
        self.world.note("FAULT", f"{process.name} {what} {long:.2f} s")
        if what == "killed":
            self.world.invariants.about_to_fail(process, KILL_BOUND_S)
            process.kill()
            self.world.timeline.after(long, process.start)
        elif what == "clock":
            process.skew_s += rng.choice((-1.0, 1.0)) * rng.choice((0.5, 60.0, 7200.0))
        elif what == "drained":
            self.world.drain(process.name, long)
        elif what == "stalled":
            if long > FREEZE_BOUND_S + 1:
                self.world.invariants.about_to_fail(process, FREEZE_BOUND_S)
            process.stall(long)
        else:
            process.isolate(long, silent=what == "silent")

    def _broker(self) -> None:
        world = self.world
        if not world.broker.up:
            return
        down_s = self.rng.choice((0.2, 1.0, 6.0)) * self.rng.uniform(0.5, 1.5)
        world.note("FAULT", f"broker killed {down_s:.2f} s")
        world.broker.kill()
        world.broker_touched_at = world.timeline.now + down_s
        world.timeline.after(down_s, self._start_broker)

    def _start_broker(self) -> None:
        if not self.world.broker.up:
            self.world.broker.start()

    def _disk(self) -> None:
        streams = self.world.broker.streams
        tasks_own = [streams[name] for name in QUEUES if name in streams]
        stream = self.rng.choice(tasks_own if tasks_own and self.rng.random() < 0.5 else list(streams.values()))
        stream = self.world.broker.named.get(self.world.plan.slow, stream)
        disk_s = self.rng.choice((0.05, 0.3, 1.5))
        self.world.note("FAULT", f"{stream.name} stores slowly, {disk_s} s")
        stream.disk_s = disk_s
        self.world.broker_touched_at = self.world.timeline.now + 10.0
        self.world.timeline.after(self.rng.uniform(1, 10), self._disk_over, stream)

    def _disk_over(self, stream: Any) -> None:
        stream.disk_s = 0.0

    def _acks(self) -> None:
        """A connection breaks right after the broker heard it: what it did is done, and nobody is told."""
        processes = [p for p in self.world._processes() if p.well]
        if processes:
            process = self.rng.choice(processes)
            self.world.note("FAULT", f"{process.name} loses its answers")
            process.touch()
            connection = process.bus.connection
            connection.client_breaks()
            self.world.timeline.after(self.rng.uniform(0, 0.2), self.world.broker.gone, connection, "Read Error")

    def _unheard(self) -> None:
        """Acks go nowhere for a moment, as those to one of several servers that was killed: nobody is told."""
        for_s = self.rng.uniform(0.05, 1.0)
        self.world.note("FAULT", f"acks are not heard for {for_s:.2f} s")
        self.world.broker.deaf_until = self.world.timeline.now + for_s
        self.world.broker_touched_at = self.world.timeline.now + for_s

    def _about_to_say(self, process: Any, subject: str) -> None:
        """A coordinator speaks: now and then it is stopped (SIGSTOP) before its socket takes it."""
        weight = next((w for words, w in SPOKEN.items() if words in subject), 0)
        if self.over or process.loop.stalled or not weight or self.rng.random() > self._speaking * weight / 1000:
            return
        self.counts["stalled as it speaks"] += 1
        long = self.rng.choice((0.5, limits.LEASE_S, 6.0)) * self.rng.uniform(0.9, 2.0)
        self.world.note("FAULT", f"{process.name} is stopped as it says {subject}, {long:.2f} s")
        process.stall(long)


def fleet(nodes: int, hours: float = 1.0) -> Plan:
    """So many hours of a large fleet, with a few deaths. What only looks whether something was forgotten looks less often."""
    rates = {"node killed": 5.0, "node silent": 5.0, "coordinator killed": 2.0}
    return Plan(
        nodes=nodes,
        tasks=2 * nodes,
        trouble_s=3600.0 * hours,
        start_s=60.0,
        delay_s=0.005,
        slack=60.0,
        quantum_s=0.05,
        grain_s=0.01,
        rates=rates,
    )
