"""Two terms at the same time, on a real broker: the one without the lease makes, says and deletes nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec import structs

from client.api import Api as ClientApi
from coordinator import acting as acting_module
from coordinator import dead, takeover
from coordinator import lease as lease_module
from coordinator.acting import TURN_MAX, Acting
from coordinator.bodies import HELD_BYTES, LOOSE_BYTES, Bodies
from coordinator.broker import Broker
from coordinator.clock import Clock, ticks
from coordinator.consumers import consumer_name
from coordinator.core import actions as act
from coordinator.core import events as ev
from coordinator.core.machine import pump, step
from coordinator.faults import Faults
from coordinator.fence import mark
from coordinator.inbound import Bad
from coordinator.lease import Lease
from coordinator.placer import PLACING_BYTES
from coordinator.service import Service
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.dead import DeadLetter
from schemas.device import DeviceCapabilities, DeviceState
from schemas.errors import Refused, Unreachable
from schemas.kv import Kv
from schemas.membership import AllReport, NodeRecord, Offer, Register
from schemas.store import Store
from schemas.target import Target
from schemas.task import (
    AttemptError,
    FunctionRun,
    History,
    Outcome,
    OutcomeKind,
    Result,
    ResultState,
    Task,
    TaskPriority,
    Work,
)
from tests.bench.players import Player
from tests.until import eventually

ME = "ann"
CAPABLE = DeviceCapabilities()
result_of: Decoder[Result] = Decoder(Result)
report_of: Decoder[AllReport] = Decoder(AllReport)
work_of: Decoder[Work] = Decoder(Work)


class Held:
    """A lease that is valid as long as the test says so."""

    def __init__(self, term: int) -> None:
        self.term, self.valid, self.taken_at = term, True, ticks()


class Terms:
    """Makes coordinators of terms of their own, each over its own connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.made: list[tuple[Bus, Store, Acting, Held]] = []

    async def open(self) -> None:
        """Connect, and make the streams."""
        self.bus = await Bus.connect(self._target, name="test")
        self.store = Store(self.bus)
        await jetstream.ensure_streams(self.bus)

    async def make(self, term: int, faults: Faults | None = None) -> tuple[Acting, Held]:
        """A coordinator that has taken the lease as this term, and not yet done anything with it."""
        bus, lease = await Bus.connect(self._target, name=f"term {term}"), Held(term)
        store = Store(bus, allowed=lambda: lease.valid)
        made = Acting(bus, store, lease, Clock(), f"c{term}", Bad(), faults)  # type: ignore[arg-type]
        self.made.append((bus, store, made, lease))
        return made, lease

    async def start(self, term: int, faults: Faults | None = None) -> tuple[Acting, Held]:
        """One that acts."""
        made, lease = await self.make(term, faults)
        await made.start()
        return made, lease

    async def consumers(self) -> set[str]:
        """All consumers there are of TASKS and OUTCOMES."""
        return {
            *await jetstream.consumers(self.bus, streams.TASKS),
            *await jetstream.consumers(self.bus, streams.OUTCOMES),
        }

    async def stored(self, stream: str) -> int:
        """How many messages a stream holds."""
        return int((await jetstream.stream_info(self.bus, stream))["state"]["messages"])

    async def result(self, task: str) -> Result | None:
        """The stored result of a task."""
        message = await jetstream.get_message(self.bus, streams.RESULTS, last_by=subjects.result(ME, task))
        return None if message is None else result_of(message.data)

    async def submit(self, task: Task, data: bytes = b"") -> int:
        """Submit a task, as any client may; its sequence."""
        subject = subjects.submit(task.priority, task.submitter, task.id)
        return (await self.store.put(subject, data or encode(task), msg_id=task.id)).seq

    async def close(self) -> None:
        """End all of them."""
        for bus, store, made, lease in self.made:
            lease.valid = False
            await made.stop("the test is over")
            store.close()
            await bus.close()
        self.store.close()
        await self.bus.close()


@pytest_asyncio.fixture
async def terms(target: Target) -> AsyncIterator[Terms]:
    """Streams, and nobody who acts."""
    made = Terms(target)
    await made.open()
    yield made
    await made.close()


def of_term(term: int) -> set[str]:
    """The names of a term's consumers."""
    return {consumer_name(what, term) for what in (*(f"p{p:d}" for p in TaskPriority), "outcomes")}


def task_of(name: str, size: int = 0, priority: TaskPriority = TaskPriority.NORMAL) -> Task:
    """A task with an argument of that many bytes."""
    return Task(name, ME, FunctionRun("echo", msgspec.Raw(b'["' + b"x" * size + b'"]')), priority=priority)


# Consumers


