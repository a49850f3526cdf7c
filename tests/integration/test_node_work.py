"""A node daemon as a real process on the real broker: from work in its queue to the one thing that comes of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Raw

from schemas import limits, streams, subjects
from schemas.bus import header
from schemas.codec import encode
from schemas.jetstream import delete_consumer
from schemas.objects import Objects
from schemas.procs import start_mark
from schemas.target import Target
from schemas.task import (
    Blob,
    CommandRun,
    FileArg,
    FunctionRun,
    History,
    MapRun,
    Needs,
    OutcomeKind,
    Result,
    ResultState,
)
from tests.integration.node_fleet import Fleet, until

OWN = '''
import os, sys, time
import node

@node.function
def mark(path: str, hold_s: float = 0.0) -> int:
    """Leave a line in a file: how often it was called can be counted."""
    with open(path, "a") as file:
        file.write("x")
    time.sleep(hold_s)
    return os.path.getsize(path)

@node.function
def divide(value: int) -> float:
    return 12 / value

@node.function
def chatter(lines: int) -> None:
    for i in range(lines):
        print("line", i)
        print("error", i, file=sys.stderr)
    node.progress(0.5, "half")
    os.write(1, b"from below")

@node.function
def big(size: int) -> bytes:
    return b"y" * size

@node.function
def long_text(size: int) -> str:
    return "z" * size

@node.function
def wrong() -> int:
    return "not a number"

@node.function
def die() -> None:
    os.kill(os.getpid(), 9)

@node.function
def upper(text: bytes) -> bytes:
    return text.upper()
'''


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Fleet]:
    (tmp_path / "own_functions.py").write_text(OWN)
    fleet = await Fleet.open(target, tmp_path)
    yield fleet
    await fleet.close()


async def test_work_comes_in_a_result_is_stored_and_only_then_the_work_is_acked(fleet: Fleet) -> None:
    await fleet.node()
    task = await fleet.place(FunctionRun("echo", Raw(b'[{"a":[1,2]}]')), input_bytes=7)
    result = await fleet.result(task)
    assert result.state is ResultState.SUCCEEDED
    assert (bytes(result.value), result.node, result.placement, result.attempts) == (b'{"a":[1,2]}', "n1", 1, 1)
    assert result.input_bytes == 7
    assert abs(result.started_at - time.time()) < 10
    await fleet.until_acked()


async def test_the_start_of_an_attempt_is_an_event_with_an_id_made_from_what_happened(fleet: Fleet) -> None:
    await fleet.node()
    await fleet.result(await fleet.place())  # too quick: its start is the coordinator's to say
    task = await fleet.place(FunctionRun("sleep", Raw(b"[0.2]")), history=History(placement=4, attempts=2))
    await fleet.result(task)
    await until(lambda: fleet.events)
    event = json.loads(fleet.events[0])
    assert (event["id"], event["type"], event["source"]) == (f"{task.id}.4.started", "fog.task.started", "/fog/node/n1")
    assert event["data"] == {"task": task.id, "submitter": "me", "node": "n1", "placement": 4, "attempt": 3}
    stored = await fleet.stored(streams.EVENTS, subjects.event("task.started", task.id))
    assert header(stored.headers, b"Nats-Msg-Id").decode() == event["id"]


async def test_a_function_that_raises_is_a_failed_attempt_that_carries_the_whole_task_on(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    task = await fleet.place(
        FunctionRun("divide", Raw(b"[0]")), history=History(placement=2, attempts=1, failed_on=("n7",)), deadline_at=9e9
    )
    outcome = await fleet.outcome(task)
    assert outcome.kind is OutcomeKind.FAILED
    assert "ZeroDivisionError" in outcome.error
    assert (outcome.history.placement, outcome.history.attempts, outcome.history.failed_on) == (2, 2, ("n7", "n1"))
    assert outcome.history.errors[-1].attempt == 2
    assert bytes(outcome.task) == encode(task)
    assert (outcome.deadline_at, outcome.boot, outcome.started) == (9e9, 1, True)
    await fleet.until_acked()
    assert task.id not in fleet.results


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (FunctionRun("nosuch"), "offers no function nosuch"),
        (CommandRun(("true",)), "--allow command"),
        (FunctionRun("echo", Raw(b"[1]")), "more than this node offers"),
    ],
)
async def test_what_this_node_can_never_run_is_refused(fleet: Fleet, run: FunctionRun | CommandRun, says: str) -> None:
    await fleet.node()
    needs = Needs(cores=64) if says.startswith("more") else Needs()
    outcome = await fleet.outcome(await fleet.place(run, needs=needs))
    assert outcome.kind is OutcomeKind.REFUSED
    assert says in outcome.error
    assert (outcome.started, outcome.history.attempts, outcome.history.avoid) == (False, 0, ("n1",))
    await fleet.until_acked()


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("divide", b'["x"]', "value: Expected `int`, got `str`"),
        ("divide", b"[]", "divide needs value"),
        ("divide", b"[1,2]", "takes at most 1"),
        ("wrong", b"[]", "Expected `int`, got `str`"),
    ],
)
async def test_arguments_and_results_are_checked_against_the_annotations(
    fleet: Fleet, name: str, args: bytes, says: str
) -> None:
    await fleet.node("n1", "--import", "own_functions")
    outcome = await fleet.outcome(await fleet.place(FunctionRun(name, Raw(args))))
    assert says in outcome.error
    assert outcome.history.errors[-1].kind == ("failed" if name == "wrong" else "arguments")


async def test_a_redelivery_of_running_work_starts_nothing_and_its_new_reply_is_acked(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    count = fleet.folder / "count"
    task = await fleet.place(FunctionRun("mark", Raw(encode([str(count), 1.0]))))
    await until(count.exists)
    await delete_consumer(fleet.bus, streams.WORK, "FOG_node_n1")  # the node makes it anew, and is sent it again
    result = await fleet.result(task)
    await fleet.until_acked()
    assert bytes(result.value) == b"1"
    assert count.read_text() == "x"


async def test_a_result_that_is_recorded_already_means_done(fleet: Fleet) -> None:
    await fleet.node()
    first = encode(Result("t1", "me", ResultState.CANCELLED, reason="by its user"))
    await fleet.store.put(subjects.result("me", "t1"), first, msg_id="other")
    await fleet.place(task="t1")
    await fleet.until_acked()
    await fleet.bus.flush()
    assert fleet.results["t1"].state is ResultState.CANCELLED
    assert fleet.outcomes == []


async def test_a_result_after_its_time_comes_as_an_outcome(fleet: Fleet) -> None:
    await fleet.node()
    task = await fleet.place(result_by=time.time() - 1)
    outcome = await fleet.outcome(task)
    assert (outcome.kind, outcome.result_by < time.time()) == (OutcomeKind.RETURNED, True)
    await fleet.until_acked()
    assert task.id not in fleet.results


async def test_a_file_arrives_as_bytes_inline_or_from_the_object_store(fleet: Fleet) -> None:
    await fleet.node()
    small, large = b"small", b"large" * 200_000
    ref = await Objects(fleet.bus).put(large)
    for blob, content in ((Blob(len(small), small), small), (Blob(len(large), None, ref), large)):
        task = await fleet.place(FunctionRun("sha256", Raw(b"[null]"), (FileArg(0, blob),)))
        result = await fleet.result(task)
        assert bytes(result.value).decode() == f'"{hashlib.sha256(content).hexdigest()}"'


async def test_an_input_that_is_not_in_the_store_is_a_failed_attempt(fleet: Fleet) -> None:
    await fleet.node()
    blob = Blob(3, None, "sha256-" + "0" * 64)
    outcome = await fleet.outcome(await fleet.place(FunctionRun("sha256", Raw(b"[null]"), (FileArg(0, blob),))))
    assert "an input could not be fetched" in outcome.error
    assert not outcome.started


async def test_results_too_large_to_be_inline_go_to_the_object_store(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    size, objects = limits.INLINE_MAX + 1, Objects(fleet.bus)
    result = await fleet.result(await fleet.place(FunctionRun("big", Raw(encode([size])))))
    assert result.blob is not None and not result.packed
    assert await objects.bytes_of(result.blob) == b"y" * size
    result = await fleet.result(await fleet.place(FunctionRun("long_text", Raw(encode([size])))))
    assert result.blob is not None and result.packed and not bytes(result.value)
    assert json.loads(await objects.bytes_of(result.blob)) == "z" * size


async def test_a_chunk_keeps_the_order_and_its_item_errors_name_the_item_of_the_job(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    task = await fleet.place(MapRun("divide", "job", first=10, count=4, items=Raw(b'[1,0,"x",4]')))
    result = await fleet.result(task)
    assert json.loads(bytes(result.value)) == [12.0, None, None, 3.0]
    assert [error.index for error in result.item_errors] == [11, 12]
    assert "ZeroDivisionError" in result.item_errors[0].error and "Expected `int`" in result.item_errors[1].error
    assert result.items == 4


async def test_a_chunk_of_files_gives_bytes_back_as_blobs(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    files = (Blob(1, b"a"), Blob(2, None, await Objects(fleet.bus).put(b"bb")))
    result = await fleet.result(await fleet.place(MapRun("upper", "job", first=0, count=2, files=files)))
    assert [blob and blob.data for blob in result.blobs] == [b"A", b"BB"]


async def test_a_chunk_whose_items_are_packed_in_one_object(fleet: Fleet) -> None:
    await fleet.node()
    items = encode(list(range(100_000)))
    packed = Blob(len(items), None, await Objects(fleet.bus).put(items))
    result = await fleet.result(await fleet.place(MapRun("echo", "job", first=0, count=100_000, packed=packed)))
    assert result.packed and result.blob is not None
    assert await Objects(fleet.bus).bytes_of(result.blob) == items


async def test_output_streams_in_order_before_the_result_and_progress_with_it(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    task = await fleet.place(FunctionRun("chatter", Raw(b"[3000]")))
    await fleet.result(task)
    said = {name: "".join(o.text for o in fleet.outputs if o.stream == name) for name in ("stdout", "stderr")}
    assert said["stdout"] == "".join(f"line {i}\n" for i in range(3000)) + "from below"
    assert said["stderr"] == "".join(f"error {i}\n" for i in range(3000))
    assert [(o.progress, o.text) for o in fleet.outputs if o.stream == "progress"] == [(0.5, "half")]
    assert {(o.task, o.attempt) for o in fleet.outputs} == {(task.id, 1)}


async def test_what_a_command_prints_is_seen_while_it_runs(fleet: Fleet) -> None:
    os.mkfifo(fleet.folder / "gate")
    await fleet.node("n1", "--allow", "command")
    task = await fleet.place(CommandRun(("sh", "-c", "echo now; read line < gate; echo after")))
    await until(lambda: fleet.outputs)
    assert [o.text for o in fleet.outputs] == ["now\n"]
    assert task.id not in fleet.results
    (fleet.folder / "gate").write_text("go\n")
    assert (await fleet.result(task)).stdout == "now\nafter\n"


async def test_a_command_gives_its_exit_code_and_the_ends_of_what_it_printed(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    run = CommandRun(("sh", "-c", 'cat; echo "$WHO" >&2'), {"WHO": "me"}, Blob(5, b"input"))
    result = await fleet.result(await fleet.place(run))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "input", "me\n")
    run = CommandRun(("sh", "-c", "yes | head -c 100000; echo end; echo why >&2; exit 3"))
    outcome = await fleet.outcome(await fleet.place(run))
    assert (outcome.kind, outcome.exit_code, outcome.stderr) == (OutcomeKind.FAILED, 3, "why\n")
    assert outcome.error == "exit code 3\nwhy"
    assert outcome.stdout.endswith("end\n") and len(outcome.stdout) == limits.OUTPUT_TAIL
    assert outcome.history.errors[-1].exit_code == 3


async def test_a_program_that_is_not_there_fails_with_the_shells_code(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    outcome = await fleet.outcome(await fleet.place(CommandRun(("/no/such/program",))))
    assert outcome.exit_code == 127
    assert "/no/such/program" in outcome.error


async def test_a_command_that_ends_leaves_nothing_running_and_is_not_held_by_its_children(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    task = await fleet.place(CommandRun(("sh", "-c", "sleep 600 & echo $!")))
    result = await fleet.result(task)
    await until(lambda: not start_mark(int(result.stdout)), what="the background child is gone")


async def test_a_task_that_kills_its_runner_is_a_failed_attempt_and_others_go_on(fleet: Fleet) -> None:
    await fleet.node("n1", "--import", "own_functions")
    outcome = await fleet.outcome(await fleet.place(FunctionRun("die")))
    assert (outcome.kind, outcome.started) == (OutcomeKind.FAILED, True)
    assert "killed by SIGKILL" in outcome.error
    assert (await fleet.result(await fleet.place())).state is ResultState.SUCCEEDED


async def test_many_quick_tasks_all_end_once_and_the_queue_is_empty_after(fleet: Fleet) -> None:
    await fleet.node()
    tasks = [await fleet.place(FunctionRun("echo", Raw(b"[%d]" % i))) for i in range(300)]
    for i, task in enumerate(tasks):
        assert bytes((await fleet.result(task)).value) == b"%d" % i
    await fleet.until_acked()


async def test_higher_priority_starts_first_within_the_queue(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1", "--import", "own_functions")
    blocker = await fleet.place(FunctionRun("sleep", Raw(b"[0.5]")))
    await until(lambda: fleet.events)
    low = await fleet.place(FunctionRun("sleep", Raw(b"[0.1]")), priority=1)
    high = await fleet.place(FunctionRun("sleep", Raw(b"[0.1]")), priority=10)
    for task in (blocker, low, high):
        await fleet.result(task)
    order = [json.loads(event)["data"]["task"] for event in fleet.events]
    assert order == [blocker.id, high.id, low.id]
