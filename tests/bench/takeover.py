"""How long a coordinator reads before it acts, with many tasks that wait and lie at a node."""

from __future__ import annotations

import asyncio
import re
import signal
import time

from msgspec import Raw

from schemas import subjects
from schemas.codec import encode
from schemas.store import Ack, Store
from schemas.task import FunctionRun, History, Result, ResultState, Task, Work
from tests.bench.figures import Figure
from tests.bench.processes import cpu_seconds, rss_mib
from tests.bench.stack import Stack

WAITING, ENDED = 0.5, 0.5  # shares of the tasks; `ENDED` of as many more, which nobody has told of yet
NAME = "successor"
FILL_S, ACT_S = 120.0, 60.0


async def fill(stack: Stack, count: int) -> None:
    """Store tasks as an earlier term would have: half of them wait, half lie at a node that is gone; and results."""
    store, unstored = Store(stack.bus), []

    def put(subject: str, data: bytes) -> None:
        store.post(subject, data, "", lambda answer: None if isinstance(answer, Ack) else unstored.append(answer))

    for number in range(count):
        task = Task(f"t{number}", "bench", FunctionRun("noop", Raw(b"[1]")))
        work = Work(Raw(encode(task)), History(1, submitted_at=time.time()), 1, None, time.time() + 6 * 86_400)
        put(subjects.work(subjects.WAITING if number < WAITING * count else "gone", task.id), encode(work))
    for number in range(int(ENDED * count)):
        put(subjects.result("bench", f"e{number}"), encode(Result(f"e{number}", "bench", ResultState.SUCCEEDED)))
    if not await store.drain(FILL_S):
        raise RuntimeError("the broker took too long to store it all")
    store.close()
    if unstored:
        raise RuntimeError(f"{len(unstored)} messages were not stored: {unstored[0]}")


async def takeover(count: int) -> tuple[float, dict[str, float]]:
    """Milliseconds from the lease to acting, and the parts of it, as the coordinator's own log tells them."""
    async with Stack() as stack:
        stack.end("coordinator", signal.SIGKILL)
        await fill(stack, count)
        broker_s = cpu_seconds([stack.broker_pid])
        await stack.start_coordinator(NAME)
        async with asyncio.timeout(ACT_S):
            while not (line := re.search(r" acting .*", stack.log(NAME))):  # noqa: ASYNC110 (another process says it)
                await asyncio.sleep(0.1)
        parts = {f"{part}_ms": float(ms) for part, ms in re.findall(r"(\w+)_ms=(\d+)", line[0])}
        parts["cpu_s"] = round(cpu_seconds([stack.pid(NAME)]), 2)
        parts["broker_cpu_s"] = round(cpu_seconds([stack.broker_pid]) - broker_s, 2)
        parts["rss_mib"] = round(rss_mib([stack.pid(NAME)]))
        return parts.pop("took_ms"), parts


async def _figure(name: str, count: int) -> Figure:
    took_ms, parts = await takeover(count)
    what = (
        f"SPEC 3.2; {count:,} tasks, half of them waiting, half at a node that is gone, and half as many results untold"
    )
    return Figure(name, took_ms, "ms", 2_000, what, at_most=True, detail=dict(parts))


async def takeover_1000_ms() -> Figure:
    """A small fleet's."""
    return await _figure("takeover_1000_ms", 1_000)


async def takeover_10000_ms() -> Figure:
    """A large fleet's."""
    return await _figure("takeover_10000_ms", 10_000)


async def takeover_100000_ms() -> Figure:
    """As many as the waiting place holds."""
    return await _figure("takeover_100000_ms", 100_000)