async def test_a_coordinator_without_the_lease_makes_no_consumer_anew(terms: Terms) -> None:
    """Its pullers learn that their consumers are gone, before it learns that its lease is: it lets them go."""
    _, old = await terms.start(1)
    old.valid = False
    successor, _ = await terms.make(2)
    began: set[str] = set()
    read = takeover.read_everything

    async def slowly(*args: Any) -> None:
        await asyncio.sleep(0.5)  # longer than the old one's first two tries
        began.update(await terms.consumers())
        await read(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(takeover, "read_everything", slowly)
        await successor.start()
    assert began == set(), "nobody takes anything while the successor reads"
    assert await terms.consumers() == of_term(2)


async def test_a_consumer_that_an_older_term_made_at_the_last_moment_is_replaced(terms: Terms) -> None:
    successor, _ = await terms.make(2)
    read = takeover.read_everything

    async def meanwhile(*args: Any) -> None:
        await read(*args)
        for what, stream, subject in (
            ("p3", streams.TASKS, subjects.submit(TaskPriority.NORMAL, "*", "*")),
            ("outcomes", streams.OUTCOMES, subjects.outcome("*", "*")),
        ):
            await jetstream.create_consumer(
                terms.bus,
                stream,
                consumer_name(what, 1),
                filter_subject=subject,
                ack_wait_s=60,
                max_ack_pending=10,
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(takeover, "read_everything", meanwhile)
        await successor.start()
    assert await terms.consumers() == of_term(2)


async def test_one_that_wakes_within_its_takeover_touches_nothing_of_its_successor(terms: Terms) -> None:
    await terms.start(3)
    late, lease = await terms.make(2)
    lease.valid = False
    with pytest.raises(Unreachable):
        await late.start()
    await late.stop("lease lost")
    assert await terms.consumers() == of_term(3)


async def test_one_that_stops_with_its_lease_takes_its_consumers_with_it(terms: Terms) -> None:
    made, lease = await terms.start(1)
    await made.stop("stopping")
    assert await terms.consumers() == set()
    again, lease = await terms.start(2)
    lease.valid = False
    await again.stop("lease lost")
    assert await terms.consumers() == of_term(2), "they are the successor's to drop"


# What was decided


async def test_nothing_of_a_term_that_is_over_is_stored(
    start_broker: Callable[..., Broker],
) -> None:
    """A result and a placement that the broker had not answered when the lease ended, and a message to be deleted."""
    broker = await asyncio.to_thread(start_broker)
    terms = Terms(broker.target)
    await terms.open()
    kept = (await terms.store.put(subjects.work("n1", "kept"), b"{}")).seq
    made, lease = await terms.start(9)
    broker.kill()
    await eventually(lambda: not made._bus.connected, what="the link is down")
    source = ev.Source("work", kept)
    made.bodies.hold("victim", b"{}")
    made.outbound.do(
        [
            act.Conclude("victim", ME, ResultState.EXPIRED, "decided by term 9"),
            act.Place("victim", "n1", History(1), source, None, 0.0),
            act.Remove(source),
        ],
        0.0,
    )
    lease.valid = False
    await made.stop("lease lost")
    await asyncio.to_thread(start_broker)
    await eventually(lambda: made._bus.connected and terms.bus.connected, what="the link is back")
    await made._bus.flush()
    # It would be said again as soon as the link is back, or by the sweep half a second later.
    await asyncio.sleep(1.0)
    assert await terms.result("victim") is None
    assert [m.seq for m in await jetstream.read_all(terms.bus, streams.WORK, subjects.work(">", "")[:-1])] == [kept]
    await terms.close()


async def test_a_result_that_was_on_its_way_when_the_lease_ended_is_refused_by_the_broker(terms: Terms) -> None:
    """The process was stopped after its look at the lease, say, and before it wrote: all that was checked held."""
    old, lease = await terms.start(1)
    lease.valid = False
    new, _ = await terms.start(2)
    lease.valid = True  # as it was at that look
    old.outbound.do([act.Conclude("theirs", ME, ResultState.EXPIRED, "decided by term 1")], 0.0)
    lease.valid = False
    await old._bus.flush()
    new.outbound.do([act.Conclude("ours", ME, ResultState.EXPIRED, "decided by term 2")], 0.0)
    await eventually(lambda: _has_result(terms, "ours"), what="the result of the term that counts")
    assert await terms.result("theirs") is None
    assert await jetstream.subjects(terms.bus, streams.RESULTS, subjects.result("*", "*")) == {
        subjects.result(ME, "ours"): 1
    }


async def test_a_dead_letter_that_was_on_its_way_when_the_lease_ended_is_refused_by_the_broker(terms: Terms) -> None:
    old, lease = await terms.start(1)
    lease.valid = False
    new, _ = await terms.start(2)
    await eventually(lambda: _has_mark(terms, 2), what="the mark of the new term among the letters")
    lease.valid = True  # as it was at its last look
    for made, task in ((old, "theirs"), (new, "ours")):
        made.bodies.hold(task, encode(task_of(task)))
        end = act.Conclude(task, ME, ResultState.FAILED, "given up", letter=ev.Source("outcomes", 1), at=1.0)
        made.outbound.do([end], 0.0)
    await eventually(lambda: _has_result(terms, "ours"), what="the result of the term that counts")
    lease.valid = False
    await old._bus.flush()
    assert await jetstream.subjects(terms.bus, streams.DEAD, subjects.dead("*", "*")) == {subjects.dead(ME, "ours"): 1}
    assert await terms.result("theirs") is None


async def _has_mark(terms: Terms, term: int) -> bool:
    return await jetstream.get_message(terms.bus, streams.DEAD, last_by=mark(term, streams.DEAD)) is not None


async def test_a_letter_too_large_for_the_broker_keeps_the_task_and_the_beginning_of_every_error(terms: Terms) -> None:
    made, _ = await terms.start(1)
    body = encode(structs.replace(task_of("large"), run=FunctionRun("echo", msgspec.Raw(b'["%b"]' % (b"x" * 700_000)))))
    made.bodies.hold("large", body)
    errors = tuple(AttemptError("n1", i + 1, 1.0, "\x01" * limits.ERROR_MAX) for i in range(limits.ERRORS_KEPT))
    end = act.Conclude(
        "large", ME, ResultState.FAILED, "given up", errors=errors, stdout="\x01" * limits.OUTPUT_TAIL,
        letter=ev.Source("outcomes", 1), at=1.0,
    )  # fmt: skip
    made.outbound.do([end], 0.0)
    await eventually(lambda: _has_result(terms, "large"), what="the result")
    message = await jetstream.get_message(terms.bus, streams.DEAD, last_by=subjects.dead(ME, "large"))
    assert message is not None
    letter = msgspec.json.decode(message.data, type=DeadLetter)
    assert bytes(letter.task) == body
    assert [e.error for e in letter.result.errors] == ["\x01" * limits.DEAD_ERROR_MAX] * limits.ERRORS_KEPT
    result = await terms.result("large")
    assert result is not None
    assert result.errors == errors
    assert result.dead_letter


async def test_when_there_is_no_more_room_the_oldest_letters_go_and_so_may_the_mark(terms: Terms) -> None:
    made, _ = await terms.start(1)
    await eventually(lambda: _has_mark(terms, 1), what="the mark")
    info = await jetstream.stream_info(terms.bus, streams.DEAD)
    await jetstream.call(terms.bus, f"STREAM.UPDATE.{streams.DEAD}", {**info["config"], "max_msgs": 4})
    for i in range(8):
        made.bodies.hold(f"t{i}", encode(task_of(f"t{i}")))
        end = act.Conclude(f"t{i}", ME, ResultState.FAILED, "given up", letter=ev.Source("outcomes", 1), at=1.0)
        made.outbound.do([end], 0.0)
        await eventually(partial(_has_result, terms, f"t{i}"), what="its result")
    kept = await jetstream.subjects(terms.bus, streams.DEAD, subjects.dead("*", "*"))
    assert subjects.dead(ME, "t7") in kept
    assert subjects.dead(ME, "t0") not in kept
    assert await dead.count(terms.bus) == len(kept) in (3, 4)


async def test_a_task_whose_message_is_gone_ends_without_a_letter(terms: Terms) -> None:
    made, _ = await terms.start(1)
    end = act.Conclude("gone", ME, ResultState.FAILED, "given up", letter=ev.Source("outcomes", 7), at=1.0)
    made.outbound.do([end], 0.0)
    await eventually(lambda: _has_result(terms, "gone"), what="the result")
    result = await terms.result("gone")
    assert result is not None
    assert not result.dead_letter
    assert await jetstream.subjects(terms.bus, streams.DEAD, subjects.dead("*", "*")) == {}


async def test_a_term_that_outlives_its_mark_sets_it_anew(terms: Terms) -> None:
    """It ages with the results among which it lies."""
    made, _ = await terms.start(1)
    message = await jetstream.get_message(terms.bus, streams.RESULTS, last_by=mark(1))
    assert message is not None
    await jetstream.delete_message(terms.bus, streams.RESULTS, message.seq)
    made.outbound.do([act.Conclude(f"t{i}", ME, ResultState.EXPIRED, "late") for i in range(3)], 0.0)
    for i in range(3):
        await eventually(partial(_has_result, terms, f"t{i}"), what="the result")


async def _has_result(terms: Terms, task: str) -> bool:
    return await terms.result(task) is not None


async def test_a_result_that_the_broker_does_not_take_is_said_by_one_voice(terms: Terms) -> None:
    """The core says it again while it has no answer. That must not add up."""
    await terms.store.put(subjects.result(ME, "first"), encode(Result("first", ME, ResultState.SUCCEEDED)))
    made, _ = await terms.start(1)
    info = await jetstream.stream_info(terms.bus, streams.RESULTS)
    full = {**info["config"], "max_msgs": info["state"]["messages"]}
    await jetstream.call(terms.bus, f"STREAM.UPDATE.{streams.RESULTS}", full)
    said: list[str] = []
    await terms.bus.subscribe(subjects.result("*", "*"), lambda subject, _reply, _data, _headers: said.append(subject))
    for _ in range(20):
        made.outbound.do([act.Conclude("full", ME, ResultState.EXPIRED, "late")], 0.0)
    await eventually(lambda: len(said) >= 2, what="it is tried again")
    assert len(said) <= 3
    await jetstream.call(terms.bus, f"STREAM.UPDATE.{streams.RESULTS}", info["config"])

    async def stored() -> bool:
        return await terms.result("full") is not None

    await eventually(stored, what="the result")


async def test_a_placement_that_an_earlier_term_stored_under_another_node_is_found_there(terms: Terms) -> None:
    """The broker says *duplicate*: this message id is known. Where it lies is what counts, not whose task it is."""
    made, _ = await terms.start(2)
    made.bodies.hold("t1", encode(task_of("t1")))
    earlier = await terms.store.put(subjects.work("a", "t1"), b"{}", msg_id="t1.1")
    answers: list[ev.Event] = []
    made.outbound.placer._hand_on = answers.append
    where = ev.Source("tasks", 1)
    made.outbound.do([act.Place("t1", "b", History(1), where, None, 0.0)], 0.0)
    await eventually(lambda: answers, what="what became of it")
    assert answers == [ev.Placed("t1", 1, earlier.seq, "elsewhere")]
    made.outbound.do([act.Place("t1", "a", History(1), where, None, 0.0)], 0.0)
    await eventually(lambda: len(answers) == 2, what="what became of it")
    assert answers[1] == ev.Placed("t1", 1, earlier.seq, "there")


async def test_a_body_that_is_nowhere_is_no_final_failure(terms: Terms) -> None:
    made, _ = await terms.start(1)
    answers: list[ev.Event] = []
    made.outbound.placer._hand_on = answers.append
    made.outbound.do([act.Place("t1", "b", History(1), ev.Source("tasks", 77), None, 0.0)], 0.0)
    await eventually(lambda: answers, what="what became of it")
    [failed] = answers
    assert isinstance(failed, ev.PlaceFailed)
    assert failed.gone is not None and not failed.final


# Taking over


async def test_a_large_takeover_lets_the_lease_be_renewed(terms: Terms) -> None:
    """It is read page by page and given to the core in parts; between them other tasks of this process run."""
    count = 2 * TURN_MAX
    answers = [
        terms.store.put(subjects.work("_waiting", f"w{i}"), encode(_work(f"w{i}")), timeout_s=60) for i in range(count)
    ]
    await asyncio.gather(*answers)
    made, _ = await terms.make(1)
    renewals, turns = 0, []
    running = True

    async def keep() -> None:
        nonlocal renewals
        while running:
            await asyncio.sleep(0)
            renewals += 1

    def ends_a_turn(*args: Any) -> list[act.Action]:
        turns.append((len(made.state.tasks), renewals))
        return pump(*args)

    keeping = asyncio.ensure_future(keep())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acting_module, "pump", ends_a_turn)
        await made.start()
    running = False
    await keeping
    assert len(made.state.tasks) == count
    during = [(tasks, at) for tasks, at in turns if tasks < count]
    assert during, "the first turn took it all"
    for (tasks, at), (more, later) in pairwise([(0, 0), *turns]):
        assert more - tasks <= TURN_MAX
        assert later > at, "nothing else ran between two turns"


async def test_a_takeover_that_outlives_its_lease_ends(terms: Terms) -> None:
    await asyncio.gather(
        *(terms.store.put(subjects.work("_waiting", f"w{i}"), encode(_work(f"w{i}"))) for i in range(10))
    )
    made, lease = await terms.make(1)
    found = made.inbound.work

    def loses(message: jetstream.StoredMessage) -> Any:
        lease.valid = False
        return found(message)

    made.inbound.work = loses  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        await made.start()
    assert made.state.term == 0, "the core was told nothing"
    assert await terms.consumers() == set()


def _work(task: str) -> Work:
    body = msgspec.Raw(encode(task_of(task)))
    return Work(body, History(1, submitted_at=1e9), 1, None, 2e9, not_before=4e9, reason="it fits nowhere")


async def test_what_a_turn_decided_after_its_lease_ended_is_not_said(terms: Terms) -> None:
    """The state has moved on and nobody was told: only the streams know what is so, and the term ends."""
    made, lease = await terms.start(1)

    def long_turn(*args: Any) -> list[act.Action]:
        lease.valid = False
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acting_module, "step", long_turn)
        made._hand_on(ev.CancelAsked("t1", ME, "no need"))
        await asyncio.wait_for(made.over.wait(), 60)
    assert await terms.result("t1") is None


