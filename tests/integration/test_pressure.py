"""Right under pressure: long queues, priorities, a big task among small ones, slow nodes, late nodes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from schemas.target import Target
from schemas.task import ResultState, TaskPriority
from tests.integration.stack import Stack, stack
from tests.until import eventually

BULK = 10_000
CRITICAL = 20


@pytest_asyncio.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Stack]:
    """A coordinator; the nodes come with the test."""
    async with stack(target, tmp_path) as made:
        await made.coordinator()
        yield made


async def test_ten_thousand_queued_tasks_all_end_once_and_critical_ones_that_came_last_go_first(fleet: Stack) -> None:
    bulk = await fleet.put_all([fleet.make("echo", i) for i in range(BULK)])
    critical = await fleet.put_all([fleet.make("echo", i, priority=TaskPriority.CRITICAL) for i in range(CRITICAL)])

    async def all_counted() -> bool:
        return sum((await fleet.status()).tasks.values()) == BULK + CRITICAL

    await eventually(all_counted, what="every task in the status")
    await asyncio.gather(fleet.node("a"), fleet.node("b"))
    await fleet.all_results(bulk + critical, 60)
    assert not fleet.doubled and len(fleet.ended) == BULK + CRITICAL
    assert {fleet.results[task].state for task in bulk + critical} == {ResultState.SUCCEEDED}
    placed = [event["subject"] for event in fleet.seen("task.assigned")]
    assert max(placed.index(task) for task in critical) < BULK / 10, "placed before the bulk"
    assert max(fleet.ended.index(task) for task in critical) < BULK / 2, "and done before it"
    assert all(json.loads(bytes(fleet.results[task].value)) == i for i, task in enumerate(bulk))
    await fleet.nothing_left()
    assert (await fleet.status()).counts["succeeded"] == BULK + CRITICAL


async def test_a_big_task_gets_the_one_node_that_fits_while_small_ones_flow_past(fleet: Stack) -> None:
    await asyncio.gather(fleet.node("big", "--cores", "4", "--slots", "4"), fleet.node("small"))
    small: list[str] = []
    through = asyncio.Event()

    async def flow() -> None:
        """Always a hundred small ones in the fleet, until the big one is through."""
        while not through.is_set():
            if len(small) - len(fleet.ended) < 100:
                small.extend(await fleet.put_all([fleet.make("where", 0.02) for _ in range(20)]))
            await asyncio.sleep(0.005)

    flowing = asyncio.create_task(flow())
    await eventually(lambda: len(fleet.ended) > 20, what="small tasks flow")
    before = len(small)
    big = await fleet.submit("where", 0.05, cores=4)
    assert (await fleet.result(big)).node == "big"
    through.set()
    await flowing
    await fleet.all_results(small)
    passed_by = {task for task in small[before:] if fleet.ended.index(task) < fleet.ended.index(big)}
    assert {fleet.results[task].node for task in passed_by} == {"big", "small"}, (
        "younger ones went past it, for a while"
    )
    await fleet.nothing_left()


async def test_a_slow_node_gets_no_more_than_it_can_do(fleet: Stack) -> None:
    await asyncio.gather(fleet.node("slow"), fleet.node("fast"))
    tasks = await fleet.put_all([fleet.make("slow_on", ["slow"], 0.3, 0.01) for _ in range(400)])
    most = 0

    async def through() -> bool:
        nonlocal most
        most = max(most, (await fleet.node_info("slow")).row.held)
        return all(task in fleet.results for task in tasks)

    await eventually(through, 30, "all of them")
    share = Counter(result.node for result in fleet.results.values())
    assert share["slow"] < 40, "thirty times slower, it gets a small share"
    assert most <= 4, "a queue for what it does at a time, and the next"
    assert "fast" in [fleet.results[task].node for task in fleet.ended[-10:]], "nobody waits for it in the end"


async def test_a_node_that_joins_late_works_within_a_second(fleet: Stack) -> None:
    await fleet.node("early", "--slots", "1", "--cores", "1")
    # Twenty seconds' work for the early one, however long the other's start takes on this machine.
    tasks = await fleet.put_all([fleet.make("slow_on", ["early"], 0.5, 0.01) for _ in range(40)])
    await eventually(lambda: fleet.ended, what="the early one works")
    await fleet.node("late")
    ended = len(fleet.ended)
    await eventually(
        lambda: any(e["data"]["node"] == "late" for e in fleet.seen("task.started")), what="the late works"
    )
    by_early = [task for task in fleet.ended[ended:] if fleet.results[task].node == "early"]
    assert len(by_early) < 3, "the early one did no more than a second's work meanwhile"
    await fleet.all_results(tasks)
    assert Counter(result.node for result in fleet.results.values())["late"] > 20
