"""The connection to NATS: the only module that touches nats-py.

Three things nats-py does not give are made here, each measured (docs/decisions/0004): delivery straight from the socket
(`wire.py`), publishing without a coroutine a message, and one reply inbox for all requests.
They rest on private parts of the pinned nats-py; `tests/integration/test_bus.py` holds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.aio.client import Server as _Server
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.js.errors import ObjectNotFoundError
from nats.protocol.parser import AWAITING_CONTROL_LINE

from schemas.errors import BadInput, BrokerUnfit, FogError, NoResponders, Unreachable
from schemas.target import Target
from schemas.wire import OnMessage, Wire

log = logging.getLogger("fog.bus")

MIN_SERVER = (2, 11)
CONNECT_TIMEOUT_S = 3
PING_INTERVAL_S = 20  # a dead link shows after two unanswered pings; heartbeats are what nodes are judged by
RECONNECT_FIRST_S, RECONNECT_MAX_S = (
    0.1,
    5.0,
)  # full jitter between 0 and first × 2^n, so that a fleet does not return in step
OBJECT_TIMEOUT_S = 120
TAP_AGAIN_S = 0.02
GATHER_S = 0.001  # messages that need not hurry wait this long for company; all do under load
BUSY = 6  # messages in the last write that mean load
WRITE_BUFFER_MAX = 64 << 20  # bytes waiting for the socket; beyond it core messages are dropped and counted

OnReply = Callable[[bytes, bytes], None]


class Subscription:
    """A live subscription; `close()` ends it."""

    def __init__(self, bus: Bus, raw: Any) -> None:
        self._bus, self._raw = bus, raw

    async def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self._bus._client.handlers.pop(b"%d" % self._raw._id, None)
        with contextlib.suppress(NatsError):
            await self._raw.unsubscribe()


class _Client(Client):
    """nats-py's client, whose incoming messages pass by `Wire` first."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[bytes, OnMessage] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """A message that came in before `tap` could be put on the wire."""
        handler = self.handlers.get(b"%d" % sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            handler(subject.decode(), reply.decode() if reply else "", data, headers or b"")
        except Exception:
            log.exception("a message handler failed subject=%s", subject[:200])

    def tap(self) -> None:
        """Put `Wire` before nats-py's protocol, between two operations; if one is half read, try again in a moment."""
        transport = self._transport
        if not self.is_connected or not isinstance(transport, TcpTransport):
            return
        reader: Any = transport._io_reader
        writer: Any = transport._io_writer
        if reader._buffer or self._ps.buf or self._ps.state != AWAITING_CONTROL_LINE:
            asyncio.get_running_loop().call_later(TAP_AGAIN_S, self.tap)
            return
        inner = writer.transport.get_protocol()
        if not isinstance(inner, Wire):
            writer.transport.set_protocol(Wire(inner, self.handlers))

    def send(self, data: bytes) -> None:
        """Write at once where nothing waits; else behind what waits, by nats-py's flusher, which heeds a slow socket."""
        if not self._pending and isinstance(self._transport, TcpTransport):
            writer: Any = self._transport._io_writer
            if writer.transport.get_write_buffer_size() == 0:
                writer.write(data)
                return
        self._pending.append(data)
        self._pending_data_size += len(data)
        assert self._flush_queue is not None
        with contextlib.suppress(asyncio.QueueFull):  # full: the flusher is on its way already
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())


