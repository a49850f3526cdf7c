"""The SDK with the real coordinator and real nodes, through what goes wrong in practice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

import client
from coordinator.broker import Broker
from coordinator.broker_config import PENDING_BYTES
from schemas import subjects
from schemas.bus import Bus
from schemas.creds import read_creds
from schemas.errors import Refused, TaskFailed
from schemas.event import CloudEvent, NodeRegistered
from schemas.home import Home, read_instance
from schemas.procs import spawn
from schemas.target import Target
from tests.integration.client_stack import ROOT, Up, up, wait_for_nodes
from tests.until import eventually

WATCHER = """
import asyncio, sys
from schemas.bus import Bus
from schemas.target import Target

async def watch():
    bus = await Bus.connect(Target(sys.argv[1], seed=sys.argv[2]), name="sleepy")
    await bus.subscribe("fog.v1.>", lambda *_: None)
    await bus.flush()
    print("watching", flush=True)
    await asyncio.Event().wait()

asyncio.run(watch())
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two nodes."""
    with up(tmp_path_factory.mktemp("home"), "--nodes", "2", "--allow", "command") as running:
        wait_for_nodes(running, 2)
        yield running


async def test_a_thousand_tasks_at_once_each_give_their_own_value(running: Up) -> None:
    async with client.connect(home=running.home) as fleet:
        values = await asyncio.gather(*(fleet.submit("echo", number) for number in range(1000)))
        assert values == list(range(1000))


async def test_a_map_of_many_items_keeps_order_and_uses_every_node(running: Up) -> None:
    async with client.connect(home=running.home) as fleet:
        nodes, expected = set(), 0
        async for item in fleet.map("echo", range(20_000)):
            assert (item.index, item.value, item.error) == (expected, expected, None)
            nodes.add(item.node)
            expected += 1
        assert expected == 20_000
        assert nodes == {"node-1", "node-2"}


async def test_a_cancelled_submit_ends_its_task_on_the_node(running: Up) -> None:
    # A submitter of its own: events of other tests' tasks may still be on their way.
    async with client.connect(home=running.home, submitter="canceller") as fleet:
        events = fleet.events(follow=True, kind="task")
        async with aclosing(events):
            following = asyncio.create_task(_until_started(events, "canceller"))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(fleet.submit("sleep", 60))
            task = await asyncio.wait_for(following, 60)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        result = await asyncio.wait_for(fleet.handle(task).end(), 60)
        assert result.state == "cancelled"


async def _until_started(events: AsyncIterator[CloudEvent], submitter: str) -> str:
    async for event in events:
        if event.type == "fog.task.started" and event.data.submitter == submitter:
            return event.subject
    raise AssertionError("the events ended")


async def test_what_is_known_of_nodes_tasks_and_events_is_typed(running: Up) -> None:
    async with client.connect(home=running.home) as fleet:
        assert [row.node for row in await fleet.nodes()] == ["node-1", "node-2"]
        assert (await fleet.node("node-2")).row.cores > 0
        assert (await fleet.status()).nodes == {"online": 2}
        handle = await fleet.start("sleep", 30, node="node-1")
        assert handle.id in [row.task for row in await fleet.tasks(submitter=fleet.submitter)]
        assert (await fleet.task(handle.id)).row.what == "sleep"
        await handle.cancel("enough")
        with pytest.raises(TaskFailed, match="cancelled"):
            await handle.result()
        ended = (await fleet.task(handle.id)).row
        assert (ended.state, ended.what, ended.kind, ended.priority) == ("cancelled", "sleep", "function", "normal")
        registered = [event async for event in fleet.events(kind="node.registered")]
        assert {event.subject for event in registered} == {"node-1", "node-2"}
        assert all(isinstance(event.data, NodeRegistered) for event in registered)


@contextmanager
def stopped_watcher(target: Target) -> Iterator[None]:
    """A process that has subscribed to all that is said, and was stopped then."""
    process = spawn([sys.executable, "-c", WATCHER, target.url, target.seed], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"watching\n"
            process.send_signal(signal.SIGSTOP)
            yield
        finally:
            process.kill()
            process.wait()


async def test_a_watcher_that_stopped_reading_is_cut_by_the_broker_and_tasks_go_on_meanwhile(running: Up) -> None:
    """However fast others talk, no more than the broker's bound waits for it."""
    creds = read_creds(Home(running.home).creds)
    target = Target(creds.nats, seed=creds.seed)
    async with client.connect(home=running.home) as fleet:
        bus = await Bus.connect(target, name="talker")
        cut: list[str] = []

        def gone(_subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
            told = json.loads(data)
            cut.extend([told["reason"]] if told["client"].get("name") == "sleepy" else [])

        await bus.subscribe(subjects.DISCONNECTS, gone)
        with stopped_watcher(target):
            tasks = asyncio.gather(*(fleet.submit("echo", number) for number in range(200)))
            said = 0
            while not cut:
                for _ in range(16):
                    bus.publish(subjects.output("talker", "talks"), b"x" * 65_536)
                said += 16 * 65_536
                await bus.flush()  # the broker has passed it on, or keeps it
                assert said < 2 * PENDING_BYTES, "more than its bound waits for one that does not read"
            assert await tasks == list(range(200))
        assert "Slow Consumer" in cut[0]
        assert bus.connected, "nobody else was cut"
        await bus.close()


async def test_a_killed_node_loses_nothing_of_a_map(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home, "--nodes", "3") as running:
        await asyncio.to_thread(wait_for_nodes, running, 3)
        instance = read_instance(Home(home))
        assert instance is not None
        async with client.connect(home=home) as fleet:
            count = 0
            async for item in fleet.map("sleep", [0.01] * 1200):
                assert (item.index, item.value, item.error) == (count, 0.01, None)
                count += 1
                if count == 200:
                    os.kill(instance.pids["node-2"], signal.SIGKILL)
            assert count == 1200


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon of ours as a process that ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(module: str, *words: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{module}.log").open("wb")
        argv = [sys.executable, "-P", "-m", module, *words]
        started.append(spawn(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@asynccontextmanager
async def one_node_fleet(
    home: Path, start: Start, start_broker: Callable[..., Broker]
) -> AsyncIterator[tuple[client.Fleet, Broker, subprocess.Popen[bytes]]]:
    broker = await asyncio.to_thread(start_broker, home.name)
    where = ("--nats", broker.url, "--creds", str(home / "fog.creds"), "--home", str(home))
    coordinator = start("coordinator", *where)
    start("node", "--name", "n1", *where)
    async with client.connect(broker.url, home / "fog.creds") as fleet:

        async def taken() -> bool:
            """Not before the coordinator has made the streams."""
            try:
                return bool(await fleet.submit("echo", 1, wait_for_node=True))
            except client.Unreachable:
                return False

        async with asyncio.timeout(60):
            await eventually(taken, 60)
        yield fleet, broker, coordinator


async def test_tasks_and_their_waiting_submits_survive_a_restart_of_the_broker(
    tmp_path: Path, start: Start, start_broker: Callable[..., Broker]
) -> None:
    home = tmp_path / "private"
    async with one_node_fleet(home, start, start_broker) as (fleet, broker, _):
        waiting = [asyncio.create_task(fleet.submit("sleep", 0.2 + number / 100)) for number in range(20)]
        mapping = asyncio.create_task(_collect(fleet, 100))
        await fleet.submit("echo", 1, priority="critical")
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(start_broker, home.name)
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == [0.2 + number / 100 for number in range(20)]
            assert await mapping == [0.02] * 100
            assert await fleet.submit("echo", "after") == "after"


async def _collect(fleet: client.Fleet, count: int) -> list[object]:
    return [item.value async for item in fleet.map("sleep", [0.02] * count)]


async def _offers_echo(fleet: client.Fleet) -> bool:
    try:
        return bool(await fleet.submit("echo", True))
    except Refused:
        return False


async def test_what_is_submitted_without_a_coordinator_is_done_once_one_runs(
    tmp_path: Path, start: Start, start_broker: Callable[..., Broker]
) -> None:
    home = tmp_path / "private"
    async with one_node_fleet(home, start, start_broker) as (fleet, broker, coordinator):
        await eventually(lambda: _offers_echo(fleet), what="the node offers echo")
        coordinator.kill()
        coordinator.wait()
        handles = [await fleet.start("echo", number) for number in range(5)]
        start("coordinator", "--nats", broker.url, "--creds", str(home / "fog.creds"), "--home", str(home))
        async with asyncio.timeout(30):
            assert [await handle.result() for handle in handles] == list(range(5))
