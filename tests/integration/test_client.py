"""The SDK on the real broker, with a fleet of one process behind it (`client_fake`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import client
from client.mapping import MapItem
from schemas import limits
from schemas.bus import Bus
from schemas.creds import Creds, write_creds
from schemas.errors import BadInput, Refused, TaskFailed, Unreachable
from schemas.target import Target
from schemas.task import MapRun, TaskPriority
from tests.integration.client_fake import FakeFleet
from tests.until import eventually


@asynccontextmanager
async def fleets(target: Target, folder: Path, **how: Any) -> AsyncIterator[tuple[client.Fleet, FakeFleet]]:
    """A client, and what it talks to."""
    creds = folder / "fog.creds"
    write_creds(creds, Creds(target.url, target.seed))
    bus = await Bus.connect(target, name="fake")
    async with FakeFleet(bus, **how) as fake, client.connect(creds=creds, submitter="ann") as fleet:
        yield fleet, fake
    await bus.close()


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (what is looked at says nothing by itself)
            await asyncio.sleep(0.01)


async def collect(items: AsyncIterator[MapItem]) -> list[MapItem]:
    return [item async for item in items]


async def test_a_function_runs_and_its_value_comes_back(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        assert await fleet.submit("echo", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}


async def test_a_path_a_string_for_bytes_and_bytes_all_arrive_as_content(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"abc")
    async with fleets(target, tmp_path) as (fleet, _):
        assert await fleet.submit("reverse", path) == b"cba"
        assert await fleet.submit("reverse", str(path)) == b"cba"
        assert await fleet.submit("reverse", b"abc") == b"cba"


async def test_a_large_file_travels_by_the_object_store(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 4096 * 2)
    async with fleets(target, tmp_path) as (fleet, fake):
        assert await fleet.submit("reverse", path) == path.read_bytes()[::-1]
        (task,) = fake.ran
        assert task.run.files[0].blob.data is None
        assert task.input_bytes >= 2 << 20


async def test_json_arguments_too_large_for_a_message_are_refused_with_advice(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        with pytest.raises(BadInput, match="put the data into a file"):
            await fleet.submit("echo", "x" * limits.TASK_MAX)


async def test_a_missing_file_is_named(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        with pytest.raises(BadInput, match="no such file"):
            await fleet.submit("sha256", tmp_path / "absent")


async def test_an_unknown_function_is_refused_with_the_names_on_offer(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        with pytest.raises(Refused, match="divide, echo, reverse") as refused:
            await fleet.submit("sha512", b"")
        assert refused.value.code == "unknown-function"
        assert fake.ran == []


async def test_an_unknown_function_is_submitted_when_it_may_wait_for_a_node(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        with pytest.raises(TaskFailed):
            await fleet.submit("sha512", "x", wait_for_node=True)
        assert fake.ran[0].wait_for_node


async def test_a_function_is_called_as_soon_as_a_node_offers_it_though_it_was_unknown_a_moment_ago(
    target: Target, tmp_path: Path
) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        fake.lacks = {"say"}
        with pytest.raises(Refused):
            await fleet.submit("say", "too early")
        fake.lacks = set()
        assert await fleet.submit("say", "now") == "now"


async def test_nobody_is_refused_by_an_answer_to_what_was_asked_before_they_called(
    target: Target, tmp_path: Path
) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        fake.slow, fake.lacks = True, {"say"}
        early = asyncio.create_task(fleet.submit("say", "too early"))
        await until(lambda: fake.asked == 1)
        fake.lacks = set()
        calls = [asyncio.create_task(fleet.submit("say", str(number))) for number in range(20)]
        await asyncio.sleep(0)  # all of them wait for the answer that is on its way
        fake.answer_late()
        assert await asyncio.gather(*calls) == [str(number) for number in range(20)]
        assert fake.asked == 2, "one more question for all of them"
        with pytest.raises(Refused, match="say"):
            await early


async def test_options_say_what_the_task_needs(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        await fleet.submit("echo", 1, priority="high", cores=2, memory_mb=128, labels={"room": "b2"}, retries=5)
        (task,) = fake.ran
        assert (task.priority, task.needs.cores, task.needs.memory_mb) == (TaskPriority.HIGH, 2, 128)
        assert (task.needs.labels, task.retry.limit) == ({"room": "b2"}, 5)


async def test_a_failed_task_raises_with_its_recorded_result(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        with pytest.raises(TaskFailed, match="failed on fake-1: ZeroDivisionError") as failed:
            await fleet.submit("divide", 0)
        assert failed.value.result.node == "fake-1"


async def test_many_submits_at_once_each_get_their_own_value_and_ask_for_the_functions_once(
    target: Target, tmp_path: Path
) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        values = await asyncio.gather(*(fleet.submit("echo", number) for number in range(500)))
        assert values == list(range(500))
        assert fake.asked <= 2


async def test_a_cancelled_submit_cancels_its_task(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        fake.hold.clear()
        waiting = asyncio.create_task(fleet.submit("echo", 1))
        await until(lambda: fake.waiting)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: fake.cancelled)
        assert set(fake.cancelled) == fake.waiting


async def test_cancelling_what_is_not_there_is_refused_by_its_code(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        with pytest.raises(Refused, match="see `fog tasks`") as refused:
            await fleet.cancel("nothing")
        assert refused.value.code == "unknown-task"


async def test_a_started_task_is_waited_for_by_its_handle_or_by_its_id_alone(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        handle = await fleet.start("echo", "later")
        assert await handle.result() == "later"
        assert await fleet.handle(handle.id).result() == "later"


async def test_a_command_returns_its_exit_code_and_its_output_can_be_followed(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        assert (await fleet.command(["a", "b", "c"])).exit_code == 3
        fake.hold.clear()
        handle = await fleet.start_command(["hello", "world"])
        fake.hold.set()
        assert [piece.text async for piece in handle.output()] == ["hello world\n"]
        assert (await handle.end()).stdout == "hello world\n"


async def test_without_a_coordinator_a_task_is_kept_and_the_user_is_told(
    target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        await fake.silence()
        with caplog.at_level(logging.WARNING, "fog.client"):
            handle = await fleet.start("echo", 1)
        assert "nothing starts until one runs" in caplog.text
        assert await handle.result() == 1
        with pytest.raises(Unreachable, match="fog up"):
            await fleet._api.functions(0.3)


async def test_results_missed_while_cut_off_are_read_from_the_stream(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        fake.hold.clear()
        handle = await fleet.start("echo", "kept")
        assert fleet._waiting._subscription is not None
        await fleet._waiting._subscription.close()  # the republished message passes by unheard
        fake.hold.set()
        await eventually(lambda: fleet.stored_result(handle.id))
        fleet.link_back()
        assert await asyncio.wait_for(handle.result(), 60) == "kept"


async def test_a_map_keeps_the_order_and_each_item_comes_once(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        items = await collect(fleet.map("echo", range(5000)))
        assert [(item.index, item.value, item.error) for item in items] == [(n, n, None) for n in range(5000)]
        assert len(fake.ran) < 100
        assert items[0].node == "fake-1"


async def test_an_unordered_map_gives_the_same_items(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        items = await collect(fleet.map("echo", range(1000), ordered=False))
        assert sorted(item.index for item in items) == list(range(1000))


async def test_a_map_says_which_items_failed_and_why(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        items = await collect(fleet.map("divide", [1, 0, 2, 0]))
        assert [item.value for item in items] == [12, None, 6, None]
        assert [bool(item.error) for item in items] == [False, True, False, True]
        assert "ZeroDivisionError" in str(items[1].error)


async def test_a_map_over_files_of_all_sizes_reads_each_and_names_the_unreadable(
    target: Target, tmp_path: Path
) -> None:
    paths = []
    for number in range(30):
        path = tmp_path / f"f{number}"
        path.write_bytes(bytes([number]) * (700_000 if number == 11 else number * 3000))
        paths.append(path)
    paths[5] = tmp_path / "absent"
    async with fleets(target, tmp_path) as (fleet, fake):
        items = await collect(fleet.map("reverse", map(str, paths)))
        assert "no such file" in str(items[5].error)
        sizes = [len(item.value) for item in items if item.index != 5]
        assert sizes == [path.stat().st_size for path in paths if path.exists()]
        runs = [task.run for task in fake.ran if isinstance(task.run, MapRun)]
        assert all(sum(len(b.data or b"") for b in run.files) <= limits.INLINE_MAX for run in runs)


async def test_items_too_large_to_travel_together_are_spread_and_huge_ones_packed(
    target: Target, tmp_path: Path
) -> None:
    items = ["x" * 100_000] * 20 + ["y" * (2 * limits.INLINE_MAX)]
    async with fleets(target, tmp_path) as (fleet, _):
        assert [item.value for item in await collect(fleet.map("echo", items))] == items


async def test_a_map_reads_a_slow_async_source_as_it_comes(target: Target, tmp_path: Path) -> None:
    come = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        await come.wait()
        yield 3

    async with fleets(target, tmp_path) as (fleet, _), aclosing(fleet.map("echo", source())) as items:
        assert (await anext(items)).value == 1
        assert (await anext(items)).value == 2
        come.set()
        assert [item.value async for item in items] == [3]


async def test_a_map_reads_no_further_than_needed(target: Target, tmp_path: Path) -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    async with fleets(target, tmp_path) as (fleet, fake):
        async with aclosing(fleet.map("echo", source())) as items:
            await anext(items)
            await asyncio.sleep(0)
        assert read < 2_000_000
        held = read
        await until(lambda: not fake.waiting)
        assert read == held


async def test_the_chunks_of_a_map_that_was_split_on_the_way_are_put_together(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path, split_above=10) as (fleet, _):
        items = await collect(fleet.map("echo", range(1000)))
        assert [item.value for item in items] == list(range(1000))
        assert {item.node for item in items} == {"fake-1", "fake-2"}


async def test_an_interrupted_job_goes_on_where_it_was(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        async with aclosing(fleet.map("echo", range(2000), job="mine")) as items:
            async for item in items:
                if item.index == 300:
                    break
        items_again = await collect(fleet.map("echo", range(2000), job="mine"))
        assert [item.value for item in items_again] == list(range(2000))
        ran = [
            index
            for t in fake.ran
            if isinstance(t.run, MapRun)
            for index in range(t.run.first, t.run.first + t.run.count)
        ]
        assert sorted(ran) == list(range(2000))  # nothing ran twice


async def test_a_job_that_is_done_gives_its_values_again_without_running(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        first = await collect(fleet.map("echo", range(100), job="mine"))
        ran = len(fake.ran)
        assert await collect(fleet.map("echo", range(100), job="mine")) == first
        assert len(fake.ran) == ran


async def test_a_job_id_cannot_be_used_for_something_else(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, _):
        await collect(fleet.map("echo", range(10), job="mine"))
        with pytest.raises(BadInput, match="maps echo"):
            await collect(fleet.map("divide", range(10), job="mine"))
        with pytest.raises(BadInput, match="10 items, not 11"):
            await collect(fleet.map("echo", range(11), job="mine"))
        with pytest.raises(BadInput, match="begun with other items"):
            await collect(fleet.map("echo", [*range(9), 10], job="mine"))
        with pytest.raises(BadInput, match="longer than 24"):
            await collect(fleet.map("echo", range(11), job="m" * 25))


async def test_a_map_that_is_left_early_cancels_what_is_outstanding(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path) as (fleet, fake):
        async with aclosing(fleet.map("echo", range(100_000))) as items:
            await anext(items)
            fake.hold.clear()
            await until(lambda: fake.waiting)
        await until(lambda: set(fake.cancelled) >= fake.waiting)


async def test_an_error_of_the_source_reaches_the_reader(target: Target, tmp_path: Path) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    async with fleets(target, tmp_path) as (fleet, _):
        with pytest.raises(LookupError, match="no more"):
            await collect(fleet.map("echo", source()))


async def test_a_node_that_joins_late_gets_work_of_a_running_map(target: Target, tmp_path: Path) -> None:
    async with fleets(target, tmp_path, slots=1) as (fleet, fake):
        fake.hold.clear()
        items = asyncio.create_task(collect(fleet.map("echo", range(50))))
        await until(lambda: len(fake.waiting) == 2)
        fake.slots = 4
        await until(lambda: len(fake.waiting) == 8)
        fake.hold.set()
        assert len(await items) == 50
