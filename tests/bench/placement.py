"""What placing one task costs the coordinator's core, with 100 and with 10,000 nodes: pure, no broker, no other process."""

from __future__ import annotations

import time
from random import Random
from statistics import median

from coordinator.core import machine
from coordinator.core.actions import Action, Place, StoreNode
from coordinator.core.events import (
    Beat,
    Event,
    NodeRegistering,
    NodeStored,
    Placed,
    ResultSeen,
    Source,
    TakenOver,
    TaskArrived,
)
from coordinator.core.placing import pump
from coordinator.core.state import Coordinator
from schemas.device import DeviceCapabilities, DeviceState, DeviceType, FunctionOffer
from schemas.membership import Heartbeat, Offer, Register
from schemas.task import FunctionHead, ResultHead, ResultState, TaskHead
from tests.bench.figures import Figure

SMALL, LARGE = 100, 10_000
BATCH = 100  # tasks that arrive together, as they do from a busy broker
BATCHES = 20
WARM_UP = 5
ROUNDS = 7


class Fleet:
    """A core with nodes that are all alike, and the answers that its shell would give it."""

    def __init__(self, nodes: int) -> None:
        self.now = 1_000_000.0
        self.state = Coordinator(Random(1))
        self._count = 0
        self._step(TakenOver("bench", 1))
        for number in range(nodes):
            self._join(f"node-{number:05d}")

    def _step(self, event: Event) -> list[Action]:
        return machine.step(self.state, event, self.now)

    def _join(self, node: str) -> None:
        state = DeviceState(
            cpu_utilization=0.1, ram_available_mb=3000, battery_percent=90.0, is_charging=True, mains=False
        )
        offer = Offer(cores=4.0, memory_mb=2048, slots=4, functions=(FunctionOffer("noop"),))
        capabilities = DeviceCapabilities(DeviceType.SMARTPHONE, cpu_cores=8, cpu_freq_ghz=2.4, ram_total_mb=6144)
        request = Register(node, "U" + "A" * 55, f"session-{node}", capabilities, offer, state)
        for action in self._step(NodeRegistering(request, None, 0, "reply")):
            if isinstance(action, StoreNode):
                self._step(NodeStored(action.record, "reply"))
        self._step(Beat(Heartbeat(node, 1, 1, self.now, full=True, state=state, offer=offer)))

    def place_batch(self) -> float:
        """Let a batch arrive, be stored and be done; returns the seconds that the core took for it, all in all."""
        heads = [TaskHead(f"task-{self._count + n}", "bench", FunctionHead("noop")) for n in range(BATCH)]
        first = self._count
        self._count += BATCH
        self.now += 0.01
        arrivals = [TaskArrived(head, Source("tasks", first + n, "ack"), self.now) for n, head in enumerate(heads)]
        began = time.perf_counter()
        actions = [action for arrival in arrivals for action in self._step(arrival)] + pump(self.state, self.now)
        took = time.perf_counter() - began
        places = [action for action in actions if isinstance(action, Place)]
        if len(places) != BATCH or any(place.node.startswith("_") for place in places):
            raise RuntimeError(f"{len(places)} of {BATCH} tasks were placed")
        self.now += 0.001
        answers: list[Event] = []
        for number, place in enumerate(places):
            done = ResultHead(
                place.task, "bench", ResultState.SUCCEEDED, place.node, place.history.placement, 1, duration_ms=1.0
            )
            answers += [Placed(place.task, place.history.placement, first + number), ResultSeen(done)]
        began = time.perf_counter()
        for answer in answers:
            self._step(answer)
        pump(self.state, self.now)
        return took + time.perf_counter() - began


async def placement_growth_ratio() -> Figure:
    """From arrival to forgetting, per task, in interleaved rounds."""
    small, large = Fleet(SMALL), Fleet(LARGE)
    for fleet in (small, large):
        for _ in range(WARM_UP):
            fleet.place_batch()
    rounds = [[microseconds(small), microseconds(large)] for _ in range(ROUNDS)]
    detail = {
        f"us_per_task_with_{SMALL}_nodes": round(median(pair[0] for pair in rounds), 1),
        f"us_per_task_with_{LARGE}_nodes": round(median(pair[1] for pair in rounds), 1),
        "rounds": [[round(one, 1) for one in pair] for pair in rounds],
    }
    value = round(median(other / one for one, other in rounds), 3)
    what = f"the same with {SMALL} nodes instead of {LARGE}; the core alone, a task's whole life"
    return Figure("placement_growth_ratio", value, "times the cost", 1.5, what, at_most=True, detail=detail)


def microseconds(fleet: Fleet) -> float:
    """The core's time a task over some batches."""
    return sum(fleet.place_batch() for _ in range(BATCHES)) / (BATCHES * BATCH) * 1e6
