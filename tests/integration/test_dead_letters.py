"""Tasks that are given up, on the real broker: their letters, whatever dies meanwhile, and what is made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw
from msgspec.structs import replace

import client
from client.fleet import Fleet
from schemas import jetstream, streams, subjects
from schemas.codec import Decoder, encode
from schemas.dead import DeadLetter
from schemas.errors import Refused
from schemas.objects import ObjectMissing
from schemas.target import Target
from schemas.task import AttemptError, FunctionRun, Result, ResultState, Task
from tests.integration.stack import ME, Stack, result_of, stack
from tests.until import eventually

task_of: Decoder[Task] = Decoder(Task)
letter_of: Decoder[DeadLetter] = Decoder(DeadLetter)


@pytest_asyncio.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[tuple[Stack, Fleet]]:
    """A stack without processes, and a client of it."""
    async with stack(target, tmp_path / "fleet") as made:
        await jetstream.ensure_streams(made.bus)
        async with client.connect(creds=made.folder / "fog.creds", submitter=ME) as connected:
            yield made, connected


async def letters(made: Stack) -> list[DeadLetter]:
    """All that FOG_DEAD holds besides the terms' marks."""
    found = await jetstream.read_all(made.bus, streams.DEAD, subjects.dead("*", "*"))
    return [letter_of(message.data) for message in found]


async def no_room_for_results(made: Stack) -> dict[str, Any]:
    """RESULTS takes nothing more; its configuration as it was."""
    info = await jetstream.stream_info(made.bus, streams.RESULTS)
    full = {**info["config"], "max_msgs": max(1, info["state"]["messages"])}
    await jetstream.call(made.bus, f"STREAM.UPDATE.{streams.RESULTS}", full)
    config: dict[str, Any] = info["config"]
    return config


def letter(task: str = "t1", **more: Any) -> DeadLetter:
    """A letter as a coordinator writes it."""
    made = Task(task, ME, FunctionRun("echo", Raw(b"[1]")))
    result = Result(task, ME, ResultState.FAILED, attempts=1, reason="failed after 1 attempt: boom", dead_letter=True,
                    errors=(AttemptError("n1", 1, 1000.0, "boom"),))  # fmt: skip
    return DeadLetter(Raw(encode(made)), result, 1000.0, **more)


async def put(made: Stack, stored: DeadLetter, result: Result | None = None) -> None:
    """Store it, and the result that it is of."""
    told = result or stored.result
    await made.store.put(subjects.dead(ME, stored.result.task), encode(stored))
    await made.store.put(subjects.result(ME, told.task), encode(told))


