"""Malformed input on every subject that coordinator and node listen to: counted, shown, and nothing stops."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw, structs

from schemas import api, streams, subjects
from schemas.bus import header
from schemas.codec import Decoder, encode
from schemas.device import DeviceState
from schemas.errors import Unreachable
from schemas.limits import TASK_MAX
from schemas.membership import Heartbeat, NodeAnswer, NodeCommand, Registered
from schemas.task import History, Outcome, OutcomeKind, ResultState, Work
from tests.conftest import BrokerPool
from tests.integration.stack import ME, Stack, stack
from tests.until import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HUGE = 900_000  # bytes; the broker takes up to 1 MiB
_dice = random.Random(7)
JUNK: dict[str, bytes] = {
    "nothing": b"",
    "random bytes": _dice.randbytes(300),
    "more random bytes": _dice.randbytes(5_000),
    "not UTF-8": b'{"node": "\xff\xfe"}',
    "half of it": b'{"node": "a", "boot": 1, "se',
    "a list": b"[]",
    "null": b"null",
    "a word": b'"heartbeat"',
    "deeply nested": b"[" * 100_000,
    "huge": b'{"x": "' + b"y" * HUGE + b'"}',
    "an empty object": b"{}",
    "wrong types": b'{"node": 5, "boot": "one", "id": {}, "task": [], "submitter": null, "run": 1, "client": 2}',
    "ids with dots": b'{"node": "a.b", "boot": 1, "seq": 1, "sent_at": 0, "id": "a.b", "submitter": "a", "task": "a.b"}',
    "ids with wildcards": b'{"node": ">", "boot": 1, "seq": 1, "sent_at": 0, "id": "*", "submitter": ">", "task": ">"}',
    "a number beyond all": b'{"node": "a", "boot": 1e400, "seq": 1, "sent_at": 1e400}',
    "a later version's": b'{"specversion": "9.0", "node": "a", "boot": -1, "term": "?", "task": "x", "v": 9}',
}
# Requests have few fields, and what they do not know they ignore: by these two node a would be drained.
NO_REQUEST = {what: data for what, data in JUNK.items() if b'"node": "a"' not in data or b"se" in data[-3:]}
answer_of: Decoder[NodeAnswer] = Decoder(NodeAnswer)
error_of: Decoder[api.ApiError] = Decoder(api.ApiError)
registered_of: Decoder[Registered] = Decoder(Registered)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A coordinator and a node."""
    async with stack(broker_pool.take(), tmp_path_factory.mktemp("fleet")) as made:
        await made.coordinator()
        await made.node("a")
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(shared: Stack) -> AsyncIterator[Stack]:
    """The fleet before a test; after it every process is the same, the same coordinator acts, and work goes on."""
    before = await shared.status()
    pids = {name: process.pid for name, process in shared.processes.items()}
    yield shared
    done = await shared.result(await shared.submit("echo", "still here"))
    assert done.state is ResultState.SUCCEEDED
    after = await shared.status()
    assert (after.term, after.nodes["online"]) == (before.term, before.nodes["online"])
    assert pids == {name: process.pid for name, process in shared.processes.items() if process.poll() is None}
    await shared.nothing_left()


async def bad(fleet: Stack, kind: str) -> int:
    """How many messages of a kind were refused, by ``fog status``."""
    return (await fleet.status()).bad.get(kind, 0)


async def counts(fleet: Stack, kind: str, expected: int) -> None:
    """Wait until the status shows so many."""

    async def shown() -> bool:
        return await bad(fleet, kind) == expected

    await eventually(shown, 60.0, f"{expected} of {kind}; it says {(await fleet.status()).bad}")


# What the coordinator listens to


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("heartbeat", subjects.heartbeat("a")),
        ("heartbeat", subjects.heartbeat("nobody")),
        ("heartbeat", subjects.heartbeat("*")),
        ("register", subjects.register("a")),
        ("register", subjects.register(">")),
        ("result", subjects.done(ME, "t-nobody")),
        ("disconnect", subjects.DISCONNECTS),
    ],
)
async def test_junk_on_a_subject_is_counted(fleet: Stack, kind: str, subject: str) -> None:
    before = await bad(fleet, kind)
    for data in JUNK.values():
        fleet.bus.publish(subject, data)
    await counts(fleet, kind, before + len(JUNK))
    notes = (await fleet.status()).notes
    assert any(subject in note for note in notes), notes


@pytest.mark.parametrize("noun_verb", ["node.info", "node.drain", "task.info", "task.cancel", "no.such", "*.>"])
async def test_a_malformed_request_is_refused_with_the_reason(fleet: Stack, noun_verb: str) -> None:
    before = await bad(fleet, "api")
    noun, verb = noun_verb.split(".")
    for what, data in NO_REQUEST.items():
        error = error_of(await fleet.bus.request(subjects.api(noun, verb), data))
        assert error.code == "bad-request" and error.message, what
    await counts(fleet, "api", before + len(NO_REQUEST))
    fleet.bus.publish(subjects.api(noun, verb), b"{}")
    await counts(fleet, "api", before + len(NO_REQUEST) + 1)


