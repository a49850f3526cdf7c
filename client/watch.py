"""Following what happens: stored events, in order and as they come, and what a running task prints.

Nobody waits for a reader. It asks for as many events as it has room for; one that stops reading asks for nothing more, and
after `IDLE_S` the broker has forgotten it. The stream goes on without it: once the oldest events have gone before they
were read, the reading ends with `FellBehind`, which says how many they are and where to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas import jetstream, streams, subjects
from schemas.bus import Bus, Subscription, header
from schemas.codec import Decoder, convert
from schemas.errors import BadInput, FellBehind, FogError, Unreachable
from schemas.event import EVENTS, CloudEvent, rfc3339
from schemas.names import new_id
from schemas.pull import Message, Puller
from schemas.task import Output

BATCH = 250
HELD = 4 * BATCH  # events that may wait here for a slow reader
STALL_S = 1.0  # a reader whose process took nothing in for so long, although there was more, may have missed some
QUIET_S = 0.5  # a reader of what is there asks after this whether there is any more
ALIVE_S = 1.0  # the consumer says so often that it lives: it is gone with its server, where that is one of several
IDLE_S = 30.0  # the broker forgets the consumer of a watcher that went away after this
# A new consumer begins so many events behind the last that came: a broker that was killed has forgotten the very last ones,
LOOK_BACK = 1_000  # which are said again under other numbers (`schemas.eventlog`). What came before is not given twice.
OUTPUT_HELD = 10_000  # pieces of output that may wait for a slow reader; the oldest go first

_decode_event: Decoder[CloudEvent] = Decoder(CloudEvent)
_decode_output: Decoder[Output] = Decoder(Output)


class Events:
    """Reads FOG_EVENTS from a moment on, or after a sequence. Iterate; `close()` always."""

    def __init__(
        self,
        bus: Bus,
        *,
        kind: str = "",
        since: float | None = None,
        after: int | None = None,
        follow: bool = False,
    ) -> None:
        if after is not None and (after < 0 or since is not None):
            raise BadInput("after", f"{after} is no sequence" if after < 0 else "since says where to begin already")
        self._bus, self._filter, self._since, self._follow = bus, _filter(kind), since, follow
        self._kinds = self._filter != _filter("")  # only some are read
        self._name = ""
        self._next = 0  # the consumer's next delivery; 0: there is to be a new consumer
        # With where the one before lay, if some may be missing between.
        self._held: deque[tuple[Message, int | None]] = deque()
        self._news = asyncio.Event()
        self._first = 0 if after is None else after + 1  # where this reading began, and
        self._seq = after or 0  # the last that came
        self._at = after  # where the last delivery lay, also of one that came before
        self._unread = after is not None  # the reader left no room for what came next: it may be gone
        self._more_at = math.inf  # when the last came, if there was more already
        self._ids: dict[bytes, None] = {}  # of what came lately
        self._left = 0
        self._puller: Puller | None = None

    async def __aiter__(self) -> AsyncIterator[CloudEvent]:
        """The events, oldest first; without `follow` up to the last one stored when this began. Raises FellBehind."""
        await self._open()
        self._puller = Puller(
            self._bus, streams.EVENTS, self._name, self._arrived,
            batch=BATCH, on_missing=self._open, room=self._room, alive_s=ALIVE_S,
        )  # fmt: skip
        if self._follow or self._left:
            await self._puller.start()
            self._bus.when_back(self._renew)
        while self._follow or self._left > 0:
            while self._held:
                message, before = self._held.popleft()
                if before is not None:
                    await self._judge(before, message)
                self._left -= 1
                yield read_event(message.data)
            if not self._follow and self._left <= 0:
                return
            self._puller.ask()
            self._news.clear()
            try:
                async with asyncio.timeout(None if self._follow else QUIET_S):
                    await self._news.wait()
            except TimeoutError:
                await self._count()

    async def close(self) -> None:
        """Stop reading."""
        self._bus.no_longer(self._renew)
        if self._puller is not None:
            await self._puller.stop()
        await jetstream.delete_consumer(self._bus, streams.EVENTS, self._name)

    async def _open(self) -> None:
        """Make a consumer, behind what was read already. Called again when the broker has lost it, or deliveries of it.

        Each has a name of its own: of several servers, the one that had the last may be down, and the name with it.
        """
        name = new_id("watch")
        config: dict[str, Any] = {
            "name": name, "ack_policy": "none", "filter_subject": self._filter, "mem_storage": True,
            "inactive_threshold": int(IDLE_S * streams.NS), "deliver_policy": "all",
        }  # fmt: skip
        if self._first:
            first = max(self._first, self._seq + 1 - LOOK_BACK)
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": first}
        elif self._since is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": rfc3339(self._since)}
        elif self._follow:
            config |= {"deliver_policy": "new"}
        verb = f"CONSUMER.CREATE.{streams.EVENTS}.{name}.{self._filter}"
        reply = await jetstream.call(self._bus, verb, {"stream_name": streams.EVENTS, "config": config})
        self._left = int(reply.get("num_pending", 0)) + len(self._held)
        self._name, self._next = name, 1
        if self._puller is not None:
            self._puller.rename(name)

    def _renew(self) -> None:
        """What was on its way when a link broke counts as delivered: a new consumer begins behind what came."""
        self._next = 0
        if self._puller is not None:
            self._puller.renew()

    def _room(self) -> int:
        return max(0, HELD - len(self._held))

    def _arrived(self, message: Message) -> None:
        consumer, number = message.delivery()
        if consumer != self._name or not self._next:
            return
        if number != self._next:
            self._renew()
            return
        self._next += 1
        self._take(message)
        self._news.set()

    def _take(self, message: Message) -> None:
        """Keep it unless it came before: under the same number, or under another one that a killed broker had forgotten."""
        event, seq = header(message.headers, b"Nats-Msg-Id"), message.seq
        before, self._at = self._at, seq
        if event in self._ids or (not event and seq <= self._seq):
            self._left -= 1
            return
        self._first, self._seq = self._first or seq, seq
        now = asyncio.get_running_loop().time()
        slow = self._unread or now - self._more_at > STALL_S
        gap = before is not None and seq > before + 1 and (slow or not self._kinds)
        self._held.append((message, before if gap else None))
        self._unread, self._more_at = len(self._held) >= HELD, now if message.pending else math.inf
        if event:
            self._ids[event] = None
        if len(self._ids) > 2 * LOOK_BACK:
            del self._ids[next(iter(self._ids))]

    async def _count(self) -> None:
        """Of what was there, some may be gone by now: it will not come. (What a delivery says of it, `pending`, may be old.)"""
        with contextlib.suppress(FogError):  # the puller mends it
            info = await jetstream.call(self._bus, f"CONSUMER.INFO.{streams.EVENTS}.{self._name}")
            if int(info["delivered"]["consumer_seq"]) == self._next - 1:  # nothing is on its way
                self._left = min(self._left, len(self._held) + int(info["num_pending"]))

    async def _judge(self, before: int, message: Message) -> None:
        """Raises FellBehind when what lay between is gone. (With a filter there is a gap wherever other events lie.)"""
        while True:
            try:
                info = await jetstream.stream_info(self._bus, streams.EVENTS)
                break
            except Unreachable:  # a reader outlives its broker's restart
                await asyncio.sleep(QUIET_S)
        missed = min(int(info["state"]["first_seq"]), message.seq) - before - 1
        if missed > 0:
            raise FellBehind(missed, missed + 1 + message.pending, message.seq - 1, exact=not self._kinds)


def read_event(data: bytes) -> CloudEvent:
    """An event with its `data` as the Struct that `schemas.event.EVENTS` names (as it came, for a type unknown here)."""
    event = _decode_event(data)
    known = EVENTS.get(event.type.removeprefix("fog."))
    if known is None:
        return event
    try:
        return msgspec.structs.replace(event, data=convert(event.data, known[0]))
    except FogError:
        return event


def since(text: str, now: float | None = None) -> float:
    """A moment in seconds since 1970 from ``10m``, ``2h``, ``7d`` (ago) or an ISO date and time. Raises BadInput."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    if unit is not None:
        try:
            return (time.time() if now is None else now) - float(text[:-1]) * unit
        except ValueError:
            pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "write 30s, 10m, 2h or 7d (ago), or 2026-05-01T12:00:00Z"
        raise BadInput("since", f"{text!r} is no time", hint=hint) from None
    return (moment if moment.tzinfo else moment.astimezone(UTC)).timestamp()


