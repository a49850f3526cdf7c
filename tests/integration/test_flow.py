"""The flow of docs/architecture.md, one test an arrow: real broker, real coordinator, real nodes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import client
from schemas import jetstream, streams, subjects
from schemas.codec import encode
from schemas.errors import Refused, StoreRefused
from schemas.membership import NodeCommand
from schemas.procs import spawn
from schemas.target import Target
from schemas.task import CommandRun, ResultState, TaskPriority
from tests.conftest import BrokerPool
from tests.integration.stack import ME, ROOT, Stack, stack
from tests.until import eventually, gone

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDED_S = 2.0  # a running task is stopped within a second; a busy machine gets another


class Outsider:
    """`tests/integration/outsider.py` at work. `heard`: its lines so far."""

    def __init__(self, target: Target, folder: Path) -> None:
        made = subprocess.run(
            [sys.executable, "-P", "-m", "client.cli", "schema", str(folder)],
            env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.heard: list[dict[str, Any]] = []
        program = Path(__file__).with_name("outsider.py")
        argv = [sys.executable, "-P", str(program), target.url, target.seed, str(folder)]
        self.process = spawn(argv, stdout=subprocess.PIPE, cwd=folder)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard.append(json.loads(line))

    def about(self, task: str) -> list[dict[str, Any]]:
        """The events of one task, by their own times."""
        events = [line["event"] for line in self.heard if line.get("event", {}).get("subject") == task]
        return sorted(events, key=lambda event: event["time"])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


@pytest.fixture(scope="module")
def own_target(broker_pool: BrokerPool) -> Target:
    """The account of this module's fleet."""
    return broker_pool.take()