async def test_a_refusal_names_the_field_and_carries_the_code_of_nats_micro_services(fleet: Stack) -> None:
    came: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
    fleet.bus.call(subjects.api("node", "info"), b'{"node": "a.b"}', lambda *reply: came.set_result(reply))
    data, headers = await came
    assert (error_of(data).code, error_of(data).field) == ("bad-request", "node")
    assert header(headers, b"Nats-Service-Error-Code") == b"400"


async def test_what_is_submitted_and_is_no_task_fails_with_the_reason(fleet: Stack) -> None:
    before = await bad(fleet, "task")
    good = json.loads(encode(fleet.make("echo", 1, task="t-x")))
    broken = {
        **JUNK,
        "cores as a word": json.dumps({**good, "needs": {"cores": "many"}}).encode(),
        "a priority that is none": json.dumps({**good, "priority": 4}).encode(),
        "another priority than its subject's": json.dumps({**good, "priority": 10}).encode(),
        "more bytes than a task may have": json.dumps({**good, "x": "y" * TASK_MAX}).encode(),
        "another's id": json.dumps({**good, "id": "t-other"}).encode(),
        "another's name": json.dumps({**good, "submitter": "somebody"}).encode(),
        "a kind of run that is not known": json.dumps({**good, "run": {"kind": "quantum"}}).encode(),
    }
    tasks = [f"t-bad-{number}" for number in range(len(broken))]
    for task, data in zip(tasks, broken.values(), strict=True):
        await fleet.store.put(subjects.submit(3, ME, task), data.replace(b"t-x", task.encode()), msg_id=task)
    for task in tasks:
        result = await fleet.result(task)
        assert result.state is ResultState.FAILED
        assert result.reason.startswith("this is not a task: ")
    reasons = [fleet.results[task].reason for task in tasks]
    assert "needs.cores" in reasons[len(JUNK)] and "kind" in reasons[-1], reasons
    await counts(fleet, "task", before + len(broken))


async def test_ids_that_no_subject_may_hold_leave_the_queue(fleet: Stack) -> None:
    before = await bad(fleet, "task")
    # (A token that is > itself the broker may store and never deliver; it then shows as one task that is stored.)
    for submitter, task in ((ME, "*"), ("a>b", "t"), (ME, "UPPER"), ("x" * 64, "t"), (ME, "tä")):
        await fleet.store.put(subjects.submit(3, submitter, task), encode(fleet.make("echo", 1)))
    await counts(fleet, "task", before + 5)
    for subject in (subjects.submit(4, ME, "t"), subjects.submit(3, ME, "a.b"), subjects.outcome("a", "b.c")):
        with pytest.raises(Unreachable):  # no stream takes what nobody would ever consume
            await fleet.store.put(subject, b"{}", timeout_s=0.1)
    assert await fleet.stored(streams.TASKS) == 0


async def test_outcomes_that_are_none_leave_the_queue(fleet: Stack) -> None:
    before = await bad(fleet, "outcome")
    task = fleet.make("echo", 1)
    outcome = Outcome(Raw(encode(task)), History(placement=1), OutcomeKind.FAILED, "a", 1, "boom")
    anybodys = encode(structs.replace(task, submitter=">"))
    others = [
        (subjects.outcome("a", task.id), encode(structs.replace(outcome, task=Raw(anybodys)))),
        (subjects.outcome("A", task.id), encode(structs.replace(outcome, node="A"))),
        (subjects.outcome("b", task.id), encode(outcome)),
        (subjects.outcome("a", "another"), encode(outcome)),
        (subjects.outcome("a", task.id), encode(structs.replace(outcome, task=Raw(b'{"id": 1}')))),
    ]
    for subject, data in [*((subjects.outcome("a", "t"), data) for data in JUNK.values()), *others]:
        await fleet.store.put(subject, data)
    await counts(fleet, "outcome", before + len(JUNK) + len(others))
    assert task.id not in fleet.results


async def test_results_that_cannot_be_read_end_their_task_all_the_same(fleet: Stack) -> None:
    """Whoever knows a task's id may write its result; it is stored, so there will be no other."""
    before = await bad(fleet, "result")
    task = await fleet.submit("where", 30)
    await fleet.event("task.started", task)
    fleet.results[task] = fleet.results.get(task)  # type: ignore[assignment]  # the test's own listener cannot read it
    await fleet.store.put(subjects.result(ME, task), b"\x00 nonsense")
    failed = await fleet.event("task.failed", task)
    assert "cannot be read" in failed["data"]["reason"]
    await counts(fleet, "result", before + 1)


