"""One connection to NATS: core messages, requests, subscriptions. JetStream stands on it in `store`, `pull` and others.

Three things nats-py does not give are made here, each measured (docs/decisions/0004): delivery straight from the socket
(`wire`), publishing without a coroutine a message, and one reply inbox for all requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any

from schemas.errors import BadInput, BrokerUnfit, FogError, NoResponders, Unreachable
from schemas.headers import header, is_no_responders, status_of
from schemas.nats_py import PENDING_MAX, NatsClient, RawObjects, backoff_s
from schemas.target import Target
from schemas.wire import OnMessage

__all__ = ["Bus", "OnMessage", "Subscription", "header", "is_no_responders", "status_of"]

log = logging.getLogger("fog.bus")

MIN_SERVER = (2, 11)
GATHER_S = 0.001  # messages that need not hurry wait this long for company; all do under load
FULL = 128  # messages that are written at once
BUSY = 6  # messages in the last write that mean load

OnReply = Callable[[bytes, bytes], None]


class Subscription:
    """A live subscription; `close()` ends it."""

    def __init__(self, client: NatsClient, raw: Any) -> None:
        self._client, self._raw = client, raw

    async def close(self) -> None:
        """Stop listening. Safe to call twice."""
        await self._client.unlisten(self._raw)


class Bus:
    """One connection. Made by `connect`; survives reconnects by itself, telling `on_lost` and `on_back`."""

    def __init__(self) -> None:
        self._client = NatsClient()
        self._out: list[bytes] = []
        self._replies: dict[str, OnReply] = {}
        self._inbox = ""
        self._count = 0
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_count = 0
        self._waiting_bytes = 0  # for the socket, as of the last write
        self._last_write = 0.0
        self._up = False  # as `connected`, without asking at every message
        self._payload_max = 0
        self._closing = False
        self._on_lost: list[Callable[[], None]] = []
        self._on_back: list[Callable[[], None]] = []
        self._on_closed: list[Callable[[], None]] = []
        self.closed_for = ""  # why the broker ended the connection for good; nothing goes in or out after that
        self.dropped = 0

    @classmethod
    async def connect(
        cls,
        target: Target,
        *,
        name: str,
        on_lost: Callable[[], None] | None = None,
        on_back: Callable[[], None] | None = None,
        wait: bool = False,
    ) -> Bus:
        """Connect to `target`. With `wait`, tries for ever (logging the first failure); else raises Unreachable.

        Raises BrokerUnfit when the broker is older than 2.11, has no JetStream, or refuses the credentials.
        """
        attempt = 0
        while True:
            bus = cls()
            try:
                await bus._open(target, name, on_lost, on_back)
                return bus
            except Unreachable as error:
                if not wait:
                    raise
                if attempt == 0:
                    log.warning("waiting for the broker url=%s error=%s", target.shown, error.message)
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1

    async def _open(
        self, target: Target, name: str, on_lost: Callable[[], None] | None, on_back: Callable[[], None] | None
    ) -> None:
        self._on_lost += [on_lost] if on_lost else []
        self._on_back += [on_back] if on_back else []

        def lost() -> None:
            was_up, self._up = self._up, False  # a first connection that fails is no loss
            for fn in self._on_lost if was_up and not self._closing else ():
                fn()

        def back() -> None:
            self._up = True
            for fn in tuple(self._on_back):
                fn()

        def closed(why: str) -> None:
            self._up = False
            if self._closing or not self._inbox:
                return
            self.closed_for = why or "the connection was closed"
            log.error("the broker ended the connection for good: %s", self.closed_for)
            for fn in tuple(self._on_closed):
                fn()

        await self._client.open(target, name, lost, back, closed)
        self._check_server(target)
        self._up, self._payload_max = True, self._client.payload_max
        self._inbox = self._client.new_inbox() + "."
        await self.subscribe(self._inbox + "*", self._on_reply)

    def when_back(self, fn: Callable[[], None]) -> None:
        """Have `fn` called each time the link is back, after the `on_back` of `connect`, until `no_longer(fn)`."""
        self._on_back.append(fn)

    def when_closed(self, fn: Callable[[], None]) -> None:
        """Have `fn` called when the broker has ended the connection for good: a daemon can only stop, and say `closed_for`."""
        self._on_closed.append(fn)

    def no_longer(self, fn: Callable[[], None]) -> None:
        """Undo `when_back`."""
        if fn in self._on_back:
            self._on_back.remove(fn)

    def _check_server(self, target: Target) -> None:
        info = self._client.info
        version = str(info.get("version", "0.0"))
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
        if numbers < MIN_SERVER:
            raise BrokerUnfit(
                f"the broker at {target.shown} is nats-server {version}; fogfleet needs 2.11 or newer",
                hint="upgrade it, or run `fog up`, which brings its own",
            )
        if not info.get("jetstream"):
            raise BrokerUnfit(
                f"the broker at {target.shown} has no JetStream",
                hint="start nats-server with -js (or a jetstream block in its configuration)",
            )

    @property
    def connected(self) -> bool:
        """Whether the link is up now."""
        return bool(self._client.is_connected)

    @property
    def encrypted(self) -> bool:
        """Whether the link as it is now is TLS; while it is down, as it was."""
        return self._client.encrypted

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes, that this broker accepts."""
        return self._payload_max

    @property
    def server_version(self) -> str:
        """The broker's version, as it says it."""
        return str(self._client.info.get("version", ""))

    @property
    def clustered(self) -> bool:
        """Whether the broker is one of several servers."""
        return bool(self._client.info.get("cluster"))

    @property
    def reconnects(self) -> int:
        """How often the link came back."""
        return int(self._client.stats["reconnects"])

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"", lazy: bool = False) -> None:
        """Send a core message. Never waits: it goes out at the end of this turn of the event loop, or within `GATHER_S`
        together with more when many are on their way; a `lazy` one (an ack, an event) always waits for company that long.

        `headers` are raw (``b"Nats-Msg-Id: x\\r\\n"``). While the link is down the message is dropped and counted in
        `dropped` (core NATS promises no more); what must arrive goes by `schemas.store.Store`. BadInput if too large.
        """
        if " " in subject or "\r" in subject or "\n" in subject:
            raise BadInput("subject", f"{subject!r:.100} is not a subject")
        if len(data) + len(headers) + 12 > self._payload_max:
            raise BadInput("message", f"{len(data)} bytes exceed the broker's payload limit of {self.max_payload}")
        if not self._up or self._waiting_bytes > PENDING_MAX:
            self.dropped += 1
            return
        if headers:
            self._out.append(with_headers(subject, reply, headers, data))
        elif not data:  # an ack: two a task
            self._out.append(f"PUB {subject} {reply} 0\r\n\r\n".encode())
        else:
            self._out.append(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")
        if (
            len(self._out) >= FULL
        ):  # a long turn (ten thousand submits at once) must not keep the broker waiting for its end
            self._write()
        elif not lazy and not self._urgent:
            self._urgent = True
            self._schedule()
        elif self._timer is None and not self._urgent:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._write)

    def publish_ready(self, messages: list[bytes]) -> None:
        """Send messages that `with_headers` has made, as lazy ones, and with one drop counted for all."""
        if not self._up or self._waiting_bytes > PENDING_MAX:
            self.dropped += 1
            return
        self._out += messages
        if self._timer is None and not self._urgent:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._write)

    def _schedule(self) -> None:
        """One write costs as much as ten messages, here and at the broker: under load, gather for a moment."""
        loop = asyncio.get_running_loop()
        if self._last_count >= BUSY and loop.time() - self._last_write < GATHER_S:
            if self._timer is None:
                self._timer = loop.call_later(GATHER_S, self._write)
        else:
            loop.call_soon(self._write)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._urgent = False
        self._last_count = len(self._out)
        self._last_write = asyncio.get_running_loop().time()
        data = b"".join(self._out)
        self._out.clear()
        if data and self._client.is_connected:
            self._client.send(data)
        self._waiting_bytes = self._client.waiting_bytes

    def call(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> str:
        """Send a request whose one reply is given to `on_reply(data, raw_headers)`. Returns a token for `hang_up`."""
        self._count += 1
        token = str(self._count)
        self._replies[token] = on_reply
        self.publish(subject, data, reply=self._inbox + token, headers=headers)
        return token

    def hang_up(self, token: str) -> None:
        """Wait for that reply no longer."""
        self._replies.pop(token, None)

    def _on_reply(self, subject: str, _reply: str, data: bytes, headers: bytes) -> None:
        on_reply = self._replies.pop(subject[len(self._inbox) :], None)
        if on_reply is not None:
            on_reply(data, headers)

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        timeout_s: float = 2.0,
        headers: bytes = b"",
        *,
        again_s: float = math.inf,
    ) -> bytes:
        """One request, one reply. Raises NoResponders at once when nobody listens, Unreachable after `timeout_s`.

        Without a reply it is said again after `again_s`, and after ever longer, so that a broker that is behind with a whole
        fleet's requests does not get them many times, and as soon as a link that broke is back; the first reply counts, to
        whichever saying.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_reply(reply: bytes, raw: bytes) -> None:
            if answer.done():
                return
            if is_no_responders(reply, raw):
                answer.set_exception(NoResponders(f"nobody answers on {subject}"))
            else:
                answer.set_result(reply)

        tokens: list[str] = []

        def say() -> None:
            tokens.append(self.call(subject, data, on_reply, headers=headers))

        try:
            if again_s < math.inf:
                self.when_back(say)
            async with asyncio.timeout(timeout_s):
                while not answer.done():
                    say()
                    await asyncio.wait((answer,), timeout=None if again_s == math.inf else again_s)
                    again_s *= 2
                return answer.result()
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} within {timeout_s:g} s") from None
        finally:
            self.no_longer(say)
            for token in tokens:
                self.hang_up(token)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # it came in the moment in which nobody wanted it any more: that is no fault

    async def subscribe(self, subject: str, fn: OnMessage) -> Subscription:
        """Have `fn(subject, reply, data, raw_headers)` called for every message, synchronously, in order."""
        return Subscription(self._client, await self._client.listen(subject, fn))

    def object_store(self, bucket: str) -> RawObjects:
        """NATS's object store of that bucket."""
        return RawObjects(self._client, bucket)

    def new_inbox(self) -> str:
        """A subject that only this connection will use."""
        return str(self._client.new_inbox())

    def ping_along(self, next_s: float) -> None:
        """Something goes out now, and again in `next_s`: the connection's ping goes along rather than by itself."""
        self._client.ping_along(next_s)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the broker has seen all that was published before. Raises Unreachable when it does not answer."""
        self._write()
        await self._client.round_trip(timeout_s)

    async def close(self) -> None:
        """Send what is left and close. Never raises."""
        if self._closing:
            return
        self._closing = True
        if self.connected:
            with contextlib.suppress(FogError):
                await self.flush(2.0)
        await self._client.shut()


def with_headers(subject: str, reply: str, headers: bytes, data: bytes) -> bytes:
    """A message as it stands on the wire. `headers` are raw lines, each with its end."""
    head = len(headers) + 12
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        subject.encode(), reply.encode(), head, head + len(data), headers, data,
    )  # fmt: skip
