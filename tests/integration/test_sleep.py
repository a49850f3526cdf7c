"""Nodes that announce a sleep: told by a signal, by an operator, by systemd's hook; frozen as a suspended machine is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Raw

from schemas.target import Target
from schemas.task import FunctionRun, OutcomeKind
from tests.cluster import DEPLOY
from tests.integration.node_fleet import Fleet, until
from tests.integration.stack import Stack, stack
from tests.until import eventually

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")


async def quick(s: Stack) -> None:
    s.start("c1", "tests.integration.short_leases", "--name", "c1")
    await s.event("coordinator.elected", "c1")


async def test_a_suspended_machine_that_announced_it_is_not_lost_and_works_again(
    target: Target, tmp_path: Path
) -> None:
    """Its neighbour, which froze at the same time without a word, is: more than three beats have gone by then."""
    async with stack(target, tmp_path) as s:
        await quick(s)
        await asyncio.gather(s.node("n1", "--sleep-s", "600"), s.node("n2"))
        going_on = [await s.submit("sleep", 1.0, node="n1") for _ in range(2)]
        for task in going_on:
            await s.event("task.started", task)
        waiting = await s.submit("echo", 1, node="n1")
        os.kill(s.processes["n1"].pid, signal.SIGUSR1)
        await s.event("node.asleep", "n1")
        for task in going_on:
            assert (await s.result(task)).node == "n1", "what runs goes on"
        await eventually((tmp_path / "nodes" / "n1" / "asleep").exists)
        for name in ("n1", "n2"):
            os.kill(s.processes[name].pid, signal.SIGSTOP)
        await s.event("node.lost", "n2")
        assert not s.seen("node.lost", "n1") and not s.seen("node.late", "n1")
        assert waiting not in s.results
        os.kill(s.processes["n1"].pid, signal.SIGCONT)
        os.kill(s.processes["n1"].pid, signal.SIGUSR2)
        await s.event("node.online", "n1")
        assert (await s.result(waiting)).node == "n1"
        os.kill(s.processes["n2"].pid, signal.SIGCONT)


async def test_an_operator_lets_a_node_sleep_and_wakes_it_whoever_coordinates(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as s:
        await quick(s)
        await s.node("n1")
        await s.api.sleep("n1", 600.0, wake=False)
        await s.event("node.asleep", "n1")
        os.kill(s.processes["n1"].pid, signal.SIGSTOP)
        s.kill("c1")
        since = len(s.events)
        s.start("c2", "tests.integration.short_leases", "--name", "c2")
        await s.event("coordinator.elected", "c2", since=since)
        await s.event("node.asleep", "n1", since=since)
        os.kill(s.processes["n1"].pid, signal.SIGCONT)
        await s.api.sleep("n1", 0.0, wake=True)
        await s.event("node.online", "n1", since=since)
        assert not s.seen("node.lost")


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = await Fleet.open(target, tmp_path)
    yield fleet
    await fleet.close()


async def test_a_sleeping_node_hands_back_what_waits_and_takes_nothing_until_its_time_is_over(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1")
    running = await fleet.place(FunctionRun("sleep", Raw(b"[1.0]")))
    await until(lambda: fleet.events, what="it runs")
    waiting = await fleet.place()

    async def both_are_there() -> bool:
        await fleet.command("report")
        return len(fleet.beats[-1].held) == 2

    await eventually(both_are_there)
    await fleet.command("sleep", for_s=3.0)
    assert (await fleet.outcome(waiting, OutcomeKind.RETURNED)).error == "the node sleeps"
    said = await until(lambda: [b for b in fleet.beats if b.asleep])
    assert 0 < said[0].next_due_s <= 3.0 and not said[0].draining
    on_its_way = await fleet.place()
    assert (await fleet.outcome(on_its_way, OutcomeKind.RETURNED)).error == "the node sleeps"
    assert (await fleet.result(running)).node == "n1", "what runs goes on"
    await until(lambda: not fleet.beats[-1].asleep)
    assert (await fleet.result(await fleet.place())).node == "n1"


async def test_systemds_hook_announces_the_sleep_before_it_and_ends_it_after(fleet: Fleet) -> None:
    """It looks for the daemons that hold a lock; a file that a dead one left is nobody's."""
    await fleet.node("n1")
    dead = fleet.folder / "nodes" / "n0"
    dead.mkdir(parents=True)
    (dead / "lock").write_text(str(os.getpid()))  # nobody holds it: this process must not get the signal

    def hook(when: str) -> None:
        env = {**os.environ, "FOG_HOMES": str(fleet.folder)}
        subprocess.run([str(DEPLOY / "fog-sleep-hook"), when, "suspend"], env=env, check=True, timeout=60)

    await asyncio.to_thread(hook, "pre")
    assert (fleet.folder / "nodes" / "n1" / "asleep").exists(), "it waits until the node has said so"
    await until(lambda: fleet.beats[-1].asleep)
    assert fleet.beats[-1].next_due_s > 3000
    await asyncio.to_thread(hook, "post")
    await until(lambda: not fleet.beats[-1].asleep)
    assert not (fleet.folder / "nodes" / "n1" / "asleep").exists()
