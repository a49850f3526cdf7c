"""This node's part of its clusters' caches, kept where rendezvous hashing wants it also when members come and go."""

from __future__ import annotations

import asyncio
import logging

from node.context import Context
from node.core.pool import Pool
from node.core.seats import Seats
from schemas import subjects
from schemas.cluster import Membership
from schemas.codec import Decoder, encode
from schemas.errors import FogError
from schemas.logs import fields
from schemas.peer import CacheDone, CacheGet, CacheItem, CachePut
from schemas.rendezvous import owners
from schemas.ticks import ticks

log = logging.getLogger("fog.node.clusters")

COPIES_AT_ONCE = 8
COPY_S = 2.0
TRIES = 3

_done: Decoder[CacheDone] = Decoder(CacheDone)


class Cache:
    """`pool` holds it; without room (`cache_mb` is 0) this node holds nothing, and is asked for nothing."""

    def __init__(self, context: Context, seats: Seats, room: int) -> None:
        self._context, self._seats = context, seats
        self.pool = Pool(room)
        self._moving: dict[str, asyncio.Task[None]] = {}

    def get(self, cluster: str, asked: CacheGet) -> CacheItem:
        """A peer or a client wants a value."""
        return CacheItem(self.pool.get(cluster, asked.key, ticks()))

    def put(self, cluster: str, asked: CachePut) -> CacheDone:
        """A peer or a client brings a value."""
        error = self.pool.put(cluster, asked, ticks())
        return CacheDone(not error, error)

    def drop(self, cluster: str, asked: CacheGet) -> CacheDone:
        """It is not wanted any more."""
        self.pool.drop(cluster, asked.key)
        return CacheDone()

    def peers_changed(self, cluster: str, before: Membership | None) -> None:
        """The cluster has other members than `before`: what is kept here goes where it belongs now."""
        seat = self._seats.now.get(cluster)
        there = _offering(seat)
        if there == _offering(before) or not len(self.pool):
            return
        if (moving := self._moving.pop(cluster, None)) is not None:
            moving.cancel()
        task = self._moving[cluster] = asyncio.get_running_loop().create_task(self._move(cluster, there))
        task.add_done_callback(_log_failure)

    def stop(self) -> None:
        """Copy no more."""
        for task in self._moving.values():
            task.cancel()

    async def _move(self, cluster: str, nodes: frozenset[str]) -> None:
        """Bring every key to its owners; what is not ours any more is dropped once they have it."""
        gate = asyncio.Semaphore(COPIES_AT_ONCE)
        me = self._context.node
        copied = 0

        async def settle(put: CachePut) -> None:
            nonlocal copied
            wanted = owners(put.key, nodes)
            async with gate:
                held = [await self._copy(cluster, node, put) for node in wanted if node != me]
            copied += sum(held)
            if me not in wanted and (all(held) or not wanted):
                self.pool.drop(cluster, put.key)

        async with asyncio.TaskGroup() as group:
            for put in self.pool.kept(cluster, ticks()):
                group.create_task(settle(put))
        if copied:
            log.info("cache copied to its owners", extra=fields(cluster=cluster, copies=copied))

    async def _copy(self, cluster: str, node: str, put: CachePut) -> bool:
        for attempt in range(TRIES):
            try:
                answer = await self._context.bus.request(subjects.peer(cluster, node, "cache-put"), encode(put), COPY_S)
                if not _done(answer).error:
                    return True
            except FogError:
                pass
            await asyncio.sleep(0.2 * (attempt + 1))  # it may not have heard yet that it is a member
        return False


def _offering(seat: Membership | None) -> frozenset[str]:
    return frozenset(peer.node for peer in seat.peers if peer.cache_mb) if seat else frozenset()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the cache could not be moved", exc_info=error)
