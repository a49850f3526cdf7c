"""The pull consumers of one term: made, asked, renewed and deleted only while the lease is valid.

Their names carry the term. A successor deletes those of earlier terms, so that what they held is delivered anew; it never
touches a later one, since then it is itself the one that was deposed.

Acks are not confirmed, and some are lost: with a connection, with the server that led the consumer, in between. The broker
would wait for them for `limits.TASKS_ACK_WAIT_S`. So it is asked now and then which delivery it has waited for longest; where
that one is held by nobody here, the consumer is made anew, and what it held comes again.
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
LOOK_S = 2.0  # between two looks at what the broker waits for; what it still waits for at the second one was lost
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
    """What one term pulls. `may` says whether the lease is valid: without it nothing is made, and nothing asked for.
    `holds` says of a consumer's delivery, by its number, whether it is still to be acked here."""

    def __init__(self, bus: Bus, term: int, may: Callable[[], bool], holds: Callable[[str, int], bool]) -> None:
        self._bus, self._term, self._may, self._holds = bus, term, may, holds
        self._loop = asyncio.get_running_loop()
        self._pullers: list[Puller] = []
        self._made: list[tuple[str, str]] = []
        self._links = 0
        self._stale: list[tuple[str, str]] = []  # consumers of before the link was back
        self._renewing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

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
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())

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
        self._links += 1
        self._stale = list(self._made)
        if self._renewing is None or self._renewing.done():
            self._renewing = self._loop.create_task(self._renew(before))

    async def _renew(self, before: Callable[[], Awaitable[None]]) -> None:
        while self._stale:
            links = self._links
            try:
                self._check()
                await before()
                while self._stale and links == self._links:
                    self._check()
                    await jetstream.delete_consumer(self._bus, *self._stale[-1])  # its puller makes it anew
                    if links == self._links:
                        self._stale.pop()
            except FogError as error:
                log.info("the consumers are renewed later", extra=fields(error=error.message))
                await asyncio.sleep(10 * AGAIN_S)

    async def _look(self) -> None:
        """Find what the broker waits for in vain."""
        suspects: dict[str, int] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            for stream, name in self._made if not self._stale else ():
                with contextlib.suppress(FogError):
                    suspects[name] = await self._look_at(stream, name, suspects.get(name, 0))

    async def _look_at(self, stream: str, name: str, before: int) -> int:
        """The delivery that a consumer waits for and that is not held here; one that was so `before` was lost."""
        number = await jetstream.oldest_unacked(self._bus, stream, name)
        if not number or self._holds(name, number):
            return 0
        if number != before:
            return number
        self._check()
        log.warning(
            "an ack or a delivery was lost: what is open comes again", extra=fields(consumer=name, number=number)
        )
        await jetstream.delete_consumer(self._bus, stream, name)
        return 0

    async def stop(self) -> None:
        """Pull no more. While the lease is still ours our consumers go, and what they held is free for the successor."""
        for task in (self._renewing, self._looking):
            if task is not None:
                task.cancel()
        for puller in self._pullers:
            await puller.stop()
        if not self._may():
            return
        with contextlib.suppress(FogError, TimeoutError):
            async with asyncio.timeout(DELETE_S):
                await asyncio.gather(*(jetstream.delete_consumer(self._bus, *made) for made in self._made))
