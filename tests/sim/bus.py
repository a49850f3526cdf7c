"""A process's connection to the world's broker, in the place of `schemas.bus.Bus`: the same promises, kept by the world.

Requests, replies and their deadlines are `Bus`'s own code; only what touches the socket is made here. Messages of one
connection keep their order; what is published while it is down is dropped, as there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from schemas.bus import Bus, OnMessage
from schemas.errors import Unreachable
from schemas.nats_py import backoff_s
from tests.sim.broker import Broker, Connection, Sub
from tests.sim.clock import Loop

PAYLOAD_MAX = 1 << 20


class SimSubscription:
    """A live subscription; `close()` ends it."""

    def __init__(self, bus: SimBus, sub: Sub) -> None:
        self._bus, self._sub = bus, sub

    async def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self._bus.unlisten(self._sub)


class SimBus(Bus):
    """One connection that comes back by itself. `delay_s` is the one-way delay of its link, `mark` makes its inboxes."""

    def __init__(self, broker: Broker, loop: Loop, name: str, mark: str, delay_s: float) -> None:
        self.broker, self.loop, self.name, self.delay_s = broker, loop, name, delay_s
        self._mark = mark
        self.connection: Connection | None = None
        self.about_to_say: Callable[[str], None] | None = None
        self.cut = False  # no way to the broker: a new connection cannot be made
        self._replies = {}
        self._count = 0
        self._up = False
        self._closing = False
        self._on_lost, self._on_back, self._on_closed = [], [], []
        self.closed_for = ""
        self.dropped = 0
        self._reconnects = 0
        self._subs: list[Sub] = []
        self._inboxes = 0
        self._held: list[tuple[Any, ...]] = []  # written by a process that was stopped before its socket took it
        self._inbox = self.new_inbox() + "."
        loop.on_wake.append(self._let_go)

    def open(self) -> bool:
        """Try to connect, once."""
        if self.cut:
            return False
        self.connection = self.broker.connect(self, self.name, self.delay_s)
        if self.connection is None:
            return False
        self._up = True
        for sub in self._subs:
            self._listen(sub)
        return True

    # What `Bus` promises.

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def encrypted(self) -> bool:
        return False

    @property
    def max_payload(self) -> int:
        return PAYLOAD_MAX

    @property
    def server_version(self) -> str:
        return "2.15.1"

    @property
    def clustered(self) -> bool:
        return False

    @property
    def reconnects(self) -> int:
        return self._reconnects

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"", lazy: bool = False) -> None:
        connection = self.connection
        if self.about_to_say is not None:
            self.about_to_say(subject)
        if connection is None or not self._up:
            self.dropped += 1
        elif self.loop.stalled:
            self._held.append((connection, subject, reply, data, headers))
        else:
            connection.up(self.broker.publish, connection, subject, reply, data, headers)

    def publish_ready(self, messages: list[bytes]) -> None:
        """Events without an answer: nobody in the world listens to them."""
        if not self._up:
            self.dropped += 1

    def _let_go(self) -> None:
        held, self._held = self._held, []
        for connection, subject, reply, data, headers in held:
            if connection is self.connection:
                connection.up(self.broker.publish, connection, subject, reply, data, headers)

    async def subscribe(self, subject: str, fn: OnMessage) -> Any:
        return self.listen(subject, fn)

    def listen(self, subject: str, fn: OnMessage) -> SimSubscription:
        sub = Sub(subject, fn)
        self._subs.append(sub)
        self._listen(sub)
        return SimSubscription(self, sub)

    def _listen(self, sub: Sub) -> None:
        if self.connection is not None and self._up:
            self.connection.up(self.broker.subscribe, self.connection, sub)

    def unlisten(self, sub: Sub) -> None:
        sub.live = False
        if sub in self._subs:
            self._subs.remove(sub)
            if self.connection is not None and self._up:
                self.connection.up(self.broker.unsubscribe, self.connection, sub)

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX_{self._mark}.{self._inboxes}"

    def object_store(self, bucket: str) -> Any:
        """No task of a world carries so much."""
        return None

    def ping_along(self, next_s: float) -> None:
        """Links here are cut for all to see."""

    async def flush(self, timeout_s: float = 5.0) -> None:
        if not self._up:
            raise Unreachable("the broker does not answer")

    async def close(self) -> None:
        self._closing = True
        self._up = False
        connection, self.connection = self.connection, None
        if connection is not None and connection.open:
            connection.client_died(2 * connection.delay_s)

    # Losing it.

    def lost(self, connection: Connection) -> None:
        """The connection broke: told, and tried again until it is back."""
        if connection is not self.connection or self._closing:
            return
        self.connection = None
        self._up = False
        for fn in self._on_lost:
            fn()
        self.loop.call_later(backoff_s(0), self._again, 1)

    def _again(self, attempt: int) -> None:
        if self._closing or self._up:
            return
        if not self.open():
            self.loop.call_later(backoff_s(attempt), self._again, attempt + 1)
            return
        if not self._inbox_heard():
            self.listen(self._inbox + "*", self._on_reply)
        self._reconnects += 1
        for fn in tuple(self._on_back):
            fn()

    def _inbox_heard(self) -> bool:
        return any(sub.subject == self._inbox + "*" for sub in self._subs)


async def connect(
    bus: SimBus, on_lost: Callable[[], None] | None, on_back: Callable[[], None] | None, *, wait: bool
) -> SimBus:
    """As `Bus.connect`: with `wait` it is tried until it stands."""
    attempt = 0
    while not bus.open():
        if not wait:
            raise Unreachable("no broker")
        await asyncio.sleep(random.uniform(0.5, 1.0) * backoff_s(attempt))
        attempt += 1
    bus.listen(bus._inbox + "*", bus._on_reply)
    bus._on_lost += [on_lost] if on_lost else []
    bus._on_back += [on_back] if on_back else []
    return bus
