"""Splitting map chunks, on the real broker: the shell alone, then with real coordinators and nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec import Raw
from msgspec.structs import replace

import client
from client.fleet import Fleet
from client.mapping import Ended, MapItem
from coordinator.core.actions import Split
from coordinator.core.events import Source
from coordinator.core.splitting import cut
from coordinator.splits import Splitter
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.chunks import JobRecord, Span, chunk_id, tile
from schemas.codec import Decoder, encode
from schemas.errors import Unreachable
from schemas.kv import Kv
from schemas.objects import Objects
from schemas.store import Store
from schemas.target import Target
from schemas.task import Blob, MapRun, Result, ResultState, Task, TaskPriority
from tests.integration.stack import Stack, stack

SECRET = "s3cret"
task_of: Decoder[Task] = Decoder(Task)


# The shell alone.


def giving(body: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return body

    return read


class Shell:
    """A splitter, and what it stores."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.store = bus, Store(bus)
        self.objects = Objects(bus)
        self.splitter = Splitter(bus, self.store)

    async def job(self, submitter: str = "ann") -> None:
        record = JobRecord(SECRET, "echo", 0.0, submitter)
        await Kv(self.bus, self.store, streams.JOBS).create("j", msgspec.json.encode(record))

    async def split(self, task: Task, number: int = 2, deadline_s: float | None = None) -> tuple[tuple[str, ...], str]:
        assert isinstance(task.run, MapRun)
        parts = cut(Span(task.run.first, task.run.count), number)
        wanted = Split(task.id, task.submitter, parts, Source("tasks", 1), deadline_s)
        ended = await self.splitter.split(wanted, giving(encode(task)))
        return ended.parts, ended.error

    async def tasks(self) -> list[Task]:
        """What lies in TASKS, in the order of its coming."""
        found = await jetstream.read_all(self.bus, streams.TASKS, subjects.submitted("*"))
        return [task_of(message.data) for message in found]


@pytest_asyncio.fixture
async def shell(target: Target) -> AsyncIterator[Shell]:
    bus = await Bus.connect(target, name="split-test")
    await jetstream.ensure_streams(bus)
    made = Shell(bus)
    yield made
    made.store.close()
    await bus.close()


def chunk(first: int, count: int, **more: Any) -> Task:
    run = MapRun("echo", "j", first, count, **more)
    return Task(chunk_id(SECRET, "j", Span(first, count)), "ann", run, priority=TaskPriority.HIGH, timeout_s=9.0)


def numbers(first: int, count: int) -> Task:
    return chunk(first, count, items=Raw(msgspec.json.encode(list(range(first, first + count)))))


def run_of(task: Task) -> MapRun:
    assert isinstance(task.run, MapRun)
    return task.run


async def test_parts_are_the_whole_with_their_own_items_and_what_is_left_of_the_deadline(shell: Shell) -> None:
    await shell.job()
    whole = replace(numbers(10, 5), deadline_s=100.0, estimated_duration_s=5.0)
    parts, error = await shell.split(whole, deadline_s=60.0)
    assert error == ""
    assert parts == (chunk_id(SECRET, "j", Span(10, 3)), chunk_id(SECRET, "j", Span(13, 2)))
    last, first = await shell.tasks()  # the last is stored first
    assert (first.id, last.id) == parts
    assert bytes(run_of(first).items) == b"[10,11,12]"
    assert bytes(run_of(last).items) == b"[13,14]"
    same = {"submitter": "ann", "priority": TaskPriority.HIGH, "timeout_s": 9.0, "deadline_s": 60.0}
    assert {name: getattr(first, name) for name in same} == same
    assert (first.estimated_duration_s, last.estimated_duration_s) == (3.0, 2.0)
    assert (first.input_bytes, last.input_bytes) == (10, 7)


async def test_files_are_shared_out(shell: Shell) -> None:
    await shell.job()
    blobs = tuple(Blob(3, b"%03d" % i) for i in range(4))
    parts, _ = await shell.split(chunk(0, 4, files=blobs))
    assert len(parts) == 2
    last, first = await shell.tasks()
    assert (run_of(first).files, run_of(last).files) == (blobs[:2], blobs[2:])


