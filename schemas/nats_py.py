"""nats-py, and all that we do to it: no other module touches it.

What is private here is private to the pinned nats-py (docs/decisions/0004); `tests/integration/test_bus.py` holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.aio.client import Server as NatsServer
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError
from nats.js.errors import ObjectNotFoundError
from nats.protocol.parser import AWAITING_CONTROL_LINE

from schemas.errors import BrokerUnfit, FogError, Unreachable
from schemas.pings import Pings
from schemas.target import Target
from schemas.wire import OnMessage, Wire

log = logging.getLogger("fog.bus")

CONNECT_TIMEOUT_S = 3
# A fleet that comes back at once takes its broker (or a slow link its handshake) longer, and a handshake that is given up
# is work that both ends do again: with 3 s none of 2,000 on one busy machine was ever through. The broker has 10 s as well.
RECONNECT_TIMEOUT_S = 10
RECONNECT_FIRST_S = 0.1  # full jitter between 0 and this × 2^n, so that a fleet does not return in step
RECONNECT_MAX_S = 5.0
OBJECT_TIMEOUT_S = 120
PING = b"PING\r\n"
WRITE_AHEAD = 1 << 20  # bytes that the socket's own buffer may hold before nats-py's flusher, which waits, takes over
TAP_AGAIN_S = 0.02
PENDING_MAX = 64 << 20  # bytes that may wait for the socket


class NatsClient(Client):
    """nats-py's client, whose incoming messages pass by `Wire` first."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[bytes, OnMessage] = {}
        self._pings = Pings()

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

    async def _ping_interval(self) -> None:
        """Ping whenever none went along for long; nats-py's own comes every so often whatever else goes out."""
        now = asyncio.get_running_loop().time
        self._pings.sent(now())
        while True:
            if left_s := self._pings.left_s(now()):
                await asyncio.sleep(left_s)
                continue
            self._pings.sent(now())
            if self.is_connected:
                if self._pings_outstanding >= self.options["max_outstanding_pings"]:
                    await self._process_op_err(StaleConnectionError())
                else:
                    self._send_one_ping()

    def ping_along(self, next_s: float) -> None:
        """Something goes out now, and again in `next_s`: a ping goes with it where one would be due before that."""
        unanswered = self._pings_outstanding >= self.options["max_outstanding_pings"]
        if self.is_connected and not unanswered and self._pings.along(asyncio.get_running_loop().time(), next_s):
            self._send_one_ping()

    def _send_one_ping(self) -> None:
        self._pings_outstanding += 1
        self._pongs.append(asyncio.get_running_loop().create_future())
        self.send(PING)

    async def _process_pong(self) -> None:
        """The answer to a ping. nats-py's own raises, and stops reading, when nobody waits for it any more."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

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
            if writer.transport.is_closing():
                return  # it went down a moment ago; nats-py is about to learn of it
            if writer.transport.get_write_buffer_size() < WRITE_AHEAD:
                writer.write(data)
                return
        self._pending.append(data)
        self._pending_data_size += len(data)
        assert self._flush_queue is not None
        with contextlib.suppress(asyncio.QueueFull):  # full: the flusher is on its way already
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def open(
        self,
        target: Target,
        name: str,
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
        on_closed: Callable[[str], None],
    ) -> None:
        """Connect, at most two tries a server; reconnect for ever after that. Raises Unreachable, BrokerUnfit.

        `on_closed` is told why nats-py has given up: the broker said something (credentials revoked) after which it does.
        """

        async def lost() -> None:
            on_lost()

        async def back() -> None:
            self.tap()
            on_back()

        last = ""

        async def error(problem: Exception) -> None:
            nonlocal last
            last = str(problem)
            log.debug("nats: %s", problem)

        async def closed() -> None:
            on_closed(str(self._err or last))

        auth = {"nkeys_seed_str": target.seed, "user_credentials": target.creds_file}
        try:
            await self.connect(
                target.url.split(","),
                name=name,
                error_cb=error,
                disconnected_cb=lost,
                reconnected_cb=back,
                closed_cb=closed,
                # For the first attempt only (set below): with -1 nats-py would try for ever without saying so.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                reconnect_to_server_handler=pick_server,
                connect_timeout=CONNECT_TIMEOUT_S,
                pending_size=PENDING_MAX,
                skip_subject_validation=True,
                **{option: value for option, value in auth.items() if value},  # type: ignore[arg-type]
            )
        except Exception as raised:
            problem = self._err or raised
            await self.shut()
            raise _connect_error(target, problem) from None
        self.options["allow_reconnect"] = True
        self.options["max_reconnect_attempts"] = -1
        self.options["connect_timeout"] = RECONNECT_TIMEOUT_S
        self.tap()

    @property
    def info(self) -> dict[str, Any]:
        """What the broker said of itself."""
        return self._server_info

    @property
    def encrypted(self) -> bool:
        """Whether the connection as it is now is TLS: by its socket, not by the address that was asked for."""
        transport: Any = self._transport
        if isinstance(transport, TcpTransport):
            return transport._io_writer is not None and transport._io_writer.get_extra_info("ssl_object") is not None
        return bool(getattr(transport, "_using_tls", False))  # a websocket

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for the socket."""
        return self._pending_data_size

    @property
    def payload_max(self) -> int:
        """The largest message, in bytes, that the broker takes."""
        return self._max_payload

    async def listen(self, subject: str, fn: OnMessage) -> Any:
        """Subscribe; `fn` is called for each message. Returns what `unlisten` takes."""
        raw = await self.subscribe(subject)
        self.handlers[b"%d" % raw._id] = fn
        return raw

    async def unlisten(self, raw: Any) -> None:
        """Unsubscribe. Never raises."""
        self.handlers.pop(b"%d" % raw._id, None)
        with contextlib.suppress(NatsError):
            await raw.unsubscribe()

    async def round_trip(self, timeout_s: float) -> None:
        """Return when the broker has seen all that was sent. Raises Unreachable."""
        try:
            # nats-py swallows a cancellation where it waits for its flusher: whoever is cancelled here, or whose time is
            # over, would go on as if nothing had been.
            await asyncio.shield(self._flush_and_ping(timeout_s))
        except (NatsError, TimeoutError, OSError) as error:
            raise Unreachable(f"the broker did not answer: {error}") from None

    async def _flush_and_ping(self, timeout_s: float) -> None:
        if self._pending:  # nats-py's ping overtakes what waits for its flusher
            await self._flush_pending(force_flush=True)
        await self.flush(timeout=max(1, round(timeout_s)))

    async def shut(self) -> None:
        """Close. Never raises."""
        with contextlib.suppress(Exception):
            await self.close()


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

    async def put(self, name: str, data: bytes, pace: Callable[[int], None] | None = None) -> None:
        """Store bytes under a name. `pace` is called on a thread with the size of each piece, and may block. Raises
        Unreachable."""
        try:
            await (await self._open()).put(name, data if pace is None else _Paced(pace, data))
        except (NatsError, TimeoutError) as error:
            full = "maximum" in str(error)
            stream = f"OBJ_{self._bucket}"
            hint = f"the bucket is full: give it more room (nats stream edit {stream} --max-bytes …)" if full else ""
            raise Unreachable(f"the object store did not take {name}: {error}", hint=hint) from None

    async def get(self, name: str, pace: Callable[[int], None] | None = None) -> bytes | None:
        """The bytes of that name, or None. `pace` as of `put`."""
        into = None
        try:
            async with asyncio.timeout(OBJECT_TIMEOUT_S) as limit:  # nats-py waits for ever for a chunk that is gone
                if pace is not None:
                    into = _Paced(_going_on(pace, limit))
                found = await (await self._open()).get(name, writeinto=into)
        except ObjectNotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise Unreachable(f"the object store did not give {name}: {error}") from None
        return bytes(found.data or b"") if into is None else into.getvalue()


