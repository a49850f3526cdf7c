"""Who is called lost, with real processes: killed, and when the coordinator's own end is at fault for a moment.

What takes three beats and more is in tests/chaos/test_frozen.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from schemas import limits
from schemas.target import Target
from tests.integration.stack import stack
from tests.proxy import proxied

LONG_S = 90.0


async def test_a_killed_node_is_lost_by_its_connection_and_its_task_goes_on_elsewhere(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as s:
        await s.coordinator()
        await asyncio.gather(s.node("n1"), s.node("n2"))
        task = await s.submit("sleep", 1.0)
        first = (await s.event("task.started", task))["data"]["node"]
        s.kill(first)
        lost = await s.event("node.lost", first)
        assert "closed" in lost["data"]["reason"]
        assert (await s.result(task, 60.0)).node != first
        await s.nothing_left(60.0)


async def test_a_coordinator_that_stands_still_within_its_lease_calls_nobody_lost(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as s:
        await s.coordinator()
        await s.node("n1")
        os.kill(s.processes["c1"].pid, signal.SIGSTOP)
        await asyncio.sleep(limits.LEASE_S * 0.8)
        os.kill(s.processes["c1"].pid, signal.SIGCONT)
        assert await s.result(await s.submit("echo", 1), 60.0)
        assert not s.seen("node.lost")


async def test_a_coordinator_whose_own_link_was_cut_calls_nobody_lost(target: Target, tmp_path: Path) -> None:
    with proxied(target) as proxy:
        async with stack(target, tmp_path) as s:
            s.start("c1", "coordinator", "--name", "c1", "--nats", proxy.target(target).url)
            await s.event("coordinator.elected", "c1")
            await s.node("n1")
            proxy.cut()
            await asyncio.sleep(limits.LEASE_S / 2)
            proxy.mend()
            assert await s.result(await s.submit("echo", 1), LONG_S)
            assert not s.seen("node.lost")