async def test_what_was_packed_is_packed_again_only_where_it_is_still_large(shell: Shell) -> None:
    await shell.job()
    items = ["x" * limits.INLINE_MAX, "y", "z", "ä"]
    data = msgspec.json.encode(items)
    parts, error = await shell.split(chunk(0, 4, packed=Blob(len(data), None, await shell.objects.put(data))))
    assert (len(parts), error) == (2, "")
    last, first = map(run_of, await shell.tasks())
    assert first.packed is not None
    assert msgspec.json.decode(await shell.objects.bytes_of(first.packed)) == items[:2]
    assert last.packed is None
    assert msgspec.json.decode(last.items) == items[2:]


async def test_doing_it_again_stores_nothing_more(shell: Shell) -> None:
    await shell.job()
    before = await shell.split(numbers(0, 8))
    assert await shell.split(numbers(0, 8)) == before
    assert len(await shell.tasks()) == 2


async def test_a_part_that_has_its_result_is_not_stored(shell: Shell) -> None:
    await shell.job()
    done = chunk_id(SECRET, "j", Span(0, 4))
    await shell.store.put(subjects.result("ann", done), encode(Result(done, "ann", ResultState.SUCCEEDED)))
    parts, _ = await shell.split(numbers(0, 8))
    assert parts[0] == done
    assert [task.id for task in await shell.tasks()] == [parts[1]]


async def test_nobody_gets_another_ones_chunks_named(shell: Shell) -> None:
    """The coordinator knows the secret: what merely says that it is a chunk is not given the names of one."""
    await shell.job(submitter="bob")
    assert await shell.split(numbers(0, 8)) == ((), f"id: {numbers(0, 8).id} is not that chunk of j")
    forged = replace(numbers(0, 8), id="j-0-8-0123456789abcdef", submitter="bob")
    assert await shell.split(forged) == ((), "id: j-0-8-0123456789abcdef is not that chunk of j")
    other = replace(numbers(0, 8), id=chunk_id(SECRET, "j", Span(8, 8)), submitter="bob")
    assert (await shell.split(other))[0] == ()
    assert await shell.tasks() == []


@pytest.mark.parametrize("items", [b"[1,2]", b"[1", b'{"a":1}'])
async def test_what_does_not_hold_its_items_is_not_split(shell: Shell, items: bytes) -> None:
    await shell.job()
    whole = encode(numbers(0, 3)).replace(b"[0,1,2]", items)
    ended = await shell.splitter.split(
        Split(numbers(0, 3).id, "ann", cut(Span(0, 3), 2), Source("tasks", 1)), giving(whole)
    )
    assert ended.parts == ()
    assert ended.error
    assert await shell.tasks() == []


async def test_a_broker_that_does_not_answer_at_first_is_asked_again(shell: Shell) -> None:
    await shell.job()
    tries = 0

    async def read() -> bytes:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unreachable("nobody answers")
        return encode(numbers(0, 8))

    parts = cut(Span(0, 8), 2)
    ended = await shell.splitter.split(Split(numbers(0, 8).id, "ann", parts, Source("tasks", 1)), read)
    assert len(ended.parts) == 2


async def test_a_job_that_is_not_known_is_not_split(shell: Shell) -> None:
    parts, error = await shell.split(numbers(0, 8))
    assert (parts, error) == ((), "job: j is not known (jobs are kept for 8 days)")


# With real coordinators and nodes.

ONE = ("--cores", "1", "--slots", "1", "--import", "tests.integration.split_functions")


@pytest_asyncio.fixture
async def running(target: Target, tmp_path: Path) -> AsyncIterator[Stack]:
    """A coordinator; the nodes are the tests' own."""
    async with stack(target, tmp_path) as made:
        await made.coordinator()
        yield made


async def mapped(
    fleet: Fleet, name: str, items: list[Any], chunks: list[Ended] | None = None, job: str | None = None
) -> list[MapItem]:
    on_chunk = None if chunks is None else chunks.append
    async with asyncio.timeout(60):
        return [item async for item in fleet.map(name, items, job=job, on_chunk=on_chunk)]