async def test_a_task_that_kills_its_runner_each_time_is_kept_with_every_error_and_can_be_submitted_again(
    fleet: tuple[Stack, Fleet], tmp_path: Path
) -> None:
    made, connected = fleet
    submitted: dict[str, Task] = {}

    def heard(_subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        task = task_of(data)
        submitted[task.id] = task

    await made.bus.subscribe(subjects.submit(3, "*", "*"), heard)
    await made.coordinator()
    await made.node("n1")
    content, flag = tmp_path / "content", tmp_path / "harmless"
    content.write_bytes(b"x" * 300_000)
    handle = await connected.start("die_unless", str(flag), content, retries=2)
    result = await made.result(handle.id)
    assert (result.state, result.attempts, result.dead_letter) == (ResultState.FAILED, 3, True)
    assert [(e.attempt, e.node, e.kind) for e in result.errors] == [(n, "n1", "died") for n in (1, 2, 3)]
    assert all("SIGKILL" in e.error for e in result.errors)
    assert result.started_at > result.errors[1].at - 1
    assert result.duration_ms > 0
    await made.event("task.failed", handle.id)
    assert made.story(handle.id)[-3:] == ["attempt-failed", "dead-lettered", "failed"]
    [kept] = await letters(made)
    assert kept.result == result
    assert task_of(kept.task) == submitted[handle.id]
    assert (await made.status()).dead_letters == 1
    [row] = await connected.dead()
    assert (row.task, row.what, row.attempts, row.node) == (handle.id, "die_unless", 3, "n1")

    flag.touch()
    new = await connected.resubmit(handle.id)
    assert (await made.result(new)).value == Raw(b"300000")
    assert submitted[new] == replace(submitted[handle.id], id=new, resubmitted_from=handle.id)
    assert await letters(made) == []
    assert (await made.status()).dead_letters == 0
    await made.nothing_left()


async def test_a_coordinator_that_is_killed_between_letter_and_result_leaves_both_to_the_next(
    fleet: tuple[Stack, Fleet], tmp_path: Path
) -> None:
    made, _ = fleet
    await made.coordinator("c1")
    await made.node("n1")
    config = await no_room_for_results(made)
    task = await made.submit("die_unless", str(tmp_path / "never"), retries=0)
    await eventually(lambda: _has_letters(made), 60.0, "the letter")
    made.kill("c1")
    assert await jetstream.get_message(made.bus, streams.RESULTS, last_by=subjects.result(ME, task)) is None
    await jetstream.call(made.bus, f"STREAM.UPDATE.{streams.RESULTS}", config)
    await made.coordinator("c2")
    result = await made.result(task)
    assert (result.state, result.dead_letter) == (ResultState.FAILED, True)
    assert [kept.result for kept in await letters(made)] == [result]
    await made.nothing_left()
    await made.event("task.failed", task)
    assert made.story(task)[-2:] == ["dead-lettered", "failed"]


async def test_the_letter_of_a_task_that_succeeded_after_all_is_withdrawn_by_the_next_coordinator(
    fleet: tuple[Stack, Fleet], tmp_path: Path
) -> None:
    """The node that was given up had it done; its result came while nobody acted."""
    made, connected = fleet
    await made.coordinator("c1")
    await made.node("n1")
    config = await no_room_for_results(made)
    task = await made.submit("die_unless", str(tmp_path / "never"), retries=0)
    await eventually(lambda: _has_letters(made), 60.0, "the letter")
    made.kill("c1")
    with pytest.raises(Refused, match="not recorded yet"):
        await connected.resubmit(task)
    await jetstream.call(made.bus, f"STREAM.UPDATE.{streams.RESULTS}", config)
    first = Result(task, ME, ResultState.SUCCEEDED, "n1", 1, 1, Raw(b"7"))
    await made.store.put(subjects.result(ME, task), encode(first))
    assert await connected.dead() == [], "it is not shown any more"
    with pytest.raises(Refused, match="succeeded"):
        await connected.resubmit(task)
    await made.coordinator("c2")
    await eventually(lambda: _has_no_letters(made), 60.0, "the letter is withdrawn")
    await made.nothing_left()
    assert not made.seen("task.dead-lettered", task)
    assert made.results[task] == first


async def _has_letters(made: Stack) -> bool:
    return bool(await letters(made))


async def _has_no_letters(made: Stack) -> bool:
    return not await letters(made)


# The client alone.


async def test_of_two_who_submit_it_again_at_a_time_one_does(fleet: tuple[Stack, Fleet]) -> None:
    made, connected = fleet
    await put(made, letter())
    async with client.connect(creds=made.folder / "fog.creds", submitter="other") as other:
        said = await asyncio.gather(connected.resubmit("t1"), other.resubmit("t1"), return_exceptions=True)
    [new] = [one for one in said if isinstance(one, str)]
    [refused] = [one for one in said if isinstance(one, Refused)]
    assert refused.code in ("conflict", "unknown-letter")
    assert await made.stored(streams.TASKS) == 1
    [task] = await jetstream.read_all(made.bus, streams.TASKS, subjects.submitted("*"))
    assert task.subject == subjects.submit(3, ME, new), "it stays its submitter's"
    assert await letters(made) == []


async def test_a_resubmission_that_was_interrupted_goes_on_under_the_same_id(fleet: tuple[Stack, Fleet]) -> None:
    made, connected = fleet
    await put(made, letter(resubmitted_as="again-1"))
    assert await connected.resubmit("t1") == "again-1"
    assert await made.stored(streams.TASKS) == 1
    await made.store.put(subjects.result(ME, "again-1"), encode(Result("again-1", ME, ResultState.SUCCEEDED)))
    await made.store.put(subjects.dead(ME, "t1"), encode(letter(resubmitted_as="again-1")))
    await jetstream.call(made.bus, f"STREAM.PURGE.{streams.TASKS}")
    assert await connected.resubmit("t1") == "again-1"
    assert await made.stored(streams.TASKS) == 0, "it has its result: it is not run twice"
    assert await letters(made) == []


async def test_a_task_whose_input_has_aged_out_is_not_submitted_again(fleet: tuple[Stack, Fleet]) -> None:
    made, connected = fleet
    run = b'{"kind":"function","name":"echo","files":[{"index":0,"blob":{"size":9,"ref":"sha256-00"}}]}'
    old = letter()
    await put(made, replace(old, task=Raw(b'{"id":"t1","submitter":"%b","run":%b}' % (ME.encode(), run))))
    with pytest.raises(ObjectMissing, match="sha256-00"):
        await connected.resubmit("t1")
    assert await made.stored(streams.TASKS) == 0
    assert len(await letters(made)) == 1


async def test_a_letter_that_cannot_be_read_is_listed_with_the_reason_and_can_be_dropped(
    fleet: tuple[Stack, Fleet],
) -> None:
    made, connected = fleet
    await put(made, letter())
    await made.store.put(subjects.dead(ME, "bad"), b'{"task": 3}')
    rows = await connected.dead()
    assert [row.task for row in rows] == ["t1", "bad"]
    assert "cannot be read" in rows[1].reason
    await connected.drop_letter("bad")
    assert [row.task for row in await connected.dead(limit=5)] == ["t1"]
    assert await connected.dead(submitter="nobody") == []
    with pytest.raises(Refused, match="no dead letter of bad"):
        await connected.drop_letter("bad")


async def test_a_result_says_the_same_on_the_wire_and_in_its_letter(fleet: tuple[Stack, Fleet]) -> None:
    made, connected = fleet
    await put(made, letter())
    found = await connected.dead_letter("t1")
    stored = await jetstream.get_message(made.bus, streams.RESULTS, last_by=subjects.result(ME, "t1"))
    assert stored is not None
    assert found.letter.result == result_of(stored.data)
    assert (found.row.at, found.row.reason) == (1000.0, "failed after 1 attempt: boom")