class Bus:
    """One connection. Made by `connect`; survives reconnects by itself, telling `on_lost` and `on_back`."""

    def __init__(self) -> None:
        self._client = _Client()
        self._out: list[bytes] = []
        self._replies: dict[str, OnReply] = {}
        self._inbox = ""
        self._count = 0
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_count = 0
        self._last_write = 0.0
        self._closing = False
        self._on_lost: list[Callable[[], None]] = []
        self._on_back: list[Callable[[], None]] = []
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
                    log.warning("waiting for the broker url=%s error=%s", target.url, error.message)
                await asyncio.sleep(_backoff(attempt))
                attempt += 1

    async def _open(
        self, target: Target, name: str, on_lost: Callable[[], None] | None, on_back: Callable[[], None] | None
    ) -> None:
        self._on_lost += [on_lost] if on_lost else []
        self._on_back += [on_back] if on_back else []

        async def lost() -> None:
            for fn in () if self._closing else self._on_lost:
                fn()

        async def back() -> None:
            self._client.tap()
            for fn in self._on_back:
                fn()

        async def error(problem: Exception) -> None:
            log.debug("nats: %s", problem)

        def pick(servers: list[_Server], _info: dict[str, Any]) -> tuple[_Server | None, float]:
            return None, _backoff(min((s.reconnects for s in servers), default=0))

        auth: dict[str, Any] = {}
        if target.seed:
            auth["nkeys_seed_str"] = target.seed
        if target.creds_file:
            auth["user_credentials"] = target.creds_file
        client = self._client
        try:
            await client.connect(
                target.url.split(","),
                name=name,
                error_cb=error,
                disconnected_cb=lost,
                reconnected_cb=back,
                # For the first attempt only (set below): with -1 nats-py would try for ever without saying so.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                reconnect_to_server_handler=pick,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                pending_size=WRITE_BUFFER_MAX,
                skip_subject_validation=True,
                **auth,
            )
        except Exception as error_raised:
            problem = client._err or error_raised
            with contextlib.suppress(Exception):
                await client.close()
            raise _connect_error(target, problem) from None
        client.options["allow_reconnect"] = True
        client.options["max_reconnect_attempts"] = -1
        self._check_server(target)
        client.tap()
        self._inbox = client.new_inbox() + "."
        await self.subscribe(self._inbox + "*", self._on_reply)

    def when_back(self, fn: Callable[[], None]) -> None:
        """Have `fn` called each time the link is back, after the `on_back` of `connect`."""
        self._on_back.append(fn)

    def _check_server(self, target: Target) -> None:
        info = self._client._server_info
        version = str(info.get("version", "0.0"))
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
        if numbers < MIN_SERVER:
            raise BrokerUnfit(
                f"the broker at {target.url} is nats-server {version}; fogfleet needs 2.11 or newer",
                hint="upgrade it, or run `fog up`, which brings its own",
            )
        if not info.get("jetstream"):
            raise BrokerUnfit(
                f"the broker at {target.url} has no JetStream",
                hint="start nats-server with -js (or a jetstream block in its configuration)",
            )

    @property
    def connected(self) -> bool:
        """Whether the link is up now."""
        return bool(self._client.is_connected)

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes, that this broker accepts."""
        return int(self._client.max_payload)

    @property
    def server_version(self) -> str:
        """The broker's version, as it says it."""
        return str(self._client._server_info.get("version", ""))

    @property
    def reconnects(self) -> int:
        """How often the link came back."""
        return int(self._client.stats["reconnects"])

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the socket."""
        return int(self._client._pending_data_size)

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"", lazy: bool = False) -> None:
        """Send a core message. Never waits: it goes out at the end of this turn of the event loop, or within `GATHER_S`
        together with more when many are on their way; a `lazy` one (an ack, an event) always waits for company that long.

        `headers` are raw (``b"Nats-Msg-Id: x\\r\\n"``). While the link is down the message is dropped and counted in
        `dropped` (core NATS promises no more); what must arrive goes by `schemas.store.Store`. BadInput if too large.
        """
        if len(data) + len(headers) + 12 > self._client._max_payload:
            raise BadInput("message", f"{len(data)} bytes exceed the broker's payload limit of {self.max_payload}")
        if not self._client.is_connected or self._client._pending_data_size > WRITE_BUFFER_MAX:
            self.dropped += 1
            return
        if headers:
            head = b"NATS/1.0\r\n" + headers + b"\r\n"
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode()
            self._out.append(line + head + data + b"\r\n")
        else:
            self._out.append(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")
        if not lazy and not self._urgent:
            self._urgent = True
            self._schedule()
        elif self._timer is None and not self._urgent:
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

    def call(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> str:
        """Send a request whose one reply is given to `on_reply(data, raw_headers)`. Returns a token for `hang_up`."""
        self._count += 1
        token = f"{self._count:x}"
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

    async def request(self, subject: str, data: bytes = b"", timeout_s: float = 2.0, headers: bytes = b"") -> bytes:
        """One request, one reply. Raises NoResponders at once when nobody listens, Unreachable after `timeout_s`."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_reply(reply: bytes, raw: bytes) -> None:
            if answer.done():
                return
            if is_no_responders(reply, raw):
                answer.set_exception(NoResponders(f"nobody answers on {subject}"))
            else:
                answer.set_result(reply)

        token = self.call(subject, data, on_reply, headers=headers)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} within {timeout_s:g} s") from None
        finally:
            self.hang_up(token)

    async def subscribe(self, subject: str, fn: OnMessage) -> Subscription:
        """Have `fn(subject, reply, data, raw_headers)` called for every message, synchronously, in order."""
        raw = await self._client.subscribe(subject)
        self._client.handlers[b"%d" % raw._id] = fn
        return Subscription(self, raw)

    def object_store(self, bucket: str) -> RawObjects:
        """NATS's object store of that bucket."""
        return RawObjects(self._client, bucket)

    def new_inbox(self) -> str:
        """A subject that only this connection will use."""
        return str(self._client.new_inbox())

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the broker has seen all that was published before. Raises Unreachable when it does not answer."""
        self._write()
        try:
            await self._client.flush(timeout=max(1, round(timeout_s)))
        except (NatsError, TimeoutError, OSError) as error:
            raise Unreachable(f"the broker did not answer: {error}") from None

    async def close(self) -> None:
        """Send what is left and close. Never raises."""
        if self._closing:
            return
        self._closing = True
        if self.connected:
            with contextlib.suppress(FogError):
                await self.flush(2.0)
        with contextlib.suppress(Exception):
            await self._client.close()


class RawObjects:
    """nats-py's object store (its chunks and digests are NATS's own layout), with our errors."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._js = client.jetstream(timeout=10)
        self._bucket = bucket
        self._store: Any = None

    async def _open(self) -> Any:
        if self._store is None:
            self._store = await self._js.object_store(self._bucket)
        return self._store

    async def fresh(self, name: str, since: float) -> bool:
        """Whether an object of that name was stored after `since` (seconds since 1970)."""
        try:
            info = await (await self._open()).get_info(name)
        except ObjectNotFoundError:
            return False
        except (NatsError, TimeoutError) as error:
            raise Unreachable(f"the object store did not answer: {error}") from None
        return info.mtime is None or _stamp(info.mtime) > since

    async def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name. Raises Unreachable."""
        try:
            await (await self._open()).put(name, data)
        except (NatsError, TimeoutError) as error:
            raise Unreachable(f"the object store did not take {name}: {error}") from None

    async def get(self, name: str) -> bytes | None:
        """The bytes of that name, or None."""
        try:
            async with asyncio.timeout(OBJECT_TIMEOUT_S):  # nats-py waits for ever for a chunk that is gone
                found = await (await self._open()).get(name)
        except ObjectNotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise Unreachable(f"the object store did not give {name}: {error}") from None
        return bytes(found.data or b"")


def _stamp(mtime: str) -> float:
    return datetime.fromisoformat(mtime.replace("Z", "+00:00")).timestamp()


def is_no_responders(data: bytes, headers: bytes) -> bool:
    """Whether a reply is the broker's *nobody listens there*."""
    return not data and headers.startswith(b"NATS/1.0 503")


def status_of(headers: bytes) -> int:
    """The status code of raw headers, as in ``NATS/1.0 404 No Messages``; 0 when there is none."""
    code = headers[9:12]
    return int(code) if headers[:8] == b"NATS/1.0" and code.isdigit() else 0


def header(headers: bytes, name: bytes) -> bytes:
    """One header's value out of raw headers, or b""."""
    start = headers.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    return headers[start : headers.find(b"\r\n", start)].strip()


def _backoff(attempt: int) -> float:
    return random.uniform(0, min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2.0 ** min(attempt, 10)))


def _connect_error(target: Target, problem: Exception) -> FogError:
    text = str(problem) or type(problem).__name__
    if "authorization" in text.lower() or "nkey" in text.lower():
        return BrokerUnfit(
            f"the broker at {target.url} refused the credentials: {text}",
            hint="pass the fog.creds of the machine that runs `fog up` with --creds",
        )
    return Unreachable(
        f"no broker answers at {target.url}: {text}",
        hint="is it running? `fog up` starts one; --nats URL names another",
    )
