"""Storing messages under a term's mark: each tried by one voice until the broker has given an answer that stands.

Of several servers, the one that leads the stream refuses what compares with the mark while another such message is being
stored (198 of 200 that were sent together): there one follows the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
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
        self._line: deque[_Post] = deque()  # those that wait for their turn
        self._under_way = 0

    def post(self, subject: str, data: bytes, msg_id: str, over: Over) -> None:
        """Store a message. `over` gets the Ack, StoreRefused where its subject holds one already, or BadInput for what is too
        large for the broker; never anything else, and nothing once the term is over."""
        self.send(_Post(self, subject, data, msg_id, over))

    def send(self, post: _Post) -> None:
        """In its turn."""
        self._line.append(post)
        self._send_next()

    def answered(self) -> None:
        """One is no longer under way."""
        self._under_way -= 1
        if self._line:  # not from within: an answer may come while that very message is being sent
            asyncio.get_running_loop().call_soon(self._send_next)

    def _send_next(self) -> None:
        while self._line and not (self._under_way and self.fence.one_at_a_time):
            self._under_way += 1
            self._line.popleft().send()


class _Post:
    """One message on its way."""

    def __init__(self, by: Fenced, subject: str, data: bytes, msg_id: str, over: Over) -> None:
        self._by, self._subject, self._data, self._msg_id, self._over = by, subject, data, msg_id, over
        self._wait_s = AGAIN_S[0]

    def send(self) -> None:
        by = self._by
        by.store.post(self._subject, self._data, self._msg_id, self._answered, headers=by.fence.headers())

    def _answered(self, answer: Ack | FogError) -> None:
        self._by.answered()
        if isinstance(answer, Ack | BadInput) or (isinstance(answer, StoreRefused) and answer.exists):
            self._over(answer)
            return
        if not outdated(answer):
            log.error("a message was not stored", extra=fields(subject=self._subject, error=str(answer)))
        self._by.spawn(self._send_again())

    async def _send_again(self) -> None:
        """After a look at the mark."""
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(AGAIN_S[1], 2 * self._wait_s)
        try:
            await self._by.fence.renew()
        except FogError as error:
            log.info("the term's mark cannot be looked at", extra=fields(subject=self._subject, error=error.message))
        self._by.send(self)