@pytest.fixture(scope="module")
def outsider(own_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outsider]:
    """Hears everything from before the first process starts."""
    made = Outsider(own_target, tmp_path_factory.mktemp("schemas"))
    yield made
    made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(
    own_target: Target, outsider: Outsider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A coordinator and two nodes, of which b runs commands as well."""
    async with stack(own_target, tmp_path_factory.mktemp("fleet")) as made:
        await eventually(lambda: outsider.heard, what="the outsider listens")
        await made.coordinator()
        await asyncio.gather(made.node("a"), made.node("b", "--allow", "command"))
        yield made


async def works(fleet: Stack, task: str) -> list[str]:
    """The nodes under which FOG_WORK holds a task."""
    found = await jetstream.subjects(fleet.bus, streams.WORK, subjects.work("*", task))
    return [subjects.tail(subject, 1)[0] for subject in found]


# client → TASKS → coordinator → WORK


async def test_what_is_submitted_is_kept_in_tasks_and_starts_when_a_coordinator_comes(
    broker_pool: BrokerPool, tmp_path: Path
) -> None:
    async with stack(broker_pool.take(), tmp_path) as made:
        await jetstream.ensure_streams(made.bus)
        task = made.make("echo", {"x": [1, "ü"]}, priority=TaskPriority.HIGH)
        await made.put(task)
        await made.put(task)  # a client that got no answer says it again
        kept = await jetstream.get_message(made.bus, streams.TASKS, last_by=subjects.submit(7, ME, task.id))
        assert kept is not None and kept.data == encode(task)
        assert await made.stored(streams.TASKS) == 1
        await asyncio.gather(made.coordinator(), made.node("first"))
        assert json.loads(bytes((await made.result(task.id)).value)) == {"x": [1, "ü"]}
        assert await made.stored(streams.TASKS) == 0


async def test_the_coordinator_moves_a_task_to_the_queue_of_a_node(fleet: Stack) -> None:
    task = await fleet.submit("where", 0.5)
    await fleet.event("task.started", task)
    [node] = await works(fleet, task)
    assert await fleet.stored(streams.TASKS) == 0, "its old place is empty once the new one is stored"
    info = await fleet.task_info(task)
    assert (info.row.state, info.row.node) == ("placed", node)
    assert info.why.text.startswith(f"{node} had the best score")
    result = await fleet.result(task)
    assert json.loads(bytes(result.value)) == result.node == node
    why = (await fleet.task_info(task)).why
    assert why.text == info.why.text, "why it ran there is still known when it has ended"


async def test_an_outside_tool_sees_a_task_that_waits_for_a_slot_go_through_its_states_in_order(
    fleet: Stack, outsider: Outsider
) -> None:
    await fleet.put_all([fleet.make("slow_on", [], 0.0, 0.8) for _ in range(4)])
    task = await fleet.submit("echo", 1, cores=2, priority=TaskPriority.LOW)
    await fleet.result(task)
    wanted = [f"fog.task.{what}" for what in ("queued", "assigned", "started", "succeeded")]
    await eventually(lambda: len(outsider.about(task)) >= len(wanted), what="all its events")
    events = outsider.about(task)
    assert [event["type"] for event in events] == wanted
    ends = ("0.queued", "1.assigned", "1.started", "1.succeeded")
    assert [event["id"] for event in events] == [f"{task}.{end}" for end in ends]


# WORK → runner → RESULTS → client


async def test_a_result_is_stored_once_whatever_a_careless_publisher_does(fleet: Stack) -> None:
    task = await fleet.submit("echo", "the first counts")
    await fleet.result(task)
    subject = subjects.result(ME, task)
    with pytest.raises(StoreRefused) as refused:
        await fleet.store.put(subject, b'{"task": "another"}')
    assert refused.value.exists
    stored = await jetstream.get_message(fleet.bus, streams.RESULTS, last_by=subject)
    assert stored is not None and b"the first counts" in stored.data
    await eventually(lambda: _none(works(fleet, task)), what="the node acks its WORK message last")
    assert not fleet.doubled


async def _none(found: Any) -> bool:
    return not await found


async def test_a_client_gets_the_result_when_it_is_stored(fleet: Stack) -> None:
    async with client.connect(creds=fleet.folder / "fog.creds", submitter="ann") as sdk:
        assert await sdk.submit("where", 0.0, node="b") == "b"
        assert [r.value async for r in sdk.map("echo", range(100))] == list(range(100))


# heartbeats → coordinator


async def test_a_heartbeat_tells_what_runs_and_what_the_device_is(fleet: Stack) -> None:
    task = await fleet.submit("where", 3, node="a")
    await fleet.event("task.started", task)
    term = (await fleet.status()).term
    await fleet.bus.request(subjects.command("a", "report"), encode(NodeCommand(term)))

    async def told() -> bool:
        held = (await fleet.node_info("a")).held
        return [(h.task, h.running) for h in held] == [(task, True)]

    await eventually(told, what="the beat that says that it runs")
    await fleet.cancel(task)


async def test_a_device_with_a_flat_battery_gets_no_work_and_says_why(fleet: Stack) -> None:
    await fleet.node("phone", env={"BATTERY": "25"})
    info = await fleet.node_info("phone")
    assert info.row.battery_percent == 25
    assert any("battery" in reason for reason in info.fit_reasons), info.fit_reasons
    task = await fleet.submit("echo", 1, node="phone")

    async def told() -> bool:
        return "battery" in (await fleet.task_info(task)).why.text

    await eventually(told, what="why none")
    await fleet.cancel(task)
    fleet.kill("phone")
    await fleet.event("node.lost", "phone")


# outcomes → another try, or the end


async def test_a_failed_attempt_is_tried_on_another_node(fleet: Stack, tmp_path: Path) -> None:
    result = await fleet.result(await fleet.submit("fail_first", str(tmp_path)))
    assert (result.state, result.attempts) == (ResultState.SUCCEEDED, 2)
    failed = fleet.seen("task.attempt-failed", result.task)[0]["data"]
    assert {failed["node"], result.node} == {"a", "b"}


async def test_a_task_that_always_fails_ends_with_the_error_of_every_attempt(fleet: Stack) -> None:
    result = await fleet.result(await fleet.submit("fail_on", ["a", "b"], retries=2, backoff_s=0.01))
    assert (result.state, result.attempts) == (ResultState.FAILED, 3)
    assert [error.attempt for error in result.errors] == [1, 2, 3]
    assert {error.node for error in result.errors[:2]} == {"a", "b"}, "the second try goes elsewhere"
    assert all(f"nothing works on {error.node}" in error.error for error in result.errors)


# cancel


async def test_cancelling_a_task_that_waits_ends_it_at_once(fleet: Stack) -> None:
    task = await fleet.submit("echo", 1, labels={"nobody": "has-it"})
    await fleet.event("task.waiting", task)
    await fleet.cancel(task)
    assert (await fleet.result(task)).state is ResultState.CANCELLED
    await eventually(lambda: _none(works(fleet, task)), 60.0, "nothing of it is left in a queue")


async def test_cancelling_a_running_task_ends_its_whole_process_tree(fleet: Stack, tmp_path: Path) -> None:
    task = await fleet.submit("family", str(tmp_path))
    await eventually((tmp_path / "pids").exists, what="the family runs")
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3 and not any(gone(pid) for pid in pids)
    await fleet.cancel(task)
    await eventually(lambda: all(gone(pid) for pid in pids), ENDED_S, "the end of the process tree")
    assert (await fleet.result(task)).state is ResultState.CANCELLED
    again = await fleet.submit("echo", 1)
    assert (await fleet.result(again)).state is ResultState.SUCCEEDED, "the slot is free again"


# drain


async def test_draining_hands_back_what_runs_and_it_finishes_elsewhere(fleet: Stack) -> None:
    pool = {"pool": "drain"}
    await fleet.node("d1", "--label", "pool=drain")
    task = await fleet.submit("slow_on", ["d1"], 60, labels=pool)
    await fleet.event("task.started", task)
    await fleet.node("d2", "--label", "pool=drain")
    await fleet.drain("d1", deadline_s=0.1)
    result = await fleet.result(task)
    assert (result.state, result.node) == (ResultState.SUCCEEDED, "d2")
    assert "returned" in fleet.story(task)
    assert (await fleet.task_info(task)).row.attempts == 2
    assert (await fleet.node_info("d1")).row.state.value == "draining"
    fleet.kill("d2")
    await fleet.event("node.lost", "d2")
    waits = await fleet.submit("where", labels=pool)

    async def drained_is_why() -> bool:
        return "drain" in (await fleet.task_info(waits)).why.text

    await eventually(drained_is_why, what="the coordinator looked at it, and says why it waits")
    await fleet.drain("d1", resume=True)
    assert (await fleet.result(waits)).node == "d1", "taken back into service, it gets work again"
    fleet.kill("d1")
    await fleet.event("node.lost", "d1")


# deadlines, pins, kinds, functions


async def test_a_task_that_misses_its_deadline_expires_running_or_not(fleet: Stack) -> None:
    waiting = await fleet.submit("echo", 1, labels={"nobody": "has-it"}, deadline_s=0.5)
    running = await fleet.submit("where", 60, deadline_s=0.5)
    for task in (waiting, running):
        result = await fleet.result(task)
        assert (result.state, "deadline" in result.reason) == (ResultState.EXPIRED, True)
    assert "started" in fleet.story(running)
    await fleet.nothing_left()


async def test_a_pinned_task_runs_on_its_node_and_nowhere_else(fleet: Stack) -> None:
    for node in ("a", "b"):
        tasks = await fleet.put_all([fleet.make("where", node=node) for _ in range(5)])
        assert {(await fleet.result(task)).node for task in tasks} == {node}


async def test_a_command_runs_only_where_its_owner_allows_it_and_else_waits_with_the_reason(fleet: Stack) -> None:
    run = CommandRun((sys.executable, "-S", "-c", "print('out'); raise SystemExit(3)"))
    result = await fleet.result(await fleet.submit(run=run, retries=0))
    assert (result.node, result.exit_code, result.stdout) == ("b", 3, "out\n")
    refused = await fleet.submit(run=run, node="a")
    waiting = await fleet.event("task.waiting", refused)
    assert "command" in waiting["data"]["reason"]
    [against] = [said for said in (await fleet.task_info(refused)).why.against if said.node == "a"]
    assert "command" in against.reasons[0]
    await fleet.cancel(refused)


async def test_a_function_that_nobody_offers_is_refused_with_the_names_that_are(fleet: Stack) -> None:
    async with client.connect(creds=fleet.folder / "fog.creds") as sdk:
        with pytest.raises(Refused) as refused:
            await sdk.submit("no_such", 1)
    assert "no_such" in refused.value.message and "wordcount" in str(refused.value)


async def test_a_task_may_wait_for_a_node_that_offers_its_function(fleet: Stack) -> None:
    (fleet.folder / "late_functions.py").write_text(
        "import node\n\n@node.function\ndef late(x: int) -> int:\n    return 2 * x\n"
    )
    async with client.connect(creds=fleet.folder / "fog.creds") as sdk:
        waiting = asyncio.ensure_future(sdk.submit("late", 21, wait_for_node=True))
        before = len(fleet.events)
        told = await fleet.event("task.waiting", since=before)
        assert "late" in told["data"]["reason"]
        path = f"{ROOT}:{fleet.folder}"
        await fleet.node("e", "--import", "late_functions", env={"PYTHONPATH": path})
        assert await waiting == 42
    fleet.kill("e")
    await fleet.event("node.lost", "e")


# events → outside tools


async def test_every_event_is_what_its_schema_says(fleet: Stack, outsider: Outsider) -> None:
    task = await fleet.submit("echo", "the last")
    await fleet.result(task)
    await eventually(lambda: len(outsider.about(task)) >= 3, what="the last task's events")
    assert outsider.heard[0] == {"ready": True, "ours": []}
    assert [line for line in outsider.heard[1:] if line["problems"]] == []
    await fleet.nothing_left()
    assert (await fleet.status()).bad == {}
