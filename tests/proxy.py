"""A TCP proxy that fails as links do: cut, black hole, slow; both ways or one.

It runs in a thread of its own, so that a test that waits for a process, or holds up its event loop, does not hold up the
link. Let a process reach the broker through `Proxy.target`. (A server of a cluster tells its clients of the other servers,
past the proxy: give it ``client_advertise``, or ``cluster { no_advertise: true }``.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from schemas.target import Target

T = TypeVar("T")
CHUNK = 64 * 1024
UNDER_WAY = 64  # chunks of one direction that a delay holds; more wait at their sender, as in a full buffer
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing throws away what is unsent, and tells the other side by RST


class Way(Enum):
    """The directions that a fault is for."""

    TO_BROKER = "to the broker"
    FROM_BROKER = "from the broker"
    BOTH = "both ways"

    def each(self) -> tuple[Way, ...]:
        """The single directions."""
        return (Way.TO_BROKER, Way.FROM_BROKER) if self is Way.BOTH else (self,)


class _Flow:
    """What holds for one direction of all connections, also of those to come."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0


class Proxy:
    """Forwards to ``host:port`` from `port` of its own until told otherwise. Make it by `proxied`, or `close` it."""

    def __init__(self, host: str, port: int, listen: str = "127.0.0.1") -> None:
        self._to, self._listens_on = (host, port), listen
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._flows = {way: _Flow() for way in Way.BOTH.each()}
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0
        self.passed_bytes = 0  # that came from the broker and were delivered, to all
        self._do(self._listen())

    def target(self, target: Target) -> Target:
        """The same broker, by way of this proxy."""
        parts = urlsplit(target.url)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return replace(target, url=f"{parts.scheme}://{user}{self._listens_on}:{self.port}")

    @property
    def links(self) -> int:
        """Connections that are open through it now."""
        return len(self._links)

    # Faults. Each takes effect before it returns.

    def cut(self) -> None:
        """End every connection by a reset, on both sides, and refuse new ones, until `mend`."""
        self._do(self._cut())

    def swallow(self, way: Way = Way.BOTH) -> None:
        """A black hole: nothing that is sent arrives, no end is told, new connections get no word, until `mend`.

        What was sent meanwhile arrives after it, as TCP sends again what was lost.
        """
        self._call(lambda: [self._flows[one].open.clear() for one in way.each()])

    def delay(self, seconds: float, way: Way = Way.BOTH) -> None:
        """Let all bytes arrive this much later, in their order. 0 ends it."""

        def set_it() -> None:
            for one in way.each():
                self._flows[one].delay_s = seconds

        self._call(set_it)

    def mend(self) -> None:
        """End a cut, a black hole and a delay."""
        self.delay(0.0)
        self._call(lambda: [flow.open.set() for flow in self._flows.values()])
        self._do(self._listen())

    def close(self) -> None:
        """End every connection and the proxy itself."""
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    # In the thread's loop.

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    def _call(self, what: Callable[[], object]) -> None:
        async def call() -> None:
            what()

        self._do(call())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, self._listens_on, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        links = dict(self._links)
        for task, writers in links.items():
            _reset(writers)
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            there, back = await asyncio.open_connection(*self._to)
            writers.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, back, self._flows[Way.TO_BROKER]))
                both.create_task(self._forward(there, writer, self._flows[Way.FROM_BROKER]))
        except* OSError:
            _reset(writers)  # one side was reset (its process was killed), so the other is
        except* asyncio.CancelledError:
            pass
        finally:
            for one in writers:
                one.close()
            self._links.pop(task, None)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: _Flow) -> None:
        """Until one side ends; its end is passed on behind its last bytes."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
        delivering = self._loop.create_task(self._deliver(under_way, writer, flow))
        try:
            while True:
                await flow.open.wait()
                data = await reader.read(CHUNK)
                await under_way.put((self._loop.time() + flow.delay_s, data))
                if not data:
                    break
            await delivering
        finally:
            delivering.cancel()

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, flow: _Flow
    ) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await flow.open.wait()  # it was on its way when the link broke
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            if flow is self._flows[Way.FROM_BROKER]:
                self.passed_bytes += len(data)


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


@contextlib.contextmanager
def proxied(target: Target) -> Iterator[Proxy]:
    """A proxy before a broker; `proxy.target(target)` is the way through it."""
    parts = urlsplit(target.url)
    assert parts.hostname and parts.port, f"no single address: {target.shown}"
    proxy = Proxy(parts.hostname, parts.port)
    try:
        yield proxy
    finally:
        proxy.close()
