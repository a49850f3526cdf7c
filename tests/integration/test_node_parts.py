"""Parts of the daemon by themselves: what they do when this process stood still, the store is away, or things cross."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Raw

from node import context as context_module
from node import executor as executor_module
from node import intake
from node import member as member_module
from node.blobs import Blobs
from node.context import Context
from node.core.attempts import Attempt, Place, attempt_of
from node.core.desk import Desk
from node.core.endings import Done
from node.core.lanes import Room
from node.core.link import ENOUGH_BYTES, Goodput
from node.executor import Executor
from node.identity import Identity
from node.intake import Intake
from node.member import Member
from node.orders import Orders
from node.runners.frames import PAYLOAD_MAX, Failed, Finished, Printed, Progressed
from schemas import pull, subjects
from schemas.bus import Bus
from schemas.device import DeviceCapabilities
from schemas.errors import BadInput, FogError, NoResponders, Unreachable
from schemas.eventlog import EventLog
from schemas.jetstream import ensure_streams, stream_info
from schemas.loop import run
from schemas.membership import Offer, Registered
from schemas.pull import Message, Puller
from schemas.store import Store
from schemas.streams import NODE_CONSUMER, WORK
from schemas.target import Target
from schemas.task import Blob, FileArg, FunctionRun, History, Task, Work
from tests.integration.node_fleet import ROOT, until
from tests.until import eventually

MARK = """
import time
import node

@node.function
def mark(path: str, hold_s: float) -> None:
    with open(path, "a") as file:
        file.write("x")
    time.sleep(hold_s)
"""


def attempt(task: str, run: FunctionRun | None = None, placement: int = 1) -> Attempt:
    made = Task(task, "me", run or FunctionRun("echo", Raw(b"[1]")))
    return attempt_of(made, Work(Raw(b"{}"), History(placement=placement)), 1, f"reply-{task}")


class Ends:
    """A sink that keeps what came of each."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.ends: list[tuple[str, str]] = []

    def _end(self, attempt: Attempt, how: str) -> None:
        self.ends.append((attempt.task.id, how))
        self.desk.close(attempt)

    def started(self, attempt: Attempt) -> None:
        pass

    def unstarted(self, attempt: Attempt) -> None:
        pass

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        pass

    def finished(self, attempt: Attempt, message: Finished) -> None:
        self._end(attempt, "finished")

    def failed(self, attempt: Attempt, message: Failed) -> None:
        self._end(attempt, message.error)

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        self._end(attempt, how)

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        self._end(attempt, why)


def test_what_was_answered_while_the_daemon_stood_still_is_heard_before_the_clock_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the daemon's own event loop: it must read sockets before it runs what is due by the clock."""
    (tmp_path / "marks.py").write_text(MARK)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")

    async def main() -> None:
        desk = Desk(Room(1, 1.0, 1000))
        sink = Ends(desk)
        executor = Executor(desk, ("marks",), sink)

        def place(name: str, hold_s: float) -> None:
            args = b'["%s",%f]' % (str(tmp_path / "marks").encode(), hold_s)
            one = attempt(name, FunctionRun("mark", Raw(args)))
            assert desk.take(one)[0].value == "new"
            desk.queue(one)
            executor.pump()

        await executor.pool.hello()
        place("warm", 0.0)
        await until(lambda: len(sink.ends) == 1)
        (tmp_path / "marks").unlink()
        for i in range(20):
            place(f"t{i}", 0.05 if i == 0 else 0.0)
        await until((tmp_path / "marks").exists)
        assert sink.ends == [("warm", "finished")], "the line is under way"
        time.sleep(0.3)  # noqa: ASYNC251 - this process stands still; the runner goes on
        await until(lambda: len(sink.ends) == 21)
        assert {how for _, how in sink.ends} == {"finished"}
        assert (tmp_path / "marks").read_text() == "x" * 20, "each ran once"
        await executor.pool.close()

    run(main())


async def test_a_placement_that_came_after_the_registration_was_sent_is_not_dropped_by_its_answer() -> None:
    desk = Desk(Room(1, 1.0, 1000))
    one = attempt("t", placement=1)
    desk.take(one)
    desk.queue(one)
    dropped: list[str] = []
    executor: Any = SimpleNamespace(stop=lambda _task, _why: False)
    recorder: Any = SimpleNamespace(dropped=lambda a: dropped.append(a.task.id))
    context: Any = SimpleNamespace(closed_to="")
    other: Any = None
    orders = Orders(
        context, desk, executor, recorder, other, lambda _full: None, lambda _term: None, other, other, other
    )
    (said,) = desk.report()
    desk.take(attempt("t", placement=2))
    orders.drop(said.task, said.placement)
    assert dropped == []
    (said,) = desk.report()
    orders.drop(said.task, said.placement)
    assert dropped == ["t"]