async def test_a_result_that_was_never_stored_ends_nothing(fleet: Stack) -> None:
    task = await fleet.submit("where", 0.5)
    await fleet.event("task.started", task)
    before = await bad(fleet, "result")
    forged = {"task": task, "submitter": ME, "state": "failed", "reason": "forged"}
    fleet.bus.publish(subjects.done(ME, task), json.dumps(forged).encode())
    await counts(fleet, "result", before + 1)
    assert (await fleet.task_info(task)).row.state == "placed"
    fleet.results.pop(task, None)
    fleet.doubled.clear()
    assert (await fleet.result(task)).state is ResultState.SUCCEEDED


async def test_a_heartbeat_of_another_boot_changes_nothing(fleet: Stack) -> None:
    await fleet.node("twice")
    fleet.kill("twice")
    await fleet.node("twice")
    assert (await fleet.node_info("twice")).row.boot == 2

    async def forge(boot: int, **more: Any) -> None:
        beat = Heartbeat("twice", boot=boot, seq=1_000_000, sent_at=0.0, full=True, **more)
        fleet.bus.publish(subjects.heartbeat("twice"), encode(beat))

    async def ignored(what: str, count: int) -> None:
        async def counted() -> bool:
            return (await fleet.status()).counts.get(what, 0) == count

        await eventually(counted, 60.0, what)

    await forge(1, leaving=True)
    await forge(1, draining=True, state=DeviceState(battery_percent=1.0, mains=False))
    await ignored("beats of an older boot", 2)
    await forge(99, leaving=True)
    await ignored("beats of unknown nodes", 1)
    info = await fleet.node_info("twice")
    assert (info.row.state.value, info.row.battery_percent) == ("online", None)
    task = await fleet.submit("where", node="twice")
    assert (await fleet.result(task)).node == "twice"
    fleet.kill("twice")
    await fleet.event("node.lost", "twice")


# What a node listens to


async def refused_by_node(fleet: Stack) -> int:
    """What the node counts, by its latest beat, which it is asked for."""
    term = (await fleet.status()).term
    await fleet.bus.request(subjects.command("a", "report"), encode(NodeCommand(term)))
    await fleet.bus.flush()
    return await bad(fleet, "at nodes")


@pytest.mark.parametrize("verb", ["probe", "cancel", "drain", "resume", "giveback", "report", "no-such-verb", "*", ">"])
async def test_a_malformed_command_is_refused_with_the_reason(fleet: Stack, verb: str) -> None:
    before = await refused_by_node(fleet)
    for what, data in JUNK.items():
        answer = answer_of(await fleet.bus.request(subjects.command("a", verb), data))
        assert not answer.ok and answer.error, what
        fleet.bus.publish(subjects.command("a", verb), data)
    assert await refused_by_node(fleet) == before + 2 * len(JUNK)
    assert any("a (" in note for note in (await fleet.status()).notes)


async def test_a_command_of_an_older_term_is_refused(fleet: Stack) -> None:
    task = await fleet.submit("where", 0.3)
    await fleet.event("task.started", task)
    answer = answer_of(await fleet.bus.request(subjects.command("a", "cancel"), encode(NodeCommand(0, task=task))))
    assert not answer.ok and "older" in answer.error
    assert (await fleet.result(task)).state is ResultState.SUCCEEDED


async def test_junk_to_all_nodes_is_counted(fleet: Stack) -> None:
    before = await refused_by_node(fleet)
    for data in JUNK.values():
        fleet.bus.publish(subjects.ALL_REPORT, data)
    assert await refused_by_node(fleet) == before + len(JUNK)


async def test_work_that_is_none_leaves_the_queue(fleet: Stack) -> None:
    before = await refused_by_node(fleet)
    task = fleet.make("echo", 1)
    work = Work(Raw(encode(task)), History(placement=1))
    others = [
        (subjects.work("a", "another"), encode(work)),
        (subjects.work("a", "too.deep"), encode(work)),
        (subjects.work("a", "*"), encode(work)),
        (subjects.work("a", task.id), encode(structs.replace(work, task=Raw(b'{"id": 1}')))),
    ]
    for subject, data in [*((subjects.work("a", "t"), data) for data in JUNK.values()), *others]:
        await fleet.store.put(subject, data)

    async def counted() -> bool:
        return await refused_by_node(fleet) == before + len(JUNK) + len(others)

    await eventually(counted, 60.0, "all of them")
    assert task.id not in fleet.results


async def test_a_registration_that_proves_nothing_is_refused(fleet: Stack) -> None:
    info = await fleet.node_info("a")
    key = "U" + "A" * 55
    asked = {
        "node": "a", "key": key, "session": "s", "offer": {}, "state": {},
        "capabilities": json.loads(encode(info.capabilities)), "challenge": "1:x", "signature": "AAAA",
    }  # fmt: skip
    answer = registered_of(await fleet.bus.request(subjects.register("a"), json.dumps(asked).encode()))
    assert answer.challenge and not answer.boot, "it is given one that it may sign"
    assert (await fleet.node_info("a")).row.boot == info.row.boot
