"""Placing: a task's message goes into a node's queue, or to the waiting place. Bounded in bytes.

Bodies that are under way to the broker are held by nobody else, and stand before the lease's renewal in the socket; so
only `PLACING_BYTES` of them are under way at a time. What is for nodes goes before what only moves to the waiting place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Raw

from coordinator.bodies import Bodies
from coordinator.core.actions import Place
from coordinator.core.events import Event, Placed, PlaceFailed, Source
from coordinator.fenced import AGAIN_S
from coordinator.remover import STREAM_OF
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError
from schemas.store import Ack, Store
from schemas.task import Outcome, Work

log = logging.getLogger("fog.coordinator")

GIVE_UP_S = 30.0
PLACING_BYTES = 16 << 20  # of bodies under way; at 100 MB/s the lease's renewal waits 0.2 s behind them
READING_BYTES = limits.TASK_MAX  # what a body that is being read may have, until it is here

_work = Decoder(Work)
_outcome = Decoder(Outcome)


class Placer:
    """Stores tasks as WORK; each answer goes to `hand_on`. `spawn` runs what waits, until the term ends."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        bodies: Bodies,
        hand_on: Callable[[Event], None],
        term: int,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._bus, self._store, self._bodies = bus, store, bodies
        self._hand_on, self._term, self._spawn = hand_on, term, spawn
        self._to_nodes: deque[Place] = deque()
        self._to_wait: deque[Place] = deque()
        self._bytes = 0  # under way

    @property
    def full(self) -> bool:
        """Whether as much is under way as may be: no more tasks need come in."""
        return self._bytes >= PLACING_BYTES

    def place(self, place: Place) -> None:
        """Store it, or as soon as there is room."""
        (self._to_wait if place.node == subjects.WAITING else self._to_nodes).append(place)
        self._pump()

    def stop(self) -> None:
        """What was not said yet is not said any more."""
        self._to_nodes.clear()
        self._to_wait.clear()

    def _pump(self) -> None:
        while self._bytes < PLACING_BYTES and (queue := self._to_nodes or self._to_wait):
            place = queue.popleft()
            body = self._bodies.get(place.task)
            if body is None:
                self._bytes += READING_BYTES
                self._spawn(self._place_by_reading(place))
            else:
                self._publish(place, body)

    def _back(self, size: int) -> None:
        """So much is no longer under way."""
        self._bytes -= size
        if self._to_nodes or self._to_wait:
            self._pump()

    async def _place_by_reading(self, place: Place) -> None:
        """The body is kept here no longer: read it from where the task lies now."""
        placement = place.history.placement
        try:
            body = await self.read_body(place.source)
            if body is None:
                self._hand_on(PlaceFailed(place.task, placement, "its message is gone", gone=place.source))
            else:
                self._publish(place, body)
        except FogError as error:
            self._hand_on(PlaceFailed(place.task, placement, error.message))
        finally:
            self._back(READING_BYTES)

    async def read_body(self, source: Source) -> bytes | None:
        """The submitted task that lies at `source`; None when nothing lies there."""
        message = await jetstream.get_message(self._bus, STREAM_OF[source.stream], seq=source.seq)
        return None if message is None else _body_of(source.stream, message.data)

    def _publish(self, place: Place, body: bytes) -> None:
        work = Work(
            Raw(body),
            place.history,
            self._term,
            place.deadline_at,
            place.result_by,
            place.not_before,
            place.reason[: limits.REASON_MAX],
        )
        data = encode(work)
        subject = subjects.work(place.node, place.task)
        self._bytes += len(data)
        msg_id = f"{place.task}.{place.history.placement}"
        self._store.post(
            subject, data, msg_id, self._answered, about=(place, len(data)), give_up_s=GIVE_UP_S, in_row=True
        )

    def _answered(self, about: tuple[Place, int], answer: Ack | FogError) -> None:
        place, size = about
        task, placement = place.task, place.history.placement
        if not isinstance(answer, Ack):
            self._hand_on(PlaceFailed(task, placement, answer.message, final=isinstance(answer, BadInput)))
        elif answer.duplicate:
            self._spawn(self._look_at(subjects.work(place.node, task), task, placement, answer.seq))
        else:
            self._bodies.loosen(task)
            self._hand_on(Placed(task, placement, answer.seq))
        self._back(size)

    async def _look_at(self, subject: str, task: str, placement: int, seq: int) -> None:
        """*Duplicate* does not mean placed: it tells where the earlier one was stored. Is it there still, and for this node?"""
        wait_s = AGAIN_S[0]
        while True:
            try:
                message = await jetstream.get_message(self._bus, streams.WORK, seq=seq)
                break
            except FogError:
                await asyncio.sleep(wait_s)
                wait_s = min(AGAIN_S[1], 2 * wait_s)
        self._hand_on(Placed(task, placement, seq, _found(message, subject, task)))


def _found(message: jetstream.StoredMessage | None, subject: str, task: str) -> str:
    if message is None or not message.subject.endswith("." + task):
        return "gone"
    return "there" if message.subject == subject else "elsewhere"


def _body_of(stream: str, data: bytes) -> bytes:
    """The submitted task that a message of this stream carries."""
    if stream == "work":
        return bytes(_work(data).task)
    return bytes(_outcome(data).task) if stream == "outcomes" else data
