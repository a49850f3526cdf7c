"""Users of a fleet that is being shot at: they submit, map and follow the events through the SDK, and keep books."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from client import connect
from client.fleet import Fleet
from schemas import jetstream, streams, subjects
from schemas.errors import FogError
from schemas.event import CloudEvent
from schemas.task import Result, ResultState
from tests.integration.stack import Stack
from tests.until import eventually

USERS = 8
MAP_ITEMS = 400
ENDS = {f"fog.task.{state.value}" for state in ResultState}


class Users:
    """`acknowledged` has every task that `start` returned for, `ended` how those ended that were waited for."""

    def __init__(self, stack: Stack, fleet: Fleet) -> None:
        self._stack, self._fleet = stack, fleet
        self.acknowledged: list[str] = []
        self.ended: dict[str, Result] = {}
        self.maps = 0
        self.unsure = 0  # starts that the broker did not confirm: they may be stored all the same
        self.followed: list[CloudEvent] = []
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Start them."""
        users = [self._submit() for _ in range(USERS)]
        self._tasks = [asyncio.create_task(each) for each in (*users, self._map(), self._follow())]

    async def _submit(self) -> None:
        while not self._over.is_set():
            try:
                handle = await self._fleet.start("where", random.uniform(0.0, 0.02))
            except FogError:
                self.unsure += 1
                continue
            self.acknowledged.append(handle.id)
            self.ended[handle.id] = await handle.end()
            await handle.result()

    async def _map(self) -> None:
        while not self._over.is_set():
            found = [item.value async for item in self._fleet.map("echo", range(MAP_ITEMS))]
            assert found == list(range(MAP_ITEMS)), "a map lost, doubled or disordered an item"
            self.maps += 1

    async def _follow(self) -> None:
        async for event in self._fleet.events(follow=True):
            self.followed.append(event)

    async def goes_on(self, timeout_s: float) -> None:
        """Wait until every user has had a result of a task that it submitted from now on, and the map has gone on."""
        self._check()
        before, mark = self.maps, len(self.acknowledged)

        def went_on() -> bool:
            self._check()
            fresh = self.acknowledged[mark + USERS :]
            return sum(task in self.ended for task in fresh) >= USERS and self.maps > before

        await eventually(went_on, timeout_s, "submits and maps that go on by themselves")

    def _check(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self, timeout_s: float) -> None:
        """Let the users finish, and check the books: see the module's tests for what they promise."""
        self._over.set()
        *users, follower = self._tasks
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*users)
        await self._stack.nothing_left(timeout_s)
        stored = await self._stored_events(timeout_s)
        last = stored[-1].id
        came = lambda: any(event.id == last for event in reversed(self.followed))  # noqa: E731
        await eventually(came, timeout_s, "all events with the follower")
        follower.cancel()
        await self._check_results()
        self._check_events(stored)

    async def _check_results(self) -> None:
        assert {result.state for result in self.ended.values()} == {ResultState.SUCCEEDED}
        assert set(self.acknowledged) <= set(self.ended)
        kept = await jetstream.subjects(self._stack.bus, streams.RESULTS, subjects.result("*", "*"))
        tasks = Counter(subject.rpartition(".")[2] for subject in kept)
        assert set(self.acknowledged) <= set(tasks), "a task that was acknowledged has no result"
        assert set(kept.values()) == {1} and set(tasks.values()) == {1}
        assert not self._stack.doubled

    async def _stored_events(self, timeout_s: float) -> list[CloudEvent]:
        """The events from the stream, once every result has its event there."""
        decode = msgspec.json.Decoder(CloudEvent).decode
        wanted = set(self.acknowledged)
        found: list[CloudEvent] = []

        async def all_told() -> bool:
            read = await jetstream.read_all(self._stack.bus, streams.EVENTS, subjects.event(">", "")[:-1])
            found[:] = [decode(message.data) for message in read]
            return wanted <= {event.subject for event in found if event.type in ENDS}

        try:
            await eventually(all_told, timeout_s, "an event for the end of every task")
        except AssertionError as error:
            untold = wanted - {event.subject for event in found if event.type in ENDS}
            stories = {task: [(e.type, e.time, e.source) for e in found if e.subject == task] for task in untold}
            raise AssertionError(f"{error}: {len(untold)} tasks, {dict(list(stories.items())[:5])}") from None
        return found

    def _check_events(self, stored: list[CloudEvent]) -> None:
        twice = [key for key, count in Counter(event.id for event in stored).items() if count > 1]
        assert not twice, f"events that are stored twice: {twice[:5]}"
        ends = Counter(event.subject for event in stored if event.type in ENDS)
        assert set(ends.values()) == {1}, "the end of a task is told once"
        ids, followed = [event.id for event in stored], [event.id for event in self.followed]
        missed = set(ids[ids.index(followed[0]) :]) - set(followed)
        assert len(set(followed)) == len(followed), "the follower saw an event twice"
        assert not missed, f"the follower missed {len(missed)} events"


@asynccontextmanager
async def users_of(stack: Stack) -> AsyncIterator[Users]:
    """Users of a stack whose coordinator and nodes run."""
    async with connect(creds=stack.folder / "fog.creds", submitter="load") as fleet:
        made = Users(stack, fleet)
        made.begin()
        try:
            yield made
        finally:
            for task in made._tasks:
                task.cancel()
            await asyncio.gather(*made._tasks, return_exceptions=True)