async def test_work_under_names_that_are_no_ids_stops_no_takeover(terms: Terms) -> None:
    """RESULTS is asked for all that was found at once: one subject that it cannot take would spoil them all."""
    task = task_of("t1")
    bad = [encode(structs.replace(task, submitter=name)) for name in (">", "", "a b", "x.*")]
    for number, body in enumerate([*bad, encode(task)]):
        work = structs.replace(_work("t1"), task=msgspec.Raw(body))
        await terms.store.put(subjects.work("a", "t1"), encode(work), msg_id=str(number))
    await terms.store.put(subjects.work("a", "*"), encode(_work("t1")))
    made, _ = await terms.start(1)
    assert set(made.state.tasks) == {"t1"}
    assert made.inbound.bad.counts["work"] == 5


async def test_a_lease_that_is_given_up_while_it_is_renewed_is_free_at_once(terms: Terms) -> None:
    lease, next_one = Lease(terms.bus, terms.store, "c1"), Lease(terms.bus, terms.store, "c2")
    await lease.acquire()
    before = lease._revision
    keeping = asyncio.ensure_future(lease.keep())
    await eventually(lambda: lease._revision > before, what="a renewal")
    keeping.cancel()
    lease._revision = before  # as if its answer had not come
    await lease.release()
    began = ticks()
    await next_one.acquire()
    assert ticks() - began < limits.LEASE_S / 2