class Away:
    """Blobs of a store that is away at first."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error = times, error

    def _answer(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise self.error

    async def fetch(self, blobs: tuple[Blob, ...]) -> tuple[bytes, ...]:
        self._answer()
        return tuple(b"content" for _ in blobs)

    async def store(self, message: Finished) -> Done:
        self._answer()
        return Done(message.duration_s)


def taking_in(blobs: Any, unfit: list[str]) -> tuple[Intake, Desk]:
    desk = Desk(Room(1, 1.0, 1000))
    offer = SimpleNamespace(functions=())
    bus = SimpleNamespace(when_back=lambda _fn: None, max_payload=1 << 20)
    context: Any = SimpleNamespace(node="n1", bus=bus, offer=offer, closed_to="", ack_again=lambda: None)
    executor: Any = SimpleNamespace(pump=lambda: None)
    recorder: Any = SimpleNamespace(unfit=lambda _a, why: unfit.append(why))
    return Intake(context, desk, executor, recorder, blobs, lambda: None), desk


@pytest.mark.parametrize("silent", [False, True])
async def test_work_comes_also_where_the_link_broke_while_the_consumer_was_first_made(
    target: Target, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """It was told to pause, and what had begun before did not tell it to go on.

    Silent: the broker swallows the end of what was asked of a consumer that was then deleted, as it may.
    """
    if silent:
        monkeypatch.setattr(Puller, "_status", lambda *_: None)
        monkeypatch.setattr(pull, "EXPIRES_S", 3600)
    asked, back, came = asyncio.Event(), asyncio.Event(), []
    make = intake.create_consumer

    async def made_when_back(*args: Any, **settings: Any) -> None:
        asked.set()
        await back.wait()
        await make(*args, **settings)

    monkeypatch.setattr(intake, "create_consumer", made_when_back)
    monkeypatch.setattr(Intake, "on_message", lambda _self, message: came.append(message.data))
    bus = await Bus.connect(target, name="node")
    try:
        await ensure_streams(bus)
        offer = SimpleNamespace(functions=())
        context: Any = SimpleNamespace(node="n1", bus=bus, offer=offer, full="", sleep=None, ack_again=lambda: None)
        other: Any = None
        taking = Intake(context, Desk(Room(1, 1.0, 1000)), other, other, other, lambda: None)
        first = asyncio.create_task(taking.start())
        await asked.wait()
        taking.link_back()
        again = asyncio.create_task(taking.start())
        back.set()
        await asyncio.gather(first, again)
        await Store(bus).put(subjects.work("n1", "t1"), b"some", msg_id="t1.1")
        await eventually(lambda: b"some" in came, what="the work is here")
        await taking.stop()
    finally:
        await bus.close()


async def test_acks_that_were_lost_with_the_server_that_led_the_consumer_are_said_to_the_next(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Message] = []
    monkeypatch.setattr(Intake, "on_message", lambda _self, message: came.append(message))
    bus = await Bus.connect(target, name="node")
    try:
        await ensure_streams(bus)
        store = Store(bus)
        context, other = Context("n1", bus, store, EventLog(bus, store, "/fog/node/n1"), Offer()), cast("Any", None)
        taking = Intake(context, Desk(Room(1, 1.0, 1000)), other, other, other, lambda: None)
        await taking.start()
        await store.put(subjects.work("n1", "t1"), b"some", msg_id="t1.1")
        await eventually(lambda: came, what="the work is here")
        with monkeypatch.context() as lost:
            lost.setattr(context_module, "ack", lambda *_: None)
            context.ack(came[0].reply)
        assert (await stream_info(bus, WORK))["state"]["messages"] == 1
        bus.publish(f"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{WORK}.{NODE_CONSUMER}n1", b"{}")

        async def gone() -> bool:
            return not (await stream_info(bus, WORK))["state"]["messages"]

        await eventually(gone, what="the work is over for the broker, too")
        await taking.stop()
    finally:
        await bus.close()


LARGE = FunctionRun("sha256", Raw(b"[null]"), (FileArg(0, Blob(300_000, None, "sha256-x")),))


async def test_an_input_that_an_absent_broker_does_not_give_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "FETCH_AGAIN_S", 0.01)
    unfit: list[str] = []
    taking, _ = taking_in(Away(2, Unreachable("away")), unfit)
    one = attempt("t", LARGE)
    one.place = Place.FETCHING
    await taking._fetch(one)
    assert (one.place, one.inputs, unfit) == (Place.QUEUED, (b"content",), [])


@pytest.mark.parametrize(("error", "says"), [(Unreachable("away"), "away"), (KeyError("chunks"), "KeyError: 'chunks'")])
async def test_an_input_that_cannot_be_had_ends_the_attempt_whatever_the_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    monkeypatch.setattr(intake, "FETCH_AGAIN_S", 0.001)
    unfit: list[str] = []
    taking, _ = taking_in(Away(99, error), unfit)
    one = attempt("t", LARGE)
    one.place = Place.FETCHING
    await taking._fetch(one)
    assert unfit == [f"an input could not be fetched: {says}"]


async def test_inputs_beyond_all_bounds_are_refused_before_they_are_fetched() -> None:
    objects: Any = None
    with pytest.raises(BadInput, match="more than a node takes"):
        await Blobs(objects).fetch((Blob(PAYLOAD_MAX, None, "sha256-x"), Blob(1, None, "sha256-y")))


@pytest.mark.parametrize(("size", "told"), [(ENOUGH_BYTES - 1, False), (ENOUGH_BYTES, True)])
async def test_only_large_inputs_tell_of_the_link_since_small_ones_measure_round_trips(size: int, told: bool) -> None:
    class Store:
        async def get(self, ref: str) -> bytes:
            return bytes(size)

    goodput = Goodput()
    blobs: Any = Blobs(Store(), lambda: goodput)  # type: ignore[arg-type]
    many = 8 * (Blob(size, None, "sha256-x"),)
    assert sum(map(len, await blobs.fetch(many))) == 8 * size
    assert (goodput.mbps(time.time()) is not None) is told


async def test_a_look_at_the_device_that_fails_is_not_the_end_of_the_daemon() -> None:
    looks = 0

    async def look() -> DeviceCapabilities:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise RuntimeError("can't start new thread")
        return DeviceCapabilities(cpu_cores=99)

    context: Any = SimpleNamespace(node="n1")
    other: Any = None
    member = Member(
        context, other, other, SimpleNamespace(capabilities=DeviceCapabilities()), other, look, 0.01, lambda *_: None
    )
    async with asyncio.timeout(60):
        await member._until_changed()
    assert looks == 3


async def test_a_node_that_waits_to_be_registered_asks_a_new_coordinator_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it waits for its next try, or for the answer of one that was killed before it gave it."""
    asked, accepted = 0, []

    async def ask(held: object) -> Registered:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise NoResponders("nobody answers")
        if asked == 2:
            await asyncio.Event().wait()
        return Registered(boot=1, term=9)

    monkeypatch.setattr(member_module, "RETRY_S", (1000.0, 1000.0))
    monkeypatch.setattr(member_module.random, "uniform", lambda _least, most: most)
    desk: Any = SimpleNamespace(report=tuple)
    other: Any = SimpleNamespace(node="n1", boot=0, closed_to="")
    member = Member(other, desk, other, other, other, other, 1.0, lambda *_: None)
    member._ask = ask  # type: ignore[method-assign]
    member._accept = lambda answer, *_said: accepted.append(answer.term)  # type: ignore[method-assign]
    registering = asyncio.ensure_future(member._register())
    await eventually(lambda: asked == 1)
    member.on_term(8)
    await eventually(lambda: asked == 2, what="the coordinator of term 8 is asked")
    member.on_term(9)
    await asyncio.wait_for(registering, 60)
    assert accepted == [9]


