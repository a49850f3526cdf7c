"""Storing messages under a term's mark: each tried by one voice until the broker has given an answer that stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.fence import Fence, outdated
from schemas.errors import BadInput, FogError, StoreRefused
from schemas.logs import fields
from schemas.store import Ack, Store

log = logging.getLogger("fog.coordinator")

AGAIN_S = (0.5, 5.0)  # between two tries: the first wait, and the longest

Over = Callable[[Ack | FogError], None]


class Fenced:
    """Stores in the stream of `fence`; `spawn` runs what waits, within the term."""

    def __init__(self, store: Store, fence: Fence, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.store, self.fence, self.spawn = store, fence, spawn
        self.in_turn = asyncio.Lock()

    def post(self, subject: str, data: bytes, msg_id: str, over: Over) -> None:
        """Store a message. `over` gets the Ack, StoreRefused where its subject holds one already, or BadInput for what is too
        large for the broker; never anything else, and nothing once the term is over."""
        _Post(self, subject, data, msg_id, over).send()


class _Post:
    """One message on its way."""

    def __init__(self, by: Fenced, subject: str, data: bytes, msg_id: str, over: Over) -> None:
        self._by, self._subject, self._data, self._msg_id, self._over = by, subject, data, msg_id, over
        self._wait_s = AGAIN_S[0]

    def send(self) -> None:
        by = self._by
        by.store.post(self._subject, self._data, self._msg_id, self._answered, headers=by.fence.headers())

    def _answered(self, answer: Ack | FogError) -> None:
        if isinstance(answer, Ack | BadInput) or (isinstance(answer, StoreRefused) and answer.exists):
            self._over(answer)
            return
        if not outdated(answer):
            log.error("a message was not stored", extra=fields(subject=self._subject, error=str(answer)))
        self._by.spawn(self._send_again())

    async def _send_again(self) -> None:
        """After a look at the mark, one at a time: several servers refuse what compares with it at the same moment."""
        by = self._by
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(AGAIN_S[1], 2 * self._wait_s)
        answer: Ack | FogError
        async with by.in_turn:
            try:
                await by.fence.renew()
                answer = await by.store.put(self._subject, self._data, msg_id=self._msg_id, headers=by.fence.headers())
            except FogError as error:
                answer = error
        self._answered(answer)
