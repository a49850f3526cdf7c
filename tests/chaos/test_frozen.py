"""Frozen nodes, a frozen coordinator and links that swallow, with real processes: whatever takes three beats and more."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from schemas import limits
from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.proxy import proxied
from tests.until import eventually

pytestmark = pytest.mark.chaos

LEASE_S = limits.BEATS_MISSED * limits.HEARTBEAT_S
LONG_S = 90.0  # for what takes three beats on a quiet machine


async def test_a_frozen_node_is_lost_by_its_silence_and_the_first_stored_result_counts(
    target: Target, tmp_path: Path
) -> None:
    """It goes on later: of its result and its successor's one counts, and the accounts are right afterwards."""
    async with stack(target, tmp_path) as s:
        await s.coordinator()
        await asyncio.gather(s.node("n1"), s.node("n2"))
        task = await s.submit("sleep", 2.0)
        frozen = (await s.event("task.started", task))["data"]["node"]
        os.kill(s.processes[frozen].pid, signal.SIGSTOP)
        lost = await s.event("node.lost", frozen, timeout_s=LONG_S)
        assert "3 heartbeats" in lost["data"]["reason"]
        since = s.events.index(lost)
        other = (await s.event("task.assigned", task, since=since))["data"]["node"]
        assert other != frozen
        os.kill(s.processes[frozen].pid, signal.SIGCONT)
        await s.event("node.online", frozen, since=since, timeout_s=LONG_S)
        assert (await s.result(task, 60.0)).node in (frozen, other)
        await s.nothing_left(60.0)
        assert not s.doubled


async def frozen(s: Stack, name: str, seconds: float) -> None:
    """The process stands still for that long."""
    os.kill(s.processes[name].pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    os.kill(s.processes[name].pid, signal.SIGCONT)


async def test_nobody_is_lost_when_the_coordinator_itself_stood_still(target: Target, tmp_path: Path) -> None:
    """For longer than three beats; its lease ends and it takes it again, or within it. Both times the nodes lived."""
    async with stack(target, tmp_path) as s:
        await s.coordinator()
        await s.node("n1")
        await frozen(s, "c1", limits.LEASE_S * 0.8)
        assert await s.result(await s.submit("echo", 1), 60.0)
        terms = len(s.seen("coordinator.elected"))
        await frozen(s, "c1", LEASE_S + 2)
        await eventually(lambda: len(s.seen("coordinator.elected")) > terms, LONG_S)
        assert await s.result(await s.submit("echo", 2), 60.0)
        assert not s.seen("node.lost")


async def test_nobody_is_lost_while_the_coordinators_own_link_is_cut_or_swallows(
    target: Target, tmp_path: Path
) -> None:
    with proxied(target) as proxy:
        async with stack(target, tmp_path) as s:
            url = proxy.target(target).url
            s.start("c1", "coordinator", "--name", "c1", "--nats", url)
            await s.event("coordinator.elected", "c1")
            await s.node("n1")
            for fault in (proxy.cut, proxy.swallow):
                terms = len(s.seen("coordinator.elected"))
                fault()
                await asyncio.sleep(limits.LEASE_S + 1)
                proxy.mend()
                await eventually(lambda n=terms: len(s.seen("coordinator.elected")) > n, LONG_S)  # type: ignore[misc]
                assert await s.result(await s.submit("echo", 1), 60.0)
            assert not s.seen("node.lost")


async def test_when_all_of_ten_nodes_freeze_at_once_nobody_is_lost(target: Target, tmp_path: Path) -> None:
    """Held back, and said so; they go on, and it is over."""
    async with stack(target, tmp_path) as s:
        await s.coordinator()
        names = [f"n{i}" for i in range(10)]
        for name in names:
            s.start_node(name)
        for name in names:
            await s.event("node.registered", name, timeout_s=LONG_S)
        for name in names:
            os.kill(s.processes[name].pid, signal.SIGSTOP)
        await s.event("fleet.held-back", "c1", timeout_s=LONG_S)
        assert any(note.startswith("degraded") for note in (await s.status()).notes)
        for name in names:
            os.kill(s.processes[name].pid, signal.SIGCONT)
        await s.event("fleet.hold-ended", "c1", timeout_s=LONG_S)
        assert not s.seen("node.lost")
