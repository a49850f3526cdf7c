"""Nobody waits for a watcher that reads slowly: it is dropped, and told what it missed and where to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from client import watch
from client.watch import HELD, Events
from schemas import jetstream, pull, streams
from schemas.bus import Bus
from schemas.errors import BadInput, FellBehind
from schemas.event import CloudEvent, TaskEvent
from schemas.eventlog import EventLog
from schemas.pull import Puller
from schemas.store import Store
from schemas.target import Target
from tests.until import eventually

KEPT = 2_000  # events of FOG_EVENTS in these tests


@pytest.fixture
async def log(target: Target) -> AsyncIterator[tuple[Bus, EventLog]]:
    """A broker that keeps the last `KEPT` events, and somebody who says them."""
    bus = await Bus.connect(target, name="test")
    await jetstream.ensure_streams(bus)
    config = (await jetstream.stream_info(bus, streams.EVENTS))["config"]
    await jetstream.call(bus, f"STREAM.UPDATE.{streams.EVENTS}", {**config, "max_msgs": KEPT})
    store = Store(bus)
    yield bus, EventLog(bus, store, "/fog/coordinator/c")
    store.close()
    await bus.close()


async def say(events: EventLog, first: int, last: int, *, every: int = 1) -> None:
    """Tell of tasks `first` to `last`: of each that `every` divides that it started, of the others that they were assigned."""
    for number in range(first, last + 1):
        kind = "task.assigned" if number % every else "task.started"
        events.emit(kind, f"t{number}", f"t{number}.{kind}", TaskEvent(f"t{number}", "u"), 1.0)
    assert await events.drain(10)


async def read_to_the_end(reading: AsyncIterator[CloudEvent]) -> tuple[list[str], FellBehind]:
    """What it still had of what it asked for, and why it ended."""
    came = []
    try:
        async with asyncio.timeout(60):
            async for event in reading:
                came.append(event.subject)  # noqa: PERF401 - kept although it ends by an error
    except FellBehind as error:
        return came, error
    raise AssertionError("it ended without saying that it had missed any")


async def test_a_reader_that_was_too_slow_is_told_how_many_it_missed_and_goes_on_behind_them(
    log: tuple[Bus, EventLog],
) -> None:
    bus, events = log
    await say(events, 1, 1)
    reading = Events(bus, since=0.0, follow=True)
    stream = aiter(reading)
    assert (await anext(stream)).subject == "t1"
    await say(events, 2, 1_500)
    await eventually(lambda: len(reading._held) == HELD)
    await say(events, 1_501, 6_000)
    assert len(reading._held) == HELD, "what nobody reads does not pile up"
    came, error = await read_to_the_end(stream)
    await reading.close()
    assert came == [f"t{number}" for number in range(2, HELD + 2)], "in order, up to where it stopped to ask"
    assert (error.missed, error.behind, error.after) == (6_000 - KEPT - 1 - HELD, 6_000 - 1 - HELD, 6_000 - KEPT)
    again = Events(bus, after=error.after)
    assert [event.subject async for event in again] == [f"t{number}" for number in range(6_000 - KEPT + 1, 6_001)]
    await again.close()


async def test_a_slow_reader_of_some_kinds_is_told_and_a_quick_one_is_not_although_others_are_gone(
    log: tuple[Bus, EventLog],
) -> None:
    bus, events = log
    slow = Events(bus, kind="task.assigned", since=0.0, follow=True)
    quick = Events(bus, kind="task.started", since=0.0, follow=True)
    assigned, started = aiter(slow), aiter(quick)
    await say(events, 0, 1, every=5_000)
    assert ((await anext(started)).subject, (await anext(assigned)).subject) == ("t0", "t1")
    await say(events, 2, 1_500, every=5_000)
    await eventually(lambda: len(slow._held) == HELD)
    await say(events, 1_501, 5_000, every=5_000)
    assert (await anext(started)).subject == "t5000", "what lies between is gone, and was none of its kind"
    _, error = await read_to_the_end(assigned)
    assert error.missed == 5_001 - KEPT - 2 - HELD, "others of that stretch are counted, too, and it says so"
    assert f"up to {error.missed:,}" in error.message
    for reading in (slow, quick):
        await reading.close()


async def test_where_to_go_on_may_be_gone_already_and_is_refused_when_it_is_no_sequence(
    log: tuple[Bus, EventLog],
) -> None:
    bus, events = log
    await say(events, 1, KEPT + 10)
    reading = Events(bus, after=3)
    _, error = await read_to_the_end(aiter(reading))
    await reading.close()
    assert (error.missed, error.behind, error.after) == (7, KEPT + 7, 10)
    with pytest.raises(BadInput, match="after"):
        Events(bus, after=-1)
    with pytest.raises(BadInput, match="since"):
        Events(bus, after=1, since=0.0)


async def test_reading_what_is_there_ends_although_some_of_it_went_meanwhile(log: tuple[Bus, EventLog]) -> None:
    bus, events = log
    await say(events, 1, KEPT, every=2)
    reading = Events(bus, kind="task.started")
    async with aclosing(aiter(reading)) as stream:  # type: ignore[type-var]
        assert (await anext(stream)).subject == "t2"
        await jetstream.call(bus, f"STREAM.PURGE.{streams.EVENTS}", {"seq": KEPT})
        rest = [event.subject async for event in stream]
        assert rest[-1] == f"t{KEPT}"
    await reading.close()


async def test_a_follower_whose_consumer_ends_without_a_word_goes_on_with_another(
    log: tuple[Bus, EventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it lay with one of several servers, and that was killed: nobody ends the requests that it had."""
    monkeypatch.setattr(pull, "EXPIRES_S", 3600)
    monkeypatch.setattr(watch, "ALIVE_S", 0.2)
    alive = Puller._status

    def only_signs_of_life(self: Puller, lane: int, key: str, status: int, headers: bytes) -> None:
        if status != 409:
            alive(self, lane, key, status, headers)

    monkeypatch.setattr(Puller, "_status", only_signs_of_life)
    bus, events = log
    reading = Events(bus, after=0, follow=True)
    async with aclosing(aiter(reading)) as stream:  # type: ignore[type-var]
        await say(events, 1, 1)
        assert (await anext(stream)).subject == "t1"
        [consumer] = await jetstream.consumers(bus, streams.EVENTS)
        await jetstream.delete_consumer(bus, streams.EVENTS, consumer)
        await say(events, 2, 2)
        async with asyncio.timeout(30):
            assert (await anext(stream)).subject == "t2"
    await reading.close()
