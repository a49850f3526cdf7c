"""The pull consumers of one term: made, asked, renewed and deleted only while the lease is valid.

Their names carry the term. A successor deletes those of earlier terms, so that what they held is delivered anew; it never
touches a later one, since then it is itself the one that was deposed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial

from schemas import jetstream, limits, streams
from schemas.bus import Bus
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.logs import fields
from schemas.pull import Message, Puller

log = logging.getLogger("fog.consumers")

PULL_BATCH = 500
OVERLAPS = 10100  # the server's word for a second consumer on the same subjects of a work queue
AGAIN_S = 0.05  # between two tries while an older consumer is in the way
STUBBORN_S = (
    2 * limits.LEASE_S
)  # a later term's consumer that outlives our lease this long is left over from a lost bucket
DELETE_S = 1.0
_term = re.compile(rf"{streams.COORDINATOR_CONSUMER}(\d+)_\w+").fullmatch


def consumer_name(what: str, term: int) -> str:
    """The consumer of a term: ``FOG_coordinator_7_outcomes``."""
    return f"{streams.COORDINATOR_CONSUMER}{term}_{what}"


async def drop_old_consumers(bus: Bus, term: int, *, later: bool = False) -> None:
    """Delete the consumers of terms before `term` (with `later` also of those after it); what they held comes anew."""
    for stream in (streams.TASKS, streams.OUTCOMES):
        for name in await jetstream.consumers(bus, stream):
            found = _term(name)
            if found and (int(found[1]) < term or (later and int(found[1]) != term)):
                await jetstream.delete_consumer(bus, stream, name)


class Consumers:
    """What one term pulls. `may` says whether the lease is valid: without it nothing is made, and nothing asked for."""

    def __init__(self, bus: Bus, term: int, may: Callable[[], bool]) -> None:
        self._bus, self._term, self._may = bus, term, may
        self._loop = asyncio.get_running_loop()
        self._pullers: list[Puller] = []
        self._made: list[tuple[str, str]] = []
        self._renewing: asyncio.Task[None] | None = None

    async def pull(
        self,
        stream: str,
        what: str,
        subject: str,
        on_message: Callable[[Message], None],
        *,
        pending_max: int,
        room: Callable[[], int],
    ) -> None:
        """Make the consumer and pull from it, as much as `room()` says. Raises Unreachable once the lease is over."""
        name = consumer_name(what, self._term)
        make = partial(self._make, stream, name, subject, pending_max)
        await make()
        self._made.append((stream, name))
        puller = Puller(
            self._bus,
            stream,
            name,
            on_message,
            batch=PULL_BATCH,
            on_missing=make,
            room=lambda: room() if self._may() else 0,
        )
        self._pullers.append(puller)
        await puller.start()

    async def _make(self, stream: str, name: str, subject: str, pending_max: int) -> None:
        """An older coordinator's process that still lives may make its own again between our deletion and our creation."""
        began = self._loop.time()
        while True:
            self._check()
            try:
                await jetstream.create_consumer(
                    self._bus,
                    stream,
                    name,
                    filter_subject=subject,
                    ack_wait_s=limits.TASKS_ACK_WAIT_S,
                    max_ack_pending=pending_max,
                )
                return
            except StoreRefused as error:
                if error.code != OVERLAPS:
                    raise
            self._check()
            await drop_old_consumers(self._bus, self._term, later=self._loop.time() - began > STUBBORN_S)
            await asyncio.sleep(AGAIN_S)

    def _check(self) -> None:
        if not self._may():
            raise Unreachable("the lease is over: no consumer is made")

    def ask(self) -> None:
        """Ask for more where there is room."""
        for puller in self._pullers:
            puller.ask()

    def renew(self, before: Callable[[], Awaitable[None]]) -> None:
        """Acks went with the old connection. What they were for is delivered anew by new consumers, after `before`."""
        if self._renewing is None or self._renewing.done():
            self._renewing = self._loop.create_task(self._renew(before))

    async def _renew(self, before: Callable[[], Awaitable[None]]) -> None:
        left = list(self._made)
        while left:
            try:
                self._check()
                await before()
                while left:
                    self._check()
                    await jetstream.delete_consumer(self._bus, *left[-1])  # its puller makes it anew
                    left.pop()
            except FogError as error:
                log.info("the consumers are renewed later", extra=fields(error=error.message))
                await asyncio.sleep(10 * AGAIN_S)

    async def stop(self) -> None:
        """Pull no more. While the lease is still ours our consumers go, and what they held is free for the successor."""
        if self._renewing is not None:
            self._renewing.cancel()
        for puller in self._pullers:
            await puller.stop()
        if not self._may():
            return
        with contextlib.suppress(FogError, TimeoutError):
            async with asyncio.timeout(DELETE_S):
                await asyncio.gather(*(jetstream.delete_consumer(self._bus, *made) for made in self._made))
