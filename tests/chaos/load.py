"""What the fleet has to do while its parts are killed: tasks of every kind, without a pause, never more than it can bear."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

import client
from client.mapping import MapItem
from schemas.errors import FogError, Refused
from schemas.names import new_id
from schemas.task import Task, TaskPriority
from tests.integration.stack import Stack

OPEN_MAX = 120  # tasks without a result
PACE_S = 0.02  # between two submissions
ITEMS = 400  # of one map


class Load:
    """Submits until `stop`. `kinds` says what each acknowledged task is, `tasks` holds it, `stopped` those that were
    cancelled, `length` is the factor of long ones, `wrong` what a map gave that it should not."""

    def __init__(self, fleet: Stack, rng: random.Random, length: float = 1.0) -> None:
        self.fleet, self.rng, self.length = fleet, rng, length
        self.kinds: dict[str, str] = {}
        self.tasks: dict[str, Task] = {}
        self.cancelled: set[str] = set()
        self.maps: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._on = True
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin."""
        self._spawn(self._submit_all())
        self._spawn(self._map_all())

    async def stop(self) -> None:
        """Submit no more, and wait until what was begun is through."""
        self._on = False
        await asyncio.gather(*self._running)

    def _spawn(self, coroutine: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _submit_all(self) -> None:
        while self._on:
            if len(self.kinds) - sum(task in self.fleet.results for task in self.kinds) < OPEN_MAX:
                kind, task = self.next()
                self._spawn(self._put(kind, task))
            await asyncio.sleep(PACE_S)

    async def _put(self, kind: str, task: Task) -> None:
        """Submit until it is acknowledged; from then on it counts."""
        await self.fleet.put(task)
        self.kinds[task.id], self.tasks[task.id] = kind, task
        if kind == "cancelled":
            await asyncio.sleep(self.rng.uniform(0, 3))
            await self._cancel(task.id)

    async def _cancel(self, task: str) -> None:
        """Ask until its end is recorded: an answer alone may go with the coordinator that gave it."""
        while task not in self.fleet.results:
            try:
                await self.fleet.cancel(task)
            except Refused as refused:
                if refused.code == "done":
                    return
            except FogError:
                pass
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while task not in self.fleet.results:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)

    def next(self) -> tuple[str, Task]:
        """A task of some kind. Steady ones run on the node that is never killed."""
        rng, name = self.rng, new_id("t")
        priority = rng.choice(list(TaskPriority))
        kinds = {
            "short": 50, "long": 3, "steady": 2, "flaky": 10, "hopeless": 4, "deadly": 4, "fatal": 2,
            "cancelled": 6, "expires": 4, "overdue": 2,
        }  # fmt: skip
        kind = rng.choices(list(kinds), list(kinds.values()))[0]

        def make(function: str, *args: object, **fields: object) -> Task:
            return self.fleet.make(function, name, *args, task=name, priority=priority, cores=0.25, **fields)

        match kind:
            case "short":
                return kind, make("work", rng.choice([0.0, 0.01, 0.1]))
            case "long":
                return kind, make("work", self.length * rng.uniform(2, 8))
            case "steady":
                return kind, make("work", self.length * rng.uniform(5, 20), node="n0")
            case "flaky":
                return kind, make("flaky", rng.randint(1, 2), 0.02, retries=3, backoff_s=rng.choice([0.1, 0.8, 3.0]))
            case "hopeless":
                return kind, make("flaky", 99, 0.01, retries=rng.randint(0, 2), backoff_s=0.2)
            case "deadly":
                return kind, make("deadly", 1, retries=2, backoff_s=0.1)
            case "fatal":
                return kind, make("deadly", 99, retries=1, backoff_s=0.1)
            case "cancelled":
                return kind, make("work", 600.0)
            case "expires":
                return kind, make("work", 0.0, deadline_s=rng.uniform(0.3, 5), labels={"pool": "nowhere"})
        return kind, make("work", 600.0, deadline_s=rng.uniform(1, 5))

    # Maps

    async def _map_all(self) -> None:
        async with client.connect(creds=self.fleet.folder / "fog.creds", submitter="mapper") as fleet:
            while self._on:
                first = self.rng.randrange(1000) * ITEMS
                try:
                    items = [item async for item in fleet.map("dig", list(range(first, first + ITEMS)), cores=0.25)]
                except FogError as error:  # whoever would say what is offered was killed
                    self.maps[f"refused: {error.message[:60]}"] += 1
                    await asyncio.sleep(0.2)
                else:
                    self.maps["maps"] += 1
                    self._check(first, items)

    def _check(self, first: int, items: list[MapItem]) -> None:
        """Every item once, with its value; the one that kills has its error."""
        want = [(i, None if (first + i) % ITEMS == 37 else 2 * (first + i)) for i in range(ITEMS)]
        got = [(item.index, item.value) for item in items]
        if got != want:
            odd = [f"{w} → {g}" for w, g in zip(want, got, strict=False) if w != g][:3]
            self.wrong.append(f"a map of {len(items)} items: {odd}")
        for item in items:
            if (item.error is not None) != (item.value is None):
                self.wrong.append(f"item {item.index}: {item.error}")


def folder_of(fleet: Stack) -> Path:
    """Where the functions keep their journal."""
    return fleet.folder / "chaos"
