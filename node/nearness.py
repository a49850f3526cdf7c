"""Measures the way to the devices that the coordinator named, as `core.nearness` decides: directly where the other listens for
its peers (`node --share`), by the time of a TCP connection; else by request and reply over the broker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from node.context import Context
from node.core.nearness import PINGS, Measuring, named, why_not
from node.core.seats import Seats
from schemas import subjects
from schemas.advice import PowerMode
from schemas.cluster import Near
from schemas.codec import Decoder, encode
from schemas.device import DeviceState
from schemas.errors import FogError
from schemas.logs import fields
from schemas.peer import PingAsk, Pong
from schemas.peer_link import read_address
from schemas.ticks import ticks

log = logging.getLogger("fog.node.nearness")

ANSWER_S = 5.0
CONNECT_S = 3.0

_pong: Decoder[Pong] = Decoder(Pong)


class Nearness:
    """`mode` and `state` tell how the device is, `tell` takes a new table of round trips in ms."""

    def __init__(
        self,
        context: Context,
        seats: Seats,
        mode: Callable[[], PowerMode],
        state: Callable[[], DeviceState],
        tell: Callable[[dict[str, int]], None],
    ) -> None:
        self._context, self._seats = context, seats
        self._mode, self._state, self._tell = mode, state, tell
        self._measuring = Measuring()
        self._task: asyncio.Task[None] | None = None

    def on_beat(self) -> None:
        """A heartbeat has gone out, so the radio is awake: measure one device, if one is due and the battery allows it."""
        if self._task is not None and not self._task.done():
            return
        if why_not(self._mode(), self._state(), self._context.refuses):
            return
        peers = named(self._seats.now.values())
        node = self._measuring.next(list(peers), ticks())
        if node:
            self._task = asyncio.get_running_loop().create_task(self._measure(peers[node]))

    def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()

    async def _measure(self, near: Near) -> None:
        try:
            ms = await self._trip(near)
        except (FogError, OSError) as error:
            log.debug("no answer to a ping", extra=fields(peer=near.node, error=str(error) or type(error).__name__))
            ms = None
        before = self._measuring.table
        self._measuring.measured(near.node, ms, list(named(self._seats.now.values())), ticks())
        if self._measuring.table is not None and self._measuring.table is not before:
            self._tell(self._measuring.table)

    async def _trip(self, near: Near) -> float:
        """The quickest of the pings, in ms. Raises FogError or OSError when it does not answer."""
        first, pong = await self._ask(near)
        if pong.at:
            try:
                host, port = read_address(pong.at)
                return await _quickest([lambda: _connect(host, port)] * PINGS)
            except (FogError, OSError):
                pass  # it listens where we do not reach it: then it is as far as the way over the broker
        again = await _quickest([lambda: self._asked(near)] * (PINGS - 1))
        return min(first, again)

    async def _ask(self, near: Near) -> tuple[float, Pong]:
        site = self._state().network_gateway
        ask = encode(PingAsk(site if isinstance(site, str) else ""))
        began = time.perf_counter()
        answer = await self._context.bus.request(subjects.peer(near.cluster, near.node, "ping"), ask, ANSWER_S)
        return 1000 * (time.perf_counter() - began), _pong(answer)

    async def _asked(self, near: Near) -> float:
        return (await self._ask(near))[0]


async def _quickest(pings: list[Callable[[], Awaitable[float]]]) -> float:
    """One after the other: two at a time would wait for each other."""
    return min([await ping() for ping in pings])


async def _connect(host: str, port: int) -> float:
    """A connection is made when its answer has come: one round trip, which no process of the other has to wake for."""
    began = time.perf_counter()
    async with asyncio.timeout(CONNECT_S):
        _, writer = await asyncio.open_connection(host, port)
    took = 1000 * (time.perf_counter() - began)
    writer.close()
    return took
