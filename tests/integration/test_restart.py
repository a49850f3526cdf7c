"""Kills and restarts, real ones: of a node, of the coordinator, of the broker, of all. Nothing is lost, nothing ends twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from coordinator.broker import Broker
from schemas import jetstream, streams, subjects
from schemas.target import Target
from schemas.task import ResultState, Task
from tests.integration.client_stack import up, wait_for_nodes
from tests.integration.stack import Stack, stack
from tests.until import eventually, until

LOAD = 600


@pytest_asyncio.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Stack]:
    """A coordinator and two nodes."""
    async with stack(target, tmp_path) as made:
        await made.coordinator("c1")
        await asyncio.gather(made.node("a"), made.node("b"))
        yield made


def load(fleet: Stack) -> list[Task]:
    """Tasks of a few milliseconds each, that take the fleet about two seconds."""
    return [fleet.make("where", 0.005) for _ in range(LOAD)]


async def all_once(fleet: Stack, tasks: list[str], timeout_s: float = 60.0) -> None:
    """Every task has its one result, a success, and nothing is left of any."""
    await fleet.all_results(tasks, timeout_s)
    assert {fleet.results[task].state for task in tasks} == {ResultState.SUCCEEDED}
    assert not fleet.doubled
    await fleet.nothing_left()
    assert await stored_results(fleet) == len(set(fleet.ended))


async def stored_results(fleet: Stack) -> int:
    """How many results there are. (The mark of the coordinator's term lies among them.)"""
    return len(await jetstream.subjects(fleet.bus, streams.RESULTS, subjects.result("*", "*")))


# Nodes


async def test_a_killed_nodes_tasks_run_elsewhere_at_once(fleet: Stack) -> None:
    """By the broker's disconnect event and a probe that nobody answers, long before a heartbeat is missed."""
    tasks = await fleet.put_all([fleet.make("slow_on", ["a"], 60.0, 0.01, node="") for _ in range(4)])
    await eventually(lambda: any(e["data"]["node"] == "a" for e in fleet.seen("task.started")), what="a works")
    fleet.kill("a")
    lost = await fleet.event("node.lost", "a", timeout_s=2.0)
    assert "connection closed" in lost["data"]["reason"]
    await fleet.all_results(tasks, 5.0)
    assert {fleet.results[task].node for task in tasks} == {"b"}
    moved = [e["data"] for e in fleet.seen("task.lost")]
    assert moved and {e["moved_from"] for e in moved} == {"a"}
    info = await fleet.task_info(moved[0]["task"])
    assert info.errors == () or info.errors[0].kind == "lost"
    assert fleet.results[moved[0]["task"]].attempts == 2
    await fleet.nothing_left()


async def test_a_node_that_comes_back_has_a_higher_boot_and_works_again(fleet: Stack) -> None:
    task = await fleet.submit("slow_on", ["a"], 60.0, node="a")
    await fleet.event("task.started", task)
    fleet.kill("a")
    await fleet.event("node.lost", "a")
    await fleet.node("a")
    info = await fleet.node_info("a")
    assert (info.row.state.value, info.row.boot) == ("online", 2)
    await eventually(lambda: len(fleet.seen("task.started", task)) == 2, what="the task starts anew where it is pinned")
    await fleet.cancel(task)
    assert (await fleet.result(task)).state is ResultState.CANCELLED
    await fleet.nothing_left()


async def test_the_same_id_with_another_key_is_refused_and_told_so(fleet: Stack) -> None:
    fleet.kill("a", signal.SIGTERM)
    await fleet.event("node.left", "a")
    (fleet.folder / "nodes" / "a" / "node.key").rename(fleet.folder / "kept.key")
    intruder = fleet.start_node("a")
    del fleet.processes["a"]  # it ends, perhaps before its event comes by
    await fleet.event("node.refused", "a")
    await eventually(lambda: intruder.poll() is not None, what="the intruder gives up")
    assert intruder.returncode == 125
    assert "the id a belongs to a node with another key" in fleet.log("a")
    assert "--name" in fleet.log("a"), "and what to do"
    (fleet.folder / "kept.key").replace(fleet.folder / "nodes" / "a" / "node.key")
    await fleet.node("a")
    assert (await fleet.node_info("a")).row.boot == 2


# The coordinator


async def test_a_killed_coordinator_is_followed_by_another_and_nothing_is_lost(fleet: Stack) -> None:
    fleet.start("c2", "coordinator", "--name", "c2")
    await eventually(lambda: "following: another coordinator acts" in fleet.log("c2"), what="c2 follows")
    running = await fleet.submit("where", 4.0)
    await fleet.event("task.started", running)
    posting = asyncio.ensure_future(fleet.put_all(load(fleet)))
    await eventually(lambda: len(fleet.ended) > 50, what="work flows")
    before = len(fleet.events)
    fleet.kill("c1")
    elected = await fleet.event("coordinator.elected", "c2", since=before, timeout_s=10.0)
    assert elected["data"]["term"] > 1
    tasks = await posting
    await all_once(fleet, [running, *tasks])
    assert fleet.results[running].attempts == 1, "what runs goes on under another coordinator"
    assert (await fleet.status()).coordinator == "c2"


async def test_a_coordinator_that_is_started_again_goes_on(fleet: Stack) -> None:
    waiting = await fleet.submit("echo", 1, labels={"pool": "late"})
    await fleet.event("task.waiting", waiting)
    posting = asyncio.ensure_future(fleet.put_all(load(fleet)))
    await eventually(lambda: len(fleet.ended) > 50, what="work flows")
    before = len(fleet.events)
    fleet.kill("c1")
    tasks = await posting
    fleet.start("c1", "coordinator", "--name", "c1")
    await fleet.event("coordinator.elected", "c1", since=before, timeout_s=10.0)
    await fleet.all_results(tasks)
    info = await fleet.task_info(waiting)
    assert (info.row.state, info.row.reason[:13]) == ("waiting", "no node fits:")
    await fleet.node("late", "--label", "pool=late")
    await all_once(fleet, [waiting, *tasks])


async def test_a_coordinator_that_is_stopped_hands_over_without_a_lease_to_wait_for(fleet: Stack) -> None:
    fleet.start("c2", "coordinator", "--name", "c2")
    await eventually(lambda: "following: another coordinator acts" in fleet.log("c2"), what="c2 follows")
    fleet.kill("c1", signal.SIGTERM)
    await fleet.event("coordinator.stopped", "c1")
    await fleet.event("coordinator.elected", "c2", timeout_s=2.0)
    assert (await fleet.result(await fleet.submit("echo", 1))).state is ResultState.SUCCEEDED


async def test_a_coordinator_that_stopped_for_a_while_finds_itself_deposed(fleet: Stack) -> None:
    fleet.start("c2", "coordinator", "--name", "c2")
    await eventually(lambda: "following: another coordinator acts" in fleet.log("c2"), what="c2 follows")
    expiring = await fleet.submit("slow_on", [], 0, 3.0, deadline_s=60)
    await fleet.event("task.started", expiring)
    fleet.processes["c1"].send_signal(signal.SIGSTOP)
    await fleet.event("coordinator.elected", "c2", timeout_s=10.0)
    tasks = await fleet.put_all(load(fleet))
    fleet.processes["c1"].send_signal(signal.SIGCONT)
    await eventually(lambda: "following: another coordinator acts" in fleet.log("c1"), what="c1 follows now")
    await all_once(fleet, [expiring, *tasks])
    assert (await fleet.status()).coordinator == "c2"
    assert len(fleet.seen("coordinator.elected", "c1")) == 1


# The broker


async def test_what_a_killed_broker_had_acknowledged_completes_when_it_is_back(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(start_broker)
    async with stack(broker.target, tmp_path / "fleet") as fleet:
        await fleet.coordinator()
        await asyncio.gather(fleet.node("a"), fleet.node("b"))
        acknowledged: list[str] = []
        todo = load(fleet)

        async def submit() -> None:
            """One after the other, a hundred ahead; one that has no answer yet is said again until it has."""
            while todo:
                await eventually(lambda: broker.process.poll() or len(acknowledged) < len(fleet.ended) + 100)
                if not todo:
                    return
                task = todo.pop()
                await fleet.put(task)
                acknowledged.append(task.id)

        posting = asyncio.gather(*(submit() for _ in range(10)))
        await eventually(lambda: len(fleet.ended) > 50, what="work flows")
        broker.kill()
        left = len(todo)
        await asyncio.to_thread(start_broker)
        await posting
        assert left and len(acknowledged) == LOAD
        # What was republished while we were cut off did not come by: the stream has it.
        await eventually(lambda: _all_stored(fleet, acknowledged), 40.0, "every result")
        await fleet.nothing_left()
        assert await stored_results(fleet) == LOAD
        assert not fleet.doubled
        pids = {name: process.poll() for name, process in fleet.processes.items()}
        assert set(pids.values()) == {None}, "no process of ours minded"


async def _all_stored(fleet: Stack, tasks: list[str]) -> bool:
    return fleet.bus.connected and await stored_results(fleet) >= len(tasks)


# All of it


def test_fog_up_starts_again_on_the_same_home_with_the_queue_still_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as running:
        until(lambda: running.fog("status").returncode == 0, 30, "a fleet without nodes")
        done = running.fog("submit", "echo", "7", "--wait-for-node", "--detach")
        assert done.returncode == 0, done.stderr
        task = done.stdout.split()[0]
        assert running.json("task", task)["state"] in ("waiting", "placing", "queued")
    with up(home, "--nodes", "1") as running:
        wait_for_nodes(running, 1)
        until(lambda: running.ended(task), 60.0, "the task's result")
        assert running.json("task", task)["result"]["value"] == 7