async def test_a_large_fleet_is_asked_to_report_over_more_time(terms: Terms) -> None:
    made, _ = await terms.make(1)
    nodes = Kv(terms.bus, terms.store, streams.NODES)
    now = Clock()()
    many = [NodeRecord(f"n{i}", "key", "session", 1, CAPABLE, Offer(), now, now) for i in range(2000)]
    await asyncio.gather(*(nodes.put(record.node, encode(record)) for record in many))
    asked: list[AllReport] = []
    await terms.bus.subscribe(subjects.ALL_REPORT, lambda _s, _r, data, _h: asked.append(report_of(data)))
    await made.start()
    await eventually(lambda: asked, what="the request")
    assert asked == [AllReport(1, spread_s=1.0)]


async def test_a_follower_acts_as_soon_as_the_lease_is_given_up(terms: Terms) -> None:
    """It hears that, and does not wait for its next look."""
    holder, follower = Lease(terms.bus, terms.store, "c1"), Lease(terms.bus, terms.store, "c2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_module, "RENEW_S", 1000.0)  # between two looks
        await holder.acquire()
        following = asyncio.ensure_future(follower.acquire())
        await terms.bus.flush()
        await asyncio.sleep(0.05)
        assert not following.done()
        await holder.release()
        await asyncio.wait_for(following, 60)


async def test_ends_that_the_last_coordinator_had_no_time_to_tell_are_told(terms: Terms) -> None:
    """A node that stored its result has acked its WORK: RESULTS alone shows that the task ended. No end is told twice."""
    made, lease = await terms.start(1)
    await terms.store.put(subjects.result(ME, "t1"), encode(_succeeded("t1")))
    await eventually(partial(_ends_told, terms, ["t1"]), what="the end of t1")
    lease.valid = False
    for name in ("t2", "t3"):
        await terms.store.put(subjects.result(ME, name), encode(_succeeded(name)))
    made.events.close()
    await terms.start(2)
    await eventually(partial(_ends_told, terms, ["t1", "t2", "t3"]), what="the ends of the others")


def _succeeded(task: str) -> Result:
    return Result(task, ME, ResultState.SUCCEEDED, "n1", 1, 1, duration_ms=100.0)


async def _ends_told(terms: Terms, tasks: list[str]) -> bool:
    found = await jetstream.read_all(terms.bus, streams.EVENTS, subjects.event("task.succeeded", "*"))
    return [msgspec.json.decode(message.data)["subject"] for message in found] == tasks


async def test_a_cancel_reaches_the_parts_of_a_chunk_that_an_earlier_term_split(terms: Terms) -> None:
    """Only the chunk's result names them, and that of a part that was split again names its own. What no part can be, the
    chunk itself or somebody else's task, is left alone."""
    await terms.submit(structs.replace(task_of("theirs"), submitter="eve"))
    for name, parts in (("whole", ("p1", "p2")), ("p1", ("whole", "theirs", "p3", "p4")), ("p3", ())):
        await terms.store.put(subjects.result(ME, name), encode(structs.replace(_succeeded(name), parts=parts)))
    for name in ("p2", "p4"):
        await terms.submit(task_of(name))
    await terms.start(1)
    api = ClientApi(terms.bus)
    await api.cancel("whole", ME, "no need")
    for name in ("p2", "p4"):
        await eventually(partial(_has_result, terms, name), what=f"the end of {name}")
        assert (await terms.result(name) or _succeeded(name)).state is ResultState.CANCELLED
    theirs = subjects.result("eve", "theirs")
    assert await jetstream.get_message(terms.bus, streams.RESULTS, last_by=theirs) is None
    with pytest.raises(Refused, match="ended already"):
        await api.cancel("whole", ME, "again")


# Nodes' records and removals


async def test_a_record_that_another_wrote_meanwhile_is_read_and_judged_anew(terms: Terms) -> None:
    made, _ = await terms.start(1)
    told: list[ev.Event] = []
    made.registrar._hand_on = told.append
    nodes = Kv(terms.bus, terms.store, streams.NODES)
    first = NodeRecord("a", "key", "session", 1, CAPABLE, Offer(), 0.0, 0.0)
    theirs = await nodes.create("a", encode(structs.replace(first, boot=7)))
    await made.registrar.store(first, theirs + 100, "")
    assert told == [ev.NodeConflicted("a", structs.replace(first, boot=7), theirs)]
    await made.registrar.store(structs.replace(first, boot=8), theirs, "")
    assert isinstance(told[1], ev.NodeStored)
    await made.registrar.drop("a", theirs)
    assert await nodes.get("a") is not None, "it was written since"
    await made.registrar.drop("a", told[1].revision)
    assert await nodes.get("a") is None


async def test_a_node_that_signed_the_last_ones_challenge_is_given_one_to_sign(terms: Terms) -> None:
    """Between its two requests another took over. It must not hear that it may not belong to the fleet: it would end."""
    _, old = await terms.start(1)
    node = Player(7)
    given = await node._ask(terms.bus, "")
    old.valid = False
    await terms.start(2)
    anew = await node._ask(terms.bus, given.challenge)
    assert (anew.error, anew.boot) == ("", 0)
    assert anew.challenge not in ("", given.challenge)
    assert (await node._ask(terms.bus, anew.challenge)).boot == 1


async def test_a_node_whose_record_cannot_be_read_is_taken_in_anew(terms: Terms) -> None:
    await Kv(terms.bus, terms.store, streams.NODES).put("player-00007", b'{"node": 7}')
    made, _ = await terms.start(1)
    node = Player(7)
    await node.register(terms.bus)
    assert node.boot == 1
    assert made.inbound.bad.counts["node"] == 2, "while taking over, and now"


async def test_a_registration_that_fails_leaves_nothing_open(terms: Terms) -> None:
    made, _ = await terms.start(1)

    async def fails(*_args: Any, **_more: Any) -> None:
        raise ZeroDivisionError

    made.registrar._kv.get = fails  # type: ignore[method-assign]
    made.registrar._open["reply"] = Register("a", "key", "session", CAPABLE, Offer(), DeviceState())
    await made.registrar._look_up("reply")
    assert not made.registrar._open


async def test_what_cannot_be_removed_now_is_removed_later(terms: Terms) -> None:
    """However long that takes: a WORK message that stays would run again."""
    made, _ = await terms.start(1)
    seqs = [(await terms.store.put(subjects.work("a", f"t{i}"), b"{}")).seq for i in range(100)]
    refused = 0
    delete = jetstream.delete_message

    async def refuses(bus: Bus, stream: str, seq: int) -> bool:
        nonlocal refused
        if refused < 60:
            refused += 1
            raise Unreachable("not now")
        return await delete(bus, stream, seq)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jetstream, "delete_message", refuses)
        made.outbound.do([act.Remove(ev.Source("work", seq)) for seq in seqs], 0.0)

        async def none_left() -> bool:
            return await terms.stored(streams.WORK) == 0

        await eventually(none_left, what="all of it is removed")
    assert refused == 60


