"""Taking messages from a pull consumer: requests kept open ahead of need, so that nothing waits for a round trip.

Each request has a reply subject of its own, so that the broker's status messages (408 expired, 409 deleted, 503 nobody
there) end the right one. What the broker forgot to end is given up by the watch a little after its expiry. Of several
servers, one that is killed takes the requests to the consumers that it led with it: the election of another is told.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from schemas.bus import Bus, Subscription, status_of

log = logging.getLogger("fog.pull")

EXPIRES_S = 20
WATCH_S = 0.5
MISSING_RETRY_S = (0.1, 2.0)


class Message:
    """One delivery. `seq`, `delivered` and `stored_at` come from the reply subject, which also acks it."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        self.subject, self.reply, self.data, self.headers = subject, reply, data, headers

    def place(self) -> tuple[int, int, float]:
        """`seq`, `delivered` and `stored_at` in one look.

        ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>``; from a broker with domains
        ``$JS.ACK.<domain>.<account>.<stream>.….<pending>.<token>``.
        """
        tokens = self.reply.split(".")
        first = 4 if len(tokens) < 12 else 6
        return int(tokens[first + 1]), int(tokens[first]), int(tokens[first + 3]) / 1e9

    def delivery(self) -> tuple[str, int]:
        """The consumer, and the number of this delivery by it: 1, 2, 3, … A gap is a delivery that was lost on its way."""
        tokens = self.reply.split(".")
        first = 4 if len(tokens) < 12 else 6
        return tokens[first - 1], int(tokens[first + 2])

    @property
    def seq(self) -> int:
        """Its sequence in the stream."""
        return self.place()[0]

    @property
    def delivered(self) -> int:
        """How often this consumer has delivered it; 1 is the first time."""
        return self.place()[1]

    @property
    def stored_at(self) -> float:
        """When the broker stored it, seconds since 1970."""
        return self.place()[2]

    def ack(self, bus: Bus) -> None:
        """It is done and leaves the work queue. Not waited for: a lost ack is a redelivery."""
        bus.publish(self.reply, b"", lazy=True)

    def term(self, bus: Bus, reason: str) -> None:
        """It can never be handled: leaves the work queue."""
        bus.publish(self.reply, b"+TERM " + reason.encode()[:200])


def ack(bus: Bus, reply: str) -> None:
    """Ack by reply subject alone."""
    bus.publish(reply, b"", lazy=True)


def progress(bus: Bus, reply: str) -> None:
    """Say that the message is being worked on: its ack_wait starts anew."""
    bus.publish(reply, b"+WPI")


class _Request:
    __slots__ = ("ends", "left")

    def __init__(self, left: int, ends: float) -> None:
        self.left, self.ends = left, ends


class Puller:
    """Keeps up to ``2 × batch`` messages asked for, never more than `room()` says, and gives each to `on_message`.

    `on_missing` is awaited when the consumer is gone, to make it anew. `on_message` must not raise or block.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        on_message: Callable[[Message], None],
        *,
        batch: int,
        on_missing: Callable[[], Awaitable[None]],
        room: Callable[[], int] | None = None,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self.rename(consumer)
        self._elected = f"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{stream}.{consumer}"
        self._on_message = on_message
        self._batch = batch
        self._on_missing = on_missing
        self._room = room
        self._requests: dict[str, _Request] = {}
        self._asked = 0
        self._count = 0
        self._inbox = ""
        self._subscriptions: list[Subscription] = []
        self._watcher: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._paused = False
        self._loop = asyncio.get_running_loop()
        bus.when_back(self.restart)

    def rename(self, consumer: str) -> None:
        """Ask another consumer from the next `restart` on; for `on_missing`, which has made it."""
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"

    async def start(self) -> None:
        """Begin to ask."""
        self._inbox = self._bus.new_inbox() + "."
        self._subscriptions = [
            await self._bus.subscribe(self._inbox + "*", self._arrived),
            await self._bus.subscribe(self._elected, lambda *_: self.restart()),
        ]
        self._watcher = self._loop.create_task(self._watch())
        self.ask()

    async def stop(self) -> None:
        """Ask no more and listen no more; what is on its way is redelivered to somebody else in time."""
        self._paused = True
        self._bus.no_longer(self.restart)
        for task in (self._watcher, self._mending):
            if task is not None:
                task.cancel()
        for subscription in self._subscriptions:
            await subscription.close()

    def pause(self) -> None:
        """Ask no more; what was asked for may still come."""
        self._paused = True

    def resume(self) -> None:
        """Ask again."""
        self._paused = False
        self.ask()

    def restart(self) -> None:
        """The link was down, or another server leads the consumer now: all requests are void."""
        self._requests.clear()
        self._asked = 0
        self.ask()

    def ask(self) -> None:
        """Ask for as many more as there is room for. Call it when room appears."""
        while not self._paused and self._mending is None and self._bus.connected and self._inbox:
            want = min(2 * self._batch - self._asked, self._batch)
            if want > 0 and self._room is not None:
                want = min(want, self._room() - self._asked)
            # While something is asked for, a small top-up is not worth a request: room comes back one by one.
            if want <= 0 or (self._asked and want * 4 < self._batch):
                return
            self._count += 1
            key = f"{self._count:x}"
            self._requests[key] = _Request(want, self._loop.time() + EXPIRES_S + 5)
            self._asked += want
            body = b'{"batch":%d,"expires":%d}' % (want, EXPIRES_S * 1_000_000_000)
            self._bus.publish(self._subject, body, reply=self._inbox + key)

    def _arrived(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        # A delivery keeps its own subject and says which request it answers only by the subscription; with one
        # subscription for all requests, the oldest open one is charged, which is the one that the broker serves.
        if not reply and headers:
            self._status(subject[len(self._inbox) :], status_of(headers), headers)
            return
        self._charge()
        self._on_message(Message(subject, reply, data, headers))
        if self._asked <= self._batch:
            self.ask()

    def _charge(self) -> None:
        for key, request in self._requests.items():
            request.left -= 1
            self._asked -= 1
            if request.left <= 0:
                del self._requests[key]
            return

    def _end(self, key: str) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            self._asked -= request.left

    def _status(self, key: str, status: int, headers: bytes) -> None:
        if status == 100:
            return
        self._end(key)
        missing = (
            status == 503 or (status == 409 and b"Deleted" in headers) or (status == 404 and b"onsumer" in headers)
        )
        if missing:
            self.renew()
        elif status in (404, 408):
            self.ask()
        # other 409s (too many waiting, a leader change): the watch asks again

    def renew(self) -> None:
        """Have the consumer made anew (`on_missing`), and ask it."""
        if self._mending is None and not self._paused:
            self._mending = self._loop.create_task(self._mend())

    async def _mend(self) -> None:
        wait_s = MISSING_RETRY_S[0]
        while True:
            try:
                await self._on_missing()
                break
            except Exception as error:  # whatever it is, a puller that gives up would stop everything
                log.warning("cannot make the consumer anew subject=%s error=%s", self._subject, error)
                await asyncio.sleep(random.uniform(0.5, 1.0) * wait_s)
                wait_s = min(MISSING_RETRY_S[1], wait_s * 2)
        self._mending = None
        self.restart()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._loop.time()
            for key in [k for k, r in self._requests.items() if now > r.ends]:
                self._end(key)
            self.ask()
