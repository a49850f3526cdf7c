"""Taking messages from a pull consumer: requests kept open ahead of need, so that nothing waits for a round trip.

A delivery keeps its own subject, so each open request has a subscription to itself, a *lane*, which tells whose it is; and
a reply subject of its own, so that the broker's status messages (408 expired, 409 deleted or too large, 503 nobody there)
end the right one. What the broker forgot to end is given up by the watch a little after its expiry. Of several servers, one
that is killed takes the requests to the consumers that it led with it: the election of another is told.

What is asked for is bounded in messages and in bytes: what the broker has for a connection and cannot write at once counts
against its `max_pending` (64 MiB), beyond which it cuts the connection as a slow consumer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct

from schemas.bus import Bus, Subscription, status_of

log = logging.getLogger("fog.pull")

EXPIRES_S = 20
PATIENT_S = 120  # where each end of a request wakes a phone's radio
LANES = 4  # requests that may be open: the broker serves them in turns, so two would be used up at the same moment
BATCH_BYTES = (
    2 << 20
)  # of one request; of a broker that takes larger messages, the size of one: less would never be served
ROOM = 4096  # beyond the payload: the subject and the ack's reply subject count, too
ASK_EVERY = 8  # messages: room comes back one by one, and a small top-up is not worth a request
WATCH_S = 0.5
MISSING_RETRY_S = (0.1, 2.0)
DELETED_S = 0.1  # the broker says that a consumer is deleted while it still deletes it; one made meanwhile goes with it
_BODY = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}'


class Message(Struct, gc=False):
    """One delivery. `seq`, `delivered` and `stored_at` come from the reply subject, which also acks it."""

    subject: str
    reply: str
    data: bytes
    headers: bytes

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
        return delivery_of(self.reply)

    @property
    def seq(self) -> int:
        """Its sequence in the stream."""
        return int(self.reply.rsplit(".", 5)[-4 if self.reply.count(".") < 11 else -5])

    @property
    def delivered(self) -> int:
        """How often this consumer has delivered it; 1 is the first time."""
        return self.place()[1]

    @property
    def stored_at(self) -> float:
        """When the broker stored it, seconds since 1970."""
        return self.place()[2]

    @property
    def pending(self) -> int:
        """How many more the consumer had to give when it gave this one."""
        tokens = self.reply.split(".")
        first = 4 if len(tokens) < 12 else 6
        return int(tokens[first + 4])

    def ack(self, bus: Bus) -> None:
        """It is done and leaves the work queue. Not waited for: a lost ack is a redelivery."""
        bus.publish(self.reply, b"", lazy=True)

    def term(self, bus: Bus, reason: str) -> None:
        """It can never be handled: leaves the work queue."""
        bus.publish(self.reply, b"+TERM " + reason.encode()[:200])


def delivery_of(reply: str) -> tuple[str, int]:
    """The consumer that a reply subject is of, and the number of the delivery."""
    tokens = reply.split(".")
    first = 4 if len(tokens) < 12 else 6
    return tokens[first - 1], int(tokens[first + 2])


def ack(bus: Bus, reply: str) -> None:
    """Ack by reply subject alone."""
    bus.publish(reply, b"", lazy=True)


def progress(bus: Bus, reply: str) -> None:
    """Say that the message is being worked on: its ack_wait starts anew."""
    bus.publish(reply, b"+WPI")


class _Request:
    """An open request. `left` messages and `bytes` may still come, counted as the broker counts them."""

    __slots__ = ("bytes", "ends", "key", "left")

    def __init__(self, key: str, left: int, size: int, ends: float) -> None:
        self.key, self.left, self.bytes, self.ends = key, left, size, ends


class Puller:
    """Keeps up to ``2 × batch`` messages asked for, never more than `room()` says, in up to LANES requests of BATCH_BYTES each,
    and gives each to `on_message`.

    `patient()` tells whether requests are to last longer. `on_missing` is awaited when the consumer is gone, to make it anew.
    `on_elected` hears that another server leads the consumer: acks that were sent to the one before may be lost.
    With `alive_s` a request of which nothing is heard for twice as long is given up.
    `on_message` must not raise or block.
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
        patient: Callable[[], bool] = lambda: False,
        alive_s: float = 0.0,
        on_elected: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self.rename(consumer)
        self._elected = f"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{stream}.{consumer}"
        self._on_message = on_message
        self._batch = batch
        self._bytes = max(BATCH_BYTES, bus.max_payload + ROOM)
        self._on_missing = on_missing
        self._room, self._patient, self._alive_s, self._on_elected = room, patient, alive_s, on_elected
        self._lanes: list[_Request | None] = [None] * LANES
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
            *[await self._bus.subscribe(f"{self._inbox}{n}.*", partial(self._arrived, n)) for n in range(LANES)],
            await self._bus.subscribe(self._elected, lambda *_: self._other_leader()),
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
        self._lanes = [None] * LANES
        self._asked = 0
        self.ask()

    def _other_leader(self) -> None:
        self.restart()
        self._on_elected()

    def ask(self) -> None:
        """Ask for as many more as there is room for. Call it when room appears."""
        if 4 * (2 * self._batch - self._asked) < self._batch:
            return  # enough is asked for, as most often: a small top-up waits
        while not self._paused and self._mending is None and self._bus.connected and self._inbox:
            if None not in self._lanes:
                return
            want = min(2 * self._batch - self._asked, self._batch)
            if want > 0 and self._room is not None:
                want = min(want, self._room() - self._asked)
            # While something is asked for, a small top-up waits.
            if want <= 0 or (self._asked and want * 4 < self._batch):
                return
            self._count += 1
            expires_s = PATIENT_S if self._patient() else EXPIRES_S
            lane, key = self._lanes.index(None), f"{self._count:x}"
            lasts_s = 2 * self._alive_s or expires_s + 5
            self._lanes[lane] = _Request(key, want, self._bytes, self._loop.time() + lasts_s)
            self._asked += want
            body = _BODY % (want, self._bytes, expires_s * 1_000_000_000, int(self._alive_s * 1e9))
            self._bus.publish(self._subject, body, reply=f"{self._inbox}{lane}.{key}")

    def _arrived(self, lane: int, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        if not reply and headers:
            self._status(lane, subject.rpartition(".")[2], status_of(headers), headers)
            return
        request = self._lanes[lane]
        if request is not None:  # else it was given up
            request.left -= 1
            request.bytes -= len(subject) + len(reply) + len(headers) + len(data)
            self._asked -= 1
            if self._alive_s:
                request.ends = self._loop.time() + 2 * self._alive_s
            if request.left <= 0 or request.bytes <= 0:
                self._end(lane)
        self._on_message(Message(subject, reply, data, headers))
        if self._asked <= self._batch and not self._asked % ASK_EVERY:
            self.ask()

    def _end(self, lane: int) -> None:
        request, self._lanes[lane] = self._lanes[lane], None
        if request is not None:
            self._asked -= request.left

    def _status(self, lane: int, key: str, status: int, headers: bytes) -> None:
        request = self._lanes[lane]
        if request is None or request.key != key:
            return
        if status == 100:
            request.ends = self._loop.time() + 2 * self._alive_s
            return
        self._end(lane)
        if status == 409 and b"Deleted" in headers:
            self.renew(DELETED_S)
        elif status == 503 or (status == 404 and b"onsumer" in headers):
            self.renew()
        elif status in (404, 408) or b"Exceeds MaxBytes" in headers or b"Batch Completed" in headers:
            self.ask()
        # other 409s (too many waiting, a leader change): the watch asks again

    def renew(self, after_s: float = 0.0) -> None:
        """Have the consumer made anew (`on_missing`) after that time, and ask it."""
        if self._mending is None and not self._paused:
            self._mending = self._loop.create_task(self._mend(after_s))

    async def _mend(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
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
            for lane, request in enumerate(self._lanes):
                if request is not None and now > request.ends:
                    self._end(lane)
            self.ask()