def _filter(kind: str) -> str:
    """``task``, ``task.failed`` or ``fog.task.failed`` as a subject filter. Raises BadInput for what is never said."""
    name = kind.removeprefix("fog.").rstrip(".*>").lower()
    if not name:
        return subjects.event(">", "")[: -len(".")]
    if name in EVENTS:
        return subjects.event(name, ">")
    if any(known.startswith(name + ".") for known in EVENTS):
        return subjects.event(name, ">")
    raise BadInput("kind", f"there are no {kind!r} events", hint=f"kinds: {', '.join(EVENTS)}, or their first word")


class Outputs:
    """What a task prints while it runs. `start()` before the task is submitted, or the beginning may be missed."""

    def __init__(self, bus: Bus, submitter: str, task: str) -> None:
        self._bus, self._subject = bus, subjects.output(submitter, task)
        self._held: deque[Output] = deque(maxlen=OUTPUT_HELD)
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listen."""
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(self._subject, self._arrived)

    async def until(self, ended: asyncio.Future[Any]) -> AsyncIterator[Output]:
        """Each piece as it comes, until the task has its result."""
        await self.start()
        ended.add_done_callback(self._wake)
        try:
            while True:
                while self._held:
                    yield self._held.popleft()
                if ended.done():
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            ended.remove_done_callback(self._wake)
            await self.close()

    async def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            await self._subscription.close()
            self._subscription = None

    def _wake(self, _ended: asyncio.Future[Any]) -> None:
        self._news.set()

    def _arrived(self, _subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        try:
            self._held.append(_decode_output(data))
        except FogError:
            return
        self._news.set()
