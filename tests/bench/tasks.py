"""Tasks a second, seconds a task and items a second: the whole fleet against the floor, on the same broker in turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import client
from tests.bench.figures import Figure, ratio_of_rounds
from tests.bench.floor import Floor
from tests.bench.stack import Stack

NODES = 2
ROUNDS = 5
TASKS = 10_000
ONE_BY_ONE = 300
ITEMS = 100_000
WARM_UP = 2_000
TIMEOUT_S = 120.0  # of one round
FLOOR = "hand-written pair: nats-py's JetStream client, uvloop, msgspec, 2 workers, one work queue, no coordinator"


@asynccontextmanager
async def side_by_side(*, raw: bool = False) -> AsyncIterator[tuple[Floor, client.Fleet]]:
    """The floor and a fleet on one broker, both warm."""
    async with (
        Stack(NODES) as stack,
        Floor(stack.target.url, stack.target.seed, raw=raw) as floor,
        client.connect(nats=stack.target.url, creds=stack.home / "fog.creds") as fleet,
    ):
        await floor.throughput(WARM_UP)
        await submit_all(fleet, WARM_UP)
        yield floor, fleet


async def submit_all(fleet: client.Fleet, count: int) -> float:
    """Tasks a second over `count` single submits, all awaited and checked."""
    began = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S):
        values = await asyncio.gather(*(fleet.submit("noop", number) for number in range(count)))
    took = time.perf_counter() - began
    if values != list(range(count)):
        raise RuntimeError("a task gave a wrong value")
    return count / took


async def map_all(fleet: client.Fleet, count: int) -> float:
    """Items a second of one map over `count` items, every value checked."""
    began, expected = time.perf_counter(), 0
    async with asyncio.timeout(TIMEOUT_S):
        async for found in fleet.map("noop", range(count)):
            if found.value != expected:
                raise RuntimeError(f"item {expected} gave {found.value!r} {found.error or ''}")
            expected += 1
    took = time.perf_counter() - began
    if expected != count:
        raise RuntimeError(f"{expected} of {count} items came back")
    return count / took


async def latencies(fleet: client.Fleet, count: int) -> list[float]:
    """Seconds of each of `count` submits, one after the other."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        await fleet.submit("noop", number)
        found.append(time.perf_counter() - began)
    return found


async def single_throughput_ratio() -> Figure:
    """10,000 single submits, awaited. Also stated, not judged: against the raw floor (see `floor`)."""
    ours, floors = [], []
    async with side_by_side() as (floor, fleet):
        for _ in range(ROUNDS):
            floors.append(await floor.throughput(TASKS))
            ours.append(await submit_all(fleet, TASKS))
    beside_raw, raw = [], []
    async with side_by_side(raw=True) as (floor, fleet):
        for _ in range(ROUNDS):
            raw.append(await floor.throughput(TASKS))
            beside_raw.append(await submit_all(fleet, TASKS))
    detail = {
        "tasks_per_s": round(median(ours)),
        "floor_tasks_per_s": round(median(floors)),
        "raw_floor_tasks_per_s": round(median(raw)),
        "ratio_to_raw_floor": ratio_of_rounds(beside_raw, raw),
        "rounds": [[round(one), round(other)] for one, other in zip(ours, floors, strict=True)],
        "tasks": TASKS,
        "nodes": NODES,
    }
    return Figure("single_throughput_ratio", ratio_of_rounds(ours, floors), "of the floor's", 0.5, FLOOR, detail=detail)


async def single_latency_ratio() -> Figure:
    """One task at a time, the median."""
    ours, floors = [], []
    async with side_by_side() as (floor, fleet):
        for _ in range(ROUNDS):
            floors.append(median(await floor.latencies(ONE_BY_ONE)))
            ours.append(median(await latencies(fleet, ONE_BY_ONE)))
    detail = {
        "p50_ms": round(median(ours) * 1e3, 3),
        "floor_p50_ms": round(median(floors) * 1e3, 3),
        "rounds": [[round(one * 1e3, 3), round(other * 1e3, 3)] for one, other in zip(ours, floors, strict=True)],
    }
    value = ratio_of_rounds(ours, floors)
    return Figure("single_latency_ratio", value, "of the floor's", 2.5, FLOOR, at_most=True, detail=detail)


async def map_throughput_ratio() -> Figure:
    """A map over 100,000 items; the floor sends one message an item."""
    ours, floors = [], []
    async with side_by_side() as (floor, fleet):
        for _ in range(ROUNDS):
            floors.append(await floor.throughput(TASKS))
            ours.append(await map_all(fleet, ITEMS))
    detail = {
        "items_per_s": round(median(ours)),
        "floor_items_per_s": round(median(floors)),
        "rounds": [[round(one), round(other)] for one, other in zip(ours, floors, strict=True)],
        "items": ITEMS,
    }
    return Figure("map_throughput_ratio", ratio_of_rounds(ours, floors), "of the floor's", 10, FLOOR, detail=detail)