def test_a_key_that_is_gone_is_told_by_the_name_of_its_file(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    (tmp_path / "node.key").unlink()
    with pytest.raises(FogError, match=r"node\.key"):
        identity.sign("n1", "s", "challenge")


async def test_what_waits_is_not_forgotten_when_no_runner_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that had its turn is told as failed, unbegun; the next has its turn a little later, and nothing is left open."""
    really, refusals, files = subprocess.Popen, iter(range(2)), 0

    def refuse(*args: Any, **more: Any) -> Any:
        nonlocal files
        if next(refusals, None) is None:
            return really(*args, **more)
        files = len(os.listdir("/proc/self/fd"))
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(executor_module, "SPAWN_AGAIN_S", 0.02)
    desk = Desk(Room(1, 1.0, 100))
    sink = Ends(desk)
    executor = Executor(desk, (), sink)
    monkeypatch.setattr("node.runners.runner.subprocess.Popen", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for name in ("first", "second", "third"):
        one = attempt(name)
        desk.take(one)
        desk.queue(one)
    executor.pump()
    await until(lambda: len(sink.ends) == 2)
    assert len(os.listdir("/proc/self/fd")) == before < files
    await until(lambda: not desk.held)
    assert [how.partition(":")[0] for _, how in sink.ends] == [
        "cannot start a runner",
        "cannot start a runner",
        "finished",
    ]
    await executor.pool.close()