# Faults


async def test_after_a_fault_of_the_core_the_streams_are_read_anew_and_poison_is_left_out(target: Target) -> None:
    """A service over a task that the core cannot take: it steps down, comes back, and in the end does without it."""
    service = Service(target, "c1", 1)
    bus = await Bus.connect(target, name="test")
    await jetstream.ensure_streams(bus)
    store = Store(bus)
    events: list[Any] = []
    await bus.subscribe(subjects.event("*.*", "*"), lambda _s, _r, data, _h: events.append(msgspec.json.decode(data)))

    def fails(state: Any, event: ev.Event, now: float) -> list[act.Action]:
        if isinstance(event, ev.TaskArrived) and event.head.id == "poison":
            raise ZeroDivisionError
        return step(state, event, now)

    async def over(task: str) -> bool:
        return await jetstream.get_message(bus, streams.RESULTS, last_by=subjects.result(ME, task)) is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acting_module, "step", fails)
        serving = asyncio.ensure_future(service.run())
        for name in ("poison", "good"):
            task = task_of(name)
            await store.put(subjects.submit(task.priority, ME, name), encode(task), msg_id=name)
        await eventually(lambda: over("poison"), what="the end of what cannot be handled")
        await eventually(lambda: _is_held(service, "good"), what="the rest is taken in")
    assert service._acting is not None and service._acting.bodies.get("poison") is None
    elected = [e for e in events if e["type"] == "fog.coordinator.elected"]
    assert 2 <= len(elected) <= 4
    assert service._bad.counts["event"] >= 3

    async def gone() -> bool:
        return (await jetstream.stream_info(bus, streams.TASKS, subjects_filter=subjects.submitted("poison")))[
            "state"
        ].get("subjects") is None

    await eventually(gone, what="its message is removed")
    service.stop()
    await serving
    store.close()
    await bus.close()


