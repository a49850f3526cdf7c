"""The cache that a cluster's members pool: each key at two of them, which everybody works out alike (`schemas.rendezvous`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from schemas import limits, subjects
from schemas.bus import Bus
from schemas.cluster import ClusterRow
from schemas.codec import Decoder, convert, encode
from schemas.errors import BadInput, FogError, Refused, Unreachable
from schemas.membership import NodeState
from schemas.peer import CacheDone, CacheGet, CacheItem, CachePut
from schemas.rendezvous import owners
from schemas.ticks import ticks

LOOK_AGAIN_S = 2.0  # who the members are is asked again after this, and when one does not answer
ANSWER_S = 1.0

_done: Decoder[CacheDone] = Decoder(CacheDone)
_item: Decoder[CacheItem] = Decoder(CacheItem)


class ClusterCache:
    """Values by key, for a time. It is a cache: what is gone is None, and has to be made again.

    A value that two members hold survives the loss of one. `info` asks who the members are.
    """

    def __init__(self, cluster: str, info: Callable[[], Awaitable[ClusterRow]], bus: Bus) -> None:
        self._cluster, self._info, self._bus = cluster, info, bus
        self._nodes: tuple[str, ...] = ()
        self._looked_at = float("-inf")

    async def put(self, key: str, value: bytes, *, ttl_s: float = 3600.0) -> int:
        """Keep a value (at most `limits.CACHE_VALUE_MAX` bytes) for `ttl_s`; returns at how many members it is now, 1 or 2.

        Raises Refused (``no-cache``, ``no-room``) or Unreachable when no member took it.
        """
        if len(value) > limits.CACHE_VALUE_MAX:
            raise BadInput("value", f"{len(value)} bytes are more than {limits.CACHE_VALUE_MAX}")
        made = {"key": key, "value": value, "ttl_s": float(ttl_s), "stamp": time.time_ns()}
        request = encode(convert(made, CachePut))
        answers: list[Any] = []
        for look in (False, True):
            wanted = owners(key, await self._members(look))
            calls = (self._ask(node, "cache-put", request) for node in wanted)
            answers = await asyncio.gather(*calls, return_exceptions=True)
            kept = sum(1 for answer in answers if isinstance(answer, bytes) and _done(answer).kept)
            if kept == len(wanted) or (look and kept):
                return kept
        raise self._why(answers)

    async def get(self, key: str) -> bytes | None:
        """The value, or None. A member that does not answer is passed over; Unreachable when none does."""
        request = encode(convert({"key": key}, CacheGet))
        heard = False
        for node in owners(key, await self._members()):
            try:
                item = _item(await self._ask(node, "cache-get", request))
            except Unreachable:
                self._looked_at = float("-inf")
                continue
            heard = heard or not item.error
            if item.value is not None:
                return item.value
        if not heard:
            raise Unreachable(f"no member of {self._cluster} that should hold {key} answers")
        return None

    async def drop(self, key: str) -> None:
        """Keep it no longer."""
        request = encode(convert({"key": key}, CacheGet))
        calls = (self._ask(node, "cache-drop", request) for node in owners(key, await self._members()))
        await asyncio.gather(*calls, return_exceptions=True)

    async def _members(self, look: bool = False) -> tuple[str, ...]:
        if look or ticks() - self._looked_at >= LOOK_AGAIN_S:
            row = await self._info()
            self._nodes = tuple(
                m.node for m in row.members if m.cache_mb and m.state not in (NodeState.LOST, NodeState.LEFT)
            )
            self._looked_at = ticks()
        if not self._nodes:
            raise Refused(
                "no-cache",
                f"no member of {self._cluster} offers memory",
                hint="start nodes with --cache-mb, or set cache_mb",
            )
        return self._nodes

    async def _ask(self, node: str, verb: str, request: bytes) -> bytes:
        return await self._bus.request(subjects.peer(self._cluster, node, verb), request, ANSWER_S)

    def _why(self, answers: list[Any]) -> FogError:
        for answer in answers:
            if isinstance(answer, bytes) and (error := _done(answer).error):
                return Refused("no-room", error)
        return next((answer for answer in answers if isinstance(answer, FogError)), Unreachable("no member took it"))
