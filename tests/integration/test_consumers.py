"""What a coordinator pulls, where acks are lost: what they were for comes again, soon, and what is waited for here is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coordinator import consumers as consumers_module
from coordinator.consumers import Consumers, consumer_name
from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.pull import Message
from schemas.store import Store
from schemas.target import Target
from tests.until import eventually

TERM = 7


class Desk:
    """Pulls tasks, and holds each until the test says otherwise."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.came: list[Message] = []
        self.held: set[tuple[str, int]] = set()
        self.consumers = Consumers(bus, TERM, lambda: True, lambda name, number: (name, number) in self.held)

    async def pull(self, priority: int) -> None:
        subject = subjects.submit(priority, "*", "*")
        await self.consumers.pull(streams.TASKS, f"p{priority}", subject, self._on, pending_max=100, room=lambda: 100)

    def _on(self, message: Message) -> None:
        self.came.append(message)
        self.held.add(message.delivery())

    async def has(self, number: int) -> list[Message]:
        """Wait until so many came."""
        await eventually(lambda: len(self.came) >= number, what=f"{number} deliveries")
        return self.came


@pytest_asyncio.fixture
async def desk(target: Target, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(consumers_module, "LOOK_S", 0.05)
    bus = await Bus.connect(target, name="test")
    store = Store(bus)
    await jetstream.ensure_streams(bus)
    for task in ("t1", "t2", "t3"):
        await store.put(subjects.submit(3, "ann", task), b"{}")
    made = Desk(bus)
    yield made
    await made.consumers.stop()
    store.close()
    await bus.close()


async def test_what_a_lost_ack_was_for_comes_again_and_so_does_what_was_held(desk: Desk) -> None:
    await desk.pull(3)
    first, _, third = await desk.has(3)
    third.ack(desk.bus)
    desk.held -= {third.delivery(), first.delivery()}  # the broker hears of one only
    came = await desk.has(5)
    assert [message.seq for message in came[3:]] == [1, 2]
    for message in came[3:]:
        message.ack(desk.bus)
    await eventually(lambda: is_empty(desk.bus), what="an empty queue")


async def test_what_is_held_for_long_is_left_alone(desk: Desk) -> None:
    await desk.pull(3)
    first, *others = await desk.has(3)
    looked: list[tuple[str, int]] = []
    holds, desk.consumers._holds = desk.consumers._holds, lambda *what: looked.append(what) or holds(*what)  # type: ignore[func-returns-value]
    for message in others:
        message.ack(desk.bus)
        desk.held.discard(message.delivery())
    await eventually(lambda: len(looked) >= 4, what="four looks at it")
    assert set(looked) == {first.delivery()} and len(desk.came) == 3


async def test_a_link_that_is_lost_again_while_consumers_are_renewed_has_all_of_them_renewed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pull(3)
    await desk.pull(7)
    await desk.has(3)
    deleted: list[str] = []
    delete = jetstream.delete_consumer

    async def watched(bus: Bus, stream: str, name: str) -> bool:
        deleted.append(name)
        if len(deleted) == 2:
            desk.consumers.renew(nothing)
        return await delete(bus, stream, name)

    monkeypatch.setattr(jetstream, "delete_consumer", watched)
    desk.consumers.renew(nothing)
    await eventually(lambda: len(deleted) == 4, what="both renewed twice")
    assert deleted[2:] == [consumer_name("p7", TERM), consumer_name("p3", TERM)]


async def nothing() -> None:
    await asyncio.sleep(0)


async def is_empty(bus: Bus) -> bool:
    return (await jetstream.stream_info(bus, streams.TASKS))["state"]["messages"] == 0