async def know(fleet: Fleet, nodes: list[str]) -> None:
    """Let the fleet learn how long an item takes, and where."""
    for node in nodes * 8:
        assert await fleet.submit("crawl", 1, node=node) == 2


def sizes(chunks: list[Ended], node: str) -> list[int]:
    return [ended.span.count for ended in chunks if ended.result is not None and ended.result.node == node]


async def test_a_slow_node_gets_smaller_chunks_and_every_item_is_right(running: Stack) -> None:
    await running.node("quick", *ONE, env={"SPLIT_ITEM_S": "0.005"})
    await running.node("slow", *ONE, env={"SPLIT_ITEM_S": "0.06"})
    chunks: list[Ended] = []
    async with client.connect(creds=running.folder / "fog.creds") as fleet:
        await know(fleet, ["quick", "slow"])
        items = await mapped(fleet, "crawl", list(range(1500)), chunks)
    assert [(item.index, item.value, item.error) for item in items] == [(i, 2 * i, None) for i in range(1500)]
    assert tile(Span(0, 1500), [ended.span for ended in chunks])
    assert running.seen("task.split")
    assert max(sizes(chunks, "slow")) < max(sizes(chunks, "quick"))
    assert max(sizes(chunks, "slow")) * 0.06 < 4.0, "about a second was aimed at"
    assert not running.doubled
    await running.nothing_left()


async def test_one_item_that_ends_its_process_fails_alone(running: Stack) -> None:
    await running.node("n1", *ONE)
    await running.node("n2", *ONE)
    chunks: list[Ended] = []
    async with client.connect(creds=running.folder / "fog.creds") as fleet:
        await mapped(fleet, "mine", [1] * 2000)  # so that the 64 go as one chunk
        items = await mapped(fleet, "mine", list(range(64)), chunks)
    assert [item.index for item in items] == list(range(64))
    assert [item.value for item in items if item.index != 37] == [2 * i for i in range(64) if i != 37]
    (failed,) = [item for item in items if item.error is not None]
    assert failed.index == 37
    assert "after 3 attempts" in str(failed.error)
    assert "exit code 3" in str(failed.error)
    halved = [event["subject"].split("-")[-2] for event in running.seen("task.split")]
    assert halved == ["64", "32", "16", "8", "4", "2"]
    assert sorted(ended.span.count for ended in chunks) == [1, 1, 2, 4, 8, 16, 32]
    assert not running.doubled
    await running.nothing_left()


async def test_one_file_that_ends_its_process_fails_alone(running: Stack) -> None:
    await running.node("n1", *ONE)
    contents = [b"boom" if i == 5 else b"x" * i for i in range(8)]
    async with client.connect(creds=running.folder / "fog.creds") as fleet:
        await mapped(fleet, "mine_bytes", [b"x"] * 1000)
        items = await mapped(fleet, "mine_bytes", contents, job="files")
        await (
            running.nothing_left()
        )  # the last parts' whole may be told after its parts, and is seen here later than there
        before = set(running.results)
        assert await mapped(fleet, "mine_bytes", contents, job="files") == items, "resumed, it finds its parts"
    await running.nothing_left()
    assert set(running.results) == before, "and runs nothing"
    assert [item.value for item in items] == [None if i == 5 else i for i in range(8)]
    assert "exit code 4" in str(items[5].error)
    assert running.seen("task.split")


async def test_a_coordinator_killed_while_chunks_are_split_loses_and_doubles_nothing(running: Stack) -> None:
    """Parts that it had stored, and those that its successor stores, are the same tasks; the map goes on."""
    for name in ("n1", "n2"):
        await running.node(name, *ONE)
    async with client.connect(creds=running.folder / "fog.creds") as fleet:
        await mapped(fleet, "mine", [1] * 2000)
        mapping = asyncio.create_task(mapped(fleet, "mine", list(range(1000))))
        await running.event("task.split")
        running.kill("c1")
        await running.coordinator("c2")
        items = await mapping
    assert [item.value for item in items] == [None if i == 37 else 2 * i for i in range(1000)]
    assert "exit code 3" in str(items[37].error)
    assert not running.doubled
    await running.nothing_left()
