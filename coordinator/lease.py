"""Who acts: one key held by compare-and-set, with a lifetime. The revision at which it was taken is the *term*.

The holder renews every ``LEASE_S / 4`` and counts its deadline from *before* each renewal was sent, on a clock that runs
through the machine's sleep: it stops acting before the broker lets the key expire and another take it. Renewals do not
change the term.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from datetime import datetime

from schemas import jetstream, limits, streams
from schemas.bus import Bus, header
from schemas.codec import Decoder, encode
from schemas.errors import Conflict, FogError
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import Holder
from schemas.store import Store
from schemas.ticks import ticks

log = logging.getLogger("fog.lease")

RENEW_S = limits.LEASE_S / 4
SOON_S, SOON_TIMES = 0.01, 10
MARGIN_S = 0.2  # the holder stops this long before its deadline


_holder = Decoder(Holder)


class Lease:
    """The coordinator's lease. `acquire` waits for it; then `keep` renews it until it is lost."""

    def __init__(self, bus: Bus, store: Store, name: str) -> None:
        self._bus, self._name = bus, name
        self._kv = Kv(bus, store, streams.LEASES)
        self._revision = 0
        self._deadline = 0.0
        self.term = 0
        self.taken_at = 0.0  # ticks
        self.told: tuple[float, float] | None = None  # its write by the broker's clock, and our ticks at the answer

    @property
    def valid(self) -> bool:
        """Whether we may act at this moment."""
        return ticks() < self._deadline

    async def acquire(self) -> int:
        """Wait until the lease is ours; the new term. Candidates look at intervals with jitter, and at once when the holder
        gives it up; one write wins."""
        given_up = asyncio.Event()

        def heard(_subject: str, _reply: str, _data: bytes, headers: bytes) -> None:
            if header(headers, b"KV-Operation"):
                given_up.set()

        watch = await self._bus.subscribe(self._kv.subject(streams.LEASE_KEY), heard)
        try:
            return await self._acquire(given_up)
        finally:
            await watch.close()

    async def _acquire(self, given_up: asyncio.Event) -> int:
        told, soon = "", 0
        while True:
            with contextlib.suppress(FogError):
                entry = await self._kv.get(streams.LEASE_KEY, even_deleted=True)
                if entry is None or entry.deleted:
                    if await self._take(entry.revision if entry else 0):
                        return self.term
                elif (holder := _holder(entry.value).coordinator) != told:
                    log.info("following: another coordinator acts", extra=fields(holder=holder))
                    told = holder
            # What gives it up is heard before it is stored: a few looks follow one another.
            soon -= 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOON_S if soon > 0 else RENEW_S * random.uniform(0.3, 0.7)):
                    await given_up.wait()
                given_up.clear()
                soon = SOON_TIMES

    async def _take(self, revision: int) -> bool:
        before = ticks()
        try:
            taken = await self._write(revision, Holder(self._name))
        except Conflict:
            return False
        self.term = self._revision = taken
        self.taken_at = ticks()
        self._deadline = before + limits.LEASE_S - MARGIN_S
        await self._ask_when(self.taken_at)
        return True

    async def _ask_when(self, answered: float) -> None:
        """The broker's time of the write is by its own clock: what we judge deadlines by."""
        with contextlib.suppress(FogError, ValueError):
            message = await jetstream.get_message(self._bus, f"KV_{streams.LEASES}", seq=self.term, timeout_s=0.5)
            if message is not None:
                self.told = datetime.fromisoformat(message.time).timestamp(), answered

    async def _write(self, revision: int, holder: Holder) -> int:
        ttl_s = math.ceil(limits.LEASE_S)
        return await self._kv.update(streams.LEASE_KEY, encode(holder), revision, ttl_s=ttl_s, timeout_s=limits.LEASE_S)

    async def keep(self) -> None:
        """Renew until somebody else holds the lease; returns then. While the broker does not answer, `valid` ends by itself."""
        while True:
            before = ticks()
            try:
                self._revision = await self._write(self._revision, Holder(self._name, self.term))
            except Conflict:
                known = self._revision
                if not await self._was_ours():
                    self._deadline = 0.0
                    return
                if self._revision != known:
                    continue  # that write is older than `before`: the deadline waits for the next
            except FogError as error:
                log.warning("the lease was not renewed", extra=fields(error=error.message))
            else:
                self._deadline = before + limits.LEASE_S - MARGIN_S
            await asyncio.sleep(RENEW_S)

    async def _was_ours(self) -> bool:
        """A conflict may be with a renewal of our own whose answer was lost: look who wrote last."""
        try:
            entry = await self._kv.get(streams.LEASE_KEY)
            if entry is None or _holder(entry.value) != Holder(self._name, self.term):
                return False
        except FogError:
            return True  # the broker does not say: try again, `valid` guards meanwhile
        self._revision = entry.revision
        return True

    async def release(self) -> None:
        """Give it up at once, so that a successor need not wait."""
        self._deadline = 0.0
        with contextlib.suppress(FogError):
            try:
                await self._kv.delete(streams.LEASE_KEY, self._revision)
            except Conflict:  # with a renewal that was under way
                if await self._was_ours():
                    await self._kv.delete(streams.LEASE_KEY, self._revision)