class _Paced(io.BytesIO):
    """Bytes that nats-py moves piece by piece, on a thread since this is a file, at the pace of whoever is called first."""

    def __init__(self, pace: Callable[[int], None], data: bytes = b"") -> None:
        super().__init__(data)
        self._pace = pace

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        self._pace(size)
        return size

    def write(self, data: Any) -> int:
        self._pace(len(data))
        return super().write(data)


def _going_on(pace: Callable[[int], None], limit: asyncio.Timeout) -> Callable[[int], None]:
    """The pace, which also pushes the time limit on: what moves slowly since it has to is not stuck."""
    loop = asyncio.get_running_loop()

    def push_on() -> None:
        if not limit.expired():
            limit.reschedule(loop.time() + OBJECT_TIMEOUT_S)

    def piece(size: int) -> None:
        loop.call_soon_threadsafe(push_on)
        pace(size)
        loop.call_soon_threadsafe(push_on)

    return piece


def _stamp(mtime: str) -> float:
    return datetime.fromisoformat(mtime.replace("Z", "+00:00")).timestamp()


def pick_server(servers: list[NatsServer], _info: dict[str, Any]) -> tuple[NatsServer | None, float]:
    """Whom to try next, and after how long: one that failed least. (Without a choice nats-py tries one and the same for
    ever, also the one that is gone.) The wait grows once all of them failed."""
    fewest = min((server.reconnects for server in servers), default=0)
    choice = [server for server in servers if server.reconnects == fewest]
    return random.choice(choice) if choice else None, backoff_s(fewest)


def backoff_s(attempt: int) -> float:
    """How long to wait before try number `attempt` (from 0)."""
    return random.uniform(0, min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2.0 ** min(attempt, 10)))


def _connect_error(target: Target, problem: Exception) -> FogError:
    text = str(problem) or type(problem).__name__
    if "authorization" in text.lower() or "nkey" in text.lower():
        return BrokerUnfit(
            f"the broker at {target.shown} refused the credentials: {text}",
            hint="pass the fog.creds of the machine that runs `fog up` with --creds",
        )
    return Unreachable(
        f"no broker answers at {target.shown}: {text}",
        hint="is it running? `fog up` starts one; --nats URL names another",
    )
