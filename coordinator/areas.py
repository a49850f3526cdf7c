"""What the service does beside its tasks, in areas: each a small machine in core/ and a thin shell that is an `Area`.

An area lives for one term. It begins once the coordinator acts, so that it never delays the tasks' takeover, and it is told
which nodes changed after each turn and that time passed. A fault in one stops nothing else: it is logged, and that area
begins anew from what the broker holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from msgspec import Struct

from coordinator.core.events import Event
from coordinator.core.nodeview import NodeView
from coordinator.inbound import Bad
from coordinator.refusal import Refusal
from schemas.bus import Bus
from schemas.errors import FogError
from schemas.eventlog import EventLog
from schemas.logs import fields
from schemas.store import Store

log = logging.getLogger("fog.areas")

AGAIN_S = 1.0  # between two attempts to begin

Answer = Callable[[Any], Awaitable[Struct]]
Endpoints = dict[str, tuple[type, Answer]]


@dataclass(frozen=True, slots=True)
class Term:
    """What an area may use: the broker, and what the tasks' core knows of the nodes (to read, never to change)."""

    bus: Bus
    store: Store
    events: EventLog
    bad: Bad
    clock: Callable[[], float]  # seconds since 1970
    number: int
    coordinator: str
    may: Callable[[], bool]  # whether the lease is valid: nothing may be written or commanded otherwise
    nodes: Mapping[str, NodeView]
    hand_on: Callable[[Event], None]  # tell the tasks' core
    relay_from: float = inf  # nodes from which on heartbeats go by way of the clusters' leaders


class Area:
    """One area of one term. Nothing is called before `start` returned, nor after `stop`."""

    name = ""

    def __init__(self, term: Term) -> None:
        self.term = term
        self.fault: Exception | None = None  # set by an area that can only go on by beginning anew
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside the rest, until `stop`. What raises may be what the machine waits for: the area then begins anew."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.fault = error

    def endpoints(self) -> Endpoints:
        """The requests ``api.<noun>.<verb>`` that it answers: ``{"<noun>.<verb>": (request type, answer)}``.

        An answer returns a Struct, or raises `Refusal`.
        """
        return {}

    async def start(self) -> None:
        """Read what the broker holds, subscribe. Called again after a FogError, on a new object after a fault."""

    def changed(self, nodes: Collection[str], now: float) -> None:
        """These nodes joined, changed their state, offer or fitness, or are forgotten (no longer in `term.nodes`).

        All nodes at first, right after `start`."""

    def tick(self, now: float) -> None:
        """Time passed: called about twice a second."""

    async def stop(self) -> None:
        """The term is over, or this object is given up: close subscriptions, cancel what runs. Publish nothing."""
        for task in self._tasks:
            task.cancel()


class Areas:
    """The areas of one term, each kept running whatever the others do."""

    def __init__(self, kinds: Collection[type[Area]], term: Term) -> None:
        self._keepers = [_Keeper(kind, term) for kind in kinds]

    def endpoints(self) -> Endpoints:
        """The requests of all areas; one that has not begun answers ``not-ready``."""
        return {name: row for keeper in self._keepers for name, row in keeper.endpoints().items()}

    def start(self) -> None:
        """Begin all of them, in the background."""
        for keeper in self._keepers:
            keeper.begin()

    def changed(self, nodes: Collection[str], now: float) -> None:
        """Tell them which nodes changed."""
        for keeper in self._keepers:
            keeper.tell(lambda area: area.changed(nodes, now))

    def tick(self, now: float) -> None:
        """Tell them that time passed."""
        for keeper in self._keepers:
            keeper.tell(lambda area: area.tick(now))

    async def stop(self) -> None:
        """The term is over."""
        for keeper in self._keepers:
            await keeper.stop()


class _Keeper:
    """Keeps one area running."""

    def __init__(self, kind: type[Area], term: Term) -> None:
        self._kind, self._term = kind, term
        self._area: Area | None = None  # None until it has begun
        self._beginning: asyncio.Task[None] | None = None

    def endpoints(self) -> Endpoints:
        return {name: (kind, self._answer(name)) for name, (kind, _) in self._kind(self._term).endpoints().items()}

    def _answer(self, name: str) -> Answer:
        async def answer(request: Any) -> Struct:
            if self._area is None:
                raise Refusal("not-ready", f"{self._kind.name} is still being read", "ask again in a second")
            return await self._area.endpoints()[name][1](request)

        return answer

    def begin(self) -> None:
        self._beginning = asyncio.get_running_loop().create_task(self._begin())

    async def _begin(self) -> None:
        while True:
            area = self._kind(self._term)
            try:
                await area.start()
                area.changed(list(self._term.nodes), self._term.clock())
                self._area = area
                return
            except FogError as error:
                log.warning("an area cannot begin yet", extra=fields(area=area.name, error=error.message))
            except Exception:
                log.exception("an area could not begin", extra=fields(area=area.name))
            await area.stop()
            await asyncio.sleep(AGAIN_S)

    def tell(self, what: Callable[[Area], None]) -> None:
        area = self._area
        if area is None:
            return
        try:
            if area.fault is not None:
                raise area.fault
            what(area)
            return
        except FogError as error:  # a conflict, a term that is over: it is what it began with that no longer holds
            log.warning("an area begins anew", extra=fields(area=area.name, error=error.message))
        except Exception:
            log.exception("an area begins anew after a fault", extra=fields(area=area.name))
            self._term.bad.add("area", area.name, "a fault: the coordinator's log says where")
        self._area = None
        self._beginning = asyncio.get_running_loop().create_task(self._anew(area))

    async def _anew(self, failed: Area) -> None:
        await failed.stop()
        await asyncio.sleep(AGAIN_S)
        await self._begin()

    async def stop(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
        area, self._area = self._area, None
        if area is not None:
            await area.stop()