def _is_held(service: Service, task: str) -> bool:
    return service._acting is not None and task in service._acting.state.tasks


async def test_what_was_decided_before_a_fault_is_done(terms: Terms) -> None:
    made, _ = await terms.start(1)

    def fails(state: Any, event: ev.Event, now: float) -> list[act.Action]:
        if isinstance(event, ev.LinkBack):
            raise ZeroDivisionError
        return step(state, event, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acting_module, "step", fails)
        made._hand_on(ev.CancelAsked("t1", ME, "no need"))
        made._hand_on(ev.LinkBack())
        await asyncio.wait_for(made.over.wait(), 60)

    async def stored() -> bool:
        return await terms.result("t1") is not None

    await eventually(stored, what="the cancelled task's result")


async def test_a_fault_without_a_message_does_not_end_terms_for_ever(terms: Terms) -> None:
    faults, told = Faults(), []
    with pytest.MonkeyPatch.context() as patch:

        def fails(state: Any, event: ev.Event, now: float) -> list[act.Action]:
            if isinstance(event, ev.LinkLost):
                raise ZeroDivisionError
            return step(state, event, now)

        patch.setattr(acting_module, "step", fails)
        for term in (1, 2, 3):
            made, lease = await terms.start(term, faults)
            made.link_lost()
            await asyncio.sleep(0.05)
            told.append(made.over.is_set())
            lease.valid = False
    assert told == [True, True, False]


