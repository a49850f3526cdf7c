"""A pile of tasks that nobody can run yet: what it costs, whether the coordinator goes on answering, and that all ends.

`million_coordinator_mb`: a million small tasks, through the SDK, first without a node, then with two. `heavy_coordinator_mb`:
10,000 tasks with 200 kB of arguments each. FOG_BENCH_TASKS takes fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Raw

import client
from client.fleet import Fleet
from client.submit import Submitter
from client.waiting import Waiting
from coordinator.bodies import HELD_BYTES, LOOSE_BYTES
from coordinator.core import tune
from coordinator.placer import PLACING_BYTES
from schemas import jetstream, limits, streams
from schemas.bus import Bus
from schemas.codec import encode
from schemas.errors import FogError
from schemas.eventlog import KEPT, SAID_KEPT
from schemas.pull import BATCH_BYTES, LANES
from schemas.store import WINDOW_BYTES, Store
from schemas.task import FunctionRun
from tests.bench.figures import Figure
from tests.bench.processes import rss_mib
from tests.bench.stack import Stack

MILLION = 1_000_000
HEAVY, HEAVY_BYTES = 10_000, 200_000
TASK_BYTES = 300  # of a submitted task, without its argument
IN_FLIGHT = 2_000  # submits under way at a time
SETTLE_S = 10.0
SAMPLE_S = 0.1
ASK_S = 1.0
END_S = 3_600.0
NODES = 2
# docs/architecture.md, "What the coordinator holds", in MiB; the first three were measured
EMPTY_MB, HELD_MB, ENDED_MB = 35.0, 1.13e3 / (1 << 20), 190 / (1 << 20)
EVENT_MB = 512 / (1 << 20)
SPARE = 1.25  # what the allocator keeps


def ceiling_mb(tasks: int, body_bytes: int) -> float:
    """What the coordinator may take for tasks of one submitter and one priority, by the formula in docs/architecture.md."""
    held = round(tune.WAITING_MAX * tune.SUBMITTER_SHARE) + tune.STAY_MAX + tune.PRIORITY_WINDOW + tune.LOOK_PAST
    held = min(tasks, held + NODES * limits.NODE_QUEUE_MAX)
    kept = min(held * body_bytes, HELD_BYTES + LOOSE_BYTES)
    pulled = min(tasks * body_bytes, LANES * BATCH_BYTES + PLACING_BYTES + WINDOW_BYTES)
    records = HELD_MB * held + ENDED_MB * min(tasks, tune.DONE_KEPT) + EVENT_MB * min(3 * tasks, KEPT + SAID_KEPT)
    return SPARE * (EMPTY_MB + records + (kept + pulled) / (1 << 20))


@dataclass
class Watch:
    """The worst of what was seen so far."""

    stack: Stack
    coordinator_mb: float = 0.0
    broker_mb: float = 0.0
    answer_s: float = 0.0
    silent: list[str] = field(default_factory=list)  # what the API said instead of an answer

    async def weigh(self) -> None:
        """Look at the processes' memory, for ever."""
        while True:
            self.coordinator_mb = max(self.coordinator_mb, rss_mib([self.stack.pid("coordinator")]))
            self.broker_mb = max(self.broker_mb, rss_mib([self.stack.broker_pid]))
            await asyncio.sleep(SAMPLE_S)

    async def ask(self, fleet: Fleet) -> None:
        """Ask for the status, as a user does who looks, for ever."""
        while True:
            began = time.perf_counter()
            try:
                await fleet.status()
            except FogError as error:
                self.silent.append(str(error))
            self.answer_s = max(self.answer_s, time.perf_counter() - began)
            await asyncio.sleep(ASK_S)


@asynccontextmanager
async def watched(stack: Stack) -> AsyncIterator[Watch]:
    """With somebody who looks."""
    watch = Watch(stack)
    async with client.connect(nats=stack.target.url, creds=stack.home / "fog.creds") as fleet:
        looking = [asyncio.create_task(watch.weigh()), asyncio.create_task(watch.ask(fleet))]
        try:
            yield watch
        finally:
            for task in looking:
                task.cancel()
            await asyncio.wait(looking)


async def submit_all(stack: Stack, count: int, function: str, argument: object) -> float:
    """Seconds until the broker keeps `count` tasks, some at a time. Nobody waits for their results."""
    bus = await Bus.connect(stack.target, name="submitter")
    store, waiting = Store(bus), Waiting(bus, "bench")
    submitter = Submitter(store, waiting, "bench")
    run = FunctionRun(function, Raw(encode([argument])))
    began, left = time.perf_counter(), iter(range(count))

    async def one_after_another() -> None:
        for _ in left:
            task = submitter.make(run, {"wait_for_node": True})
            await submitter.start(task)
            waiting.forget(task.id)

    try:
        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began
    finally:
        store.close()
        await bus.close()


async def all_ended(stack: Stack, count: int) -> float:
    """Seconds until `count` results are stored."""
    began = time.perf_counter()
    async with asyncio.timeout(END_S):
        while True:
            with contextlib.suppress(FogError):
                info = await jetstream.stream_info(stack.bus, streams.RESULTS)
                if info["state"]["messages"] > count:  # and the mark of the term
                    return time.perf_counter() - began
            await asyncio.sleep(ASK_S)


async def pile(name: str, count: int, function: str, argument: object, what: str) -> Figure:
    """Submit, look, let two nodes do it all."""
    count = int(os.environ.get("FOG_BENCH_TASKS", count))
    most_mb = round(ceiling_mb(count, len(encode(argument)) + TASK_BYTES))
    async with Stack() as stack, watched(stack) as watch:
        empty_mb = rss_mib([stack.pid("coordinator")])
        submitting_s = await submit_all(stack, count, function, argument)
        await asyncio.sleep(SETTLE_S)
        detail: dict[str, Any] = {
            "tasks": count,
            "submits_per_s": round(count / submitting_s),
            "empty_mb": round(empty_mb),
            "waiting_mb": round(watch.coordinator_mb),
            "broker_waiting_mb": round(watch.broker_mb),
            "broker_disk_mb": round(disk_mb(stack.home)),
        }
        print(detail, flush=True)
        await asyncio.gather(*(stack.start_node(f"bench-{number}") for number in range(NODES)))
        running_s = await all_ended(stack, count)
        detail |= {
            "tasks_per_s": round(count / running_s),
            "broker_mb": round(watch.broker_mb),
            "longest_answer_s": round(watch.answer_s, 2),
            "no_answer": len(watch.silent),
            "elections": stack.events["coordinator.elected"],
            "lost_nodes": stack.events["node.lost"],
        }
    return Figure(name, round(watch.coordinator_mb), "MiB", most_mb, what, at_most=True, detail=detail)


def disk_mb(folder: Path) -> float:
    """What the broker keeps on disk."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / (1 << 20)


async def million_coordinator_mb() -> Figure:
    """The coordinator's greatest memory while a million small tasks come, wait and run."""
    what = "the ceiling in docs/architecture.md; a million tasks by one submitter, no node, then two"
    return await pile("million_coordinator_mb", MILLION, "noop", 1, what)


async def heavy_coordinator_mb() -> Figure:
    """The same with 2 GB of arguments, which are inline."""
    what = f"the ceiling in docs/architecture.md; {HEAVY:,} tasks of {HEAVY_BYTES:,} bytes, no node, then two"
    return await pile("heavy_coordinator_mb", HEAVY, "size", "x" * HEAVY_BYTES, what)
