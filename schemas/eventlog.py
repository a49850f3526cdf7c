"""Saying events so that none is lost and saying one costs next to nothing.

Events go out without asking for an answer; the last of each batch asks. The broker handles one connection's messages to
a stream in order, so its answer confirms the batch. Without one (a reconnect, a broker that restarts, an election among
several) each event of the batch is said again, with an answer of its own; ids made from what happened (``Nats-Msg-Id``)
keep it from being stored twice within the duplicate window.

FOG_EVENTS may be persisted a few milliseconds after it confirms. So what was confirmed lately is kept, and said again after
every reconnect: a broker that was killed with it stores it then, any other knows it by its ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from msgspec import Struct

from schemas import subjects
from schemas.bus import Bus, with_headers
from schemas.codec import encode
from schemas.errors import FogError
from schemas.event import EVENTS, CloudEvent, rfc3339
from schemas.store import RETRY_S, Ack, Store

log = logging.getLogger("fog.events")

BATCH = 500  # events of one batch
GATHER_S = 0.02  # events wait this long for company: a stored message costs the broker a fifth when it comes in a row
ROOM = 1024  # bytes of a message's limit that its subject and headers may take
SAID_KEPT_S = 2.0  # confirmed events are kept this long, a hundred times what the broker takes to persist them, and
SAID_KEPT = 10_000  # at most so many
KEPT = 20_000  # unconfirmed events kept while the broker does not answer; older ones are dropped and counted


_KINDS = {kind: (data, f"fog.{kind}", subjects.event(kind, "")) for kind, (data, _) in EVENTS.items()}


class EventLog:
    """Events of one source (``/fog/coordinator/<id>``, ``/fog/node/<id>``)."""

    def __init__(self, bus: Bus, store: Store, source: str) -> None:
        self._bus, self._store, self._source = bus, store, source
        self._pending: deque[tuple[str, bytes, str]] = deque(maxlen=KEPT)
        self._confirming: list[tuple[str, bytes, str]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._said: deque[tuple[float, list[tuple[str, bytes, str]]]] = (
            deque()
        )  # batches, with when they were confirmed
        self._said_kept = 0  # events in them
        bus.when_back(self._say_again)
        self._second = (-1, "")
        self._milli = (-1, "")  # events come by the dozen in each
        self._loop = asyncio.get_running_loop()
        self._body_max = bus.max_payload - ROOM
        self.term = 0
        self.lost = 0

    def emit(self, kind: str, about: str, key: str, data: Struct, at: float) -> None:
        """Say that `kind` (a key of `event.EVENTS`) happened to `about`. The same `key` is the same event."""
        wanted, name, prefix = _KINDS[kind]
        if type(data) is not wanted:
            raise TypeError(f"{kind} carries {wanted.__name__}, not {type(data).__name__}")
        # By position: half the cost of names, three times a task.
        event = CloudEvent(key, self._source, name, self._stamp(at), data, "1.0", about, "application/json", self.term)
        body = encode(event)
        if len(body) > self._body_max:  # the broker would end the connection for it
            log.error("an event is too large to be said kind=%s about=%s bytes=%d", kind, about, len(body))
            self.lost += 1
            return
        pending = self._pending
        if len(pending) == KEPT:
            self.lost += 1
        pending.append((prefix + about, body, key))
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self._on_timer)
        elif len(pending) >= BATCH and self._confirming is None:
            self._confirm()

    def _stamp(self, at: float) -> str:
        """`event.rfc3339`, with the second kept: events come by the thousand in each."""
        millis = int(at * 1000)
        if millis != self._milli[0]:
            second = millis // 1000
            if second != self._second[0]:
                self._second = (second, rfc3339(second)[:-4])
            self._milli = (millis, f"{self._second[1]}{millis % 1000:03d}Z")
        return self._milli[1]

    def _on_timer(self) -> None:
        self._timer = None
        self._due = True
        if self._confirming is None:
            self._confirm()

    def _confirm(self) -> None:
        """Send a batch; its last message asks for the broker's answer, and is retried by the store until it comes."""
        batch = list(self._pending)
        self._pending.clear()
        self._due = False
        if not batch:
            return
        self._confirming = batch
        lost_before = self._bus.dropped
        self._bus.publish_ready(
            [with_headers(subject, "", f"Nats-Msg-Id: {key}\r\n".encode(), body) for subject, body, key in batch[:-1]]
        )
        subject, body, key = batch[-1]
        reconnects = self._bus.reconnects

        began = self._loop.time()

        def on_answer(answer: Ack | FogError) -> None:
            if isinstance(answer, FogError):
                self._refused(answer, len(batch))
            elif self._bus.reconnects != reconnects or self._bus.dropped != lost_before:
                self._confirm_each(batch)  # some of it may have gone with the old connection
                return
            elif self._loop.time() - began >= RETRY_S:
                self._confirm_each(
                    batch
                )  # perhaps only the last was said again, to a leader that had not heard the rest
                return
            self._confirmed(batch)

        self._store.post(subject, body, key, on_answer)

    def _confirm_each(self, batch: list[tuple[str, bytes, str]]) -> None:
        """Say every event of a batch with an answer of its own: what was stored before is known by its id."""
        left = len(batch)

        def on_answer(answer: Ack | FogError) -> None:
            nonlocal left
            left -= 1
            if isinstance(answer, FogError):
                self._refused(answer, 1)
            if not left:
                self._confirmed(batch)

        for subject, body, key in batch:
            self._store.post(subject, body, key, on_answer)

    def _refused(self, answer: FogError, count: int) -> None:
        log.error("events were refused error=%s", answer.message)
        self.lost += count

    def _confirmed(self, batch: list[tuple[str, bytes, str]]) -> None:
        self._confirming = None
        self._keep(batch)
        if self._due or len(self._pending) >= BATCH:
            self._confirm()

    def _keep(self, batch: list[tuple[str, bytes, str]]) -> None:
        now = asyncio.get_running_loop().time()
        said = self._said
        said.append((now, batch))
        self._said_kept += len(batch)
        while said[0][0] < now - SAID_KEPT_S or (self._said_kept > SAID_KEPT and len(said) > 1):
            self._said_kept -= len(said.popleft()[1])

    def _say_again(self) -> None:
        room = KEPT - len(self._pending)
        latest = [event for _, batch in self._said for event in batch][-room:] if room else []
        self._pending.extendleft(reversed(latest))
        self._said.clear()
        self._said_kept = 0
        self._on_timer()

    def close(self) -> None:
        """This source says no more."""
        self._bus.no_longer(self._say_again)
        if self._timer is not None:
            self._timer.cancel()
        self._pending.clear()
        self._said.clear()

    @property
    def quiet(self) -> bool:
        """Whether all that was said is confirmed."""
        return self._confirming is None and not self._pending

    async def drain(self, timeout_s: float) -> bool:
        """Send what is left and wait for the broker's answers to all that the store holds; False after `timeout_s`."""
        self._due = True
        if self._confirming is None:
            self._confirm()
        return await self._store.drain(timeout_s)