# Bodies and bounds


async def test_large_tasks_that_wait_do_not_keep_a_critical_one_out(terms: Terms) -> None:
    made, _ = await terms.make(1)
    size = 700_000
    for i in range(HELD_BYTES // size + 1):
        made.bodies.hold(f"held{i}", b"x" * size)
    await made.start()
    await terms.submit(task_of("urgent", priority=TaskPriority.CRITICAL))
    await eventually(lambda: "urgent" in made.state.tasks, what="it is taken in")


async def test_a_body_that_found_no_room_is_read_where_the_task_lies(terms: Terms) -> None:
    made, _ = await terms.start(1)
    seq = (await terms.store.put(subjects.work("_waiting", "t1"), encode(_work("t1")))).seq
    made.outbound.placer._hand_on = lambda event: None  # the core did not ask for it, and would have it removed
    made.outbound.do([act.Place("t1", "n1", History(7), ev.Source("work", seq), None, 2e9)], 0.0)

    async def placed() -> bool:
        message = await jetstream.get_message(terms.bus, streams.WORK, last_by=subjects.work("n1", "t1"))
        return message is not None and bytes(work_of(message.data).task) == encode(task_of("t1"))

    await eventually(placed, what="its WORK message")


async def test_what_is_under_way_into_queues_is_bounded_in_bytes_and_nodes_go_first(terms: Terms) -> None:
    made, _ = await terms.start(1)
    made.outbound.placer._hand_on = lambda event: None  # the core did not ask for it, and would have it removed
    await eventually(lambda: not made._store.unanswered, what="the term's own first messages are stored")
    size, count, where = 700_000, 60, ev.Source("tasks", 1)
    for i in range(count):
        made.bodies.hold(f"t{i}", encode(task_of(f"t{i}", size)))
    made.outbound.do([act.Place(f"t{i}", subjects.WAITING, History(1), where, None, 2e9) for i in range(count)], 0.0)
    assert made.outbound.placer.full
    under_way = [
        post
        for post in (*made._store._open, *made._store._queue)
        if subjects.work(subjects.WAITING, "") in post.subject
    ]
    assert len(under_way) * size <= PLACING_BYTES + size < count * size
    made.bodies.hold("urgent", encode(task_of("urgent")))
    made.outbound.do([act.Place("urgent", "n1", History(1), where, None, 2e9)], 0.0)

    async def all_stored() -> bool:
        return await terms.stored(streams.WORK) == count + 1

    await eventually(all_stored, what="every WORK message")
    urgent = await jetstream.get_message(terms.bus, streams.WORK, last_by=subjects.work("n1", "urgent"))
    assert urgent is not None and urgent.seq <= PLACING_BYTES // size + 2
    assert not made.outbound.placer.full


async def test_outcomes_of_tasks_that_are_done_leave_nothing_behind(terms: Terms) -> None:
    made, _ = await terms.start(1)
    for i in range(5):
        name = f"t{i}"
        await terms.store.put(subjects.result(ME, name), encode(Result(name, ME, ResultState.SUCCEEDED)))
        said = Outcome(msgspec.Raw(encode(task_of(name, 300_000))), History(1), OutcomeKind.RETURNED, "n1", 1)
        await terms.store.put(subjects.outcome("n1", name), encode(said))

    async def none_left() -> bool:
        return await terms.stored(streams.OUTCOMES) == 0

    await eventually(none_left, what="no outcome is left")
    assert made.bodies.held_bytes == 0
    assert made.inbound.outcome_bytes == 0


def test_bodies_are_bounded() -> None:
    bodies = Bodies()
    for i in range(300):
        bodies.hold(f"t{i}", bytes(1 << 20))
    assert bodies.held_bytes <= HELD_BYTES
    assert bodies.loose_bytes <= LOOSE_BYTES
    for i in range(300):
        bodies.drop(f"t{i}")
    assert bodies.held_bytes == bodies.loose_bytes == 0


# The clock


async def test_the_clock_is_the_brokers(terms: Terms) -> None:
    """Not this machine's, which may be wrong by hours: deadlines are judged by when the broker stored a task."""
    lease = Lease(terms.bus, terms.store, "c1")
    await lease.acquire()
    assert lease.told is not None
    clock = Clock()
    clock._offset -= 7200
    clock.learn(*lease.told)
    entry = await terms.store.put(subjects.submit(3, ME, "t1"), b"{}")
    message = await jetstream.get_message(terms.bus, streams.TASKS, seq=entry.seq)
    assert message is not None
    stored = msgspec.json.decode(f'"{message.time}"', type=datetime).timestamp()
    assert abs(clock() - stored) < 0.5


def test_a_clock_that_has_begun_never_steps_back() -> None:
    clock = Clock()
    clock.learn(2000.0, ticks())
    clock.learn(1000.0, ticks())  # before anybody looked at it
    before = clock()
    assert 1000.0 <= before < 1001.0
    clock.learn(900.0, ticks())
    assert clock() >= before
    clock.learn(1100.0, ticks())
    assert 1100.0 <= clock() < 1101.0


async def test_what_is_sure_to_be_told_once_goes_by_the_brokers_clock(terms: Terms) -> None:
    """A result before the last one whose end was told may be untold, and is told (again) while the broker would notice a
    double. A machine whose clock is behind would tell of old ones again, and each event would be there twice."""
    made, _ = await terms.start(1)
    for task in ("t-old", "t-last"):
        data = encode(Result(task, "ann", ResultState.SUCCEEDED, "n1", 1))
        await terms.store.put(subjects.result("ann", task), data)
    told = b'{"data":{"task":"t-last","submitter":"ann"}}'
    await terms.store.put(subjects.event("task.succeeded", "t-last"), told)
    message = await jetstream.get_message(terms.bus, streams.RESULTS, last_by=subjects.result("ann", "t-old"))
    assert message is not None
    stored_at = datetime.fromisoformat(message.time).timestamp()

    async def told_anew(now: float) -> list[str]:
        found: list[str] = []
        breathe = partial(asyncio.sleep, 0)
        await takeover.read_untold(terms.bus, made.inbound, lambda e: found.append(e.result.task), breathe, now)  # type: ignore[union-attr]
        return found

    assert await told_anew(stored_at + 1) == ["t-old", "t-last"]
    assert await told_anew(stored_at + limits.DUPLICATE_WINDOW_S) == []
