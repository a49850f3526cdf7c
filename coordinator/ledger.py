"""The ledger's shell: it reads claims, watches beats, and appends to the book, which only the acting coordinator can.

Each entry is stored on the condition that the one before it is the book's last (`Nats-Expected-Last-Subject-Sequence`), so of
two coordinators that both believe to act, one is refused, reads the book anew and goes on from there. What was seen of a
node's harvesting is written with the entries, at the latest every `OBSERVED_S`: so much of a session's pay, and the moment
in which nobody acted, is what a takeover can cost; what was never seen by anybody is never paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Collection
from typing import Any

from msgspec import Struct

from coordinator import harvest
from coordinator.areas import Area, Endpoints, Term
from coordinator.core.ledger import figures
from coordinator.core.ledger.book import Book, Heard, heard
from coordinator.core.ledger.watch import Watch, beat_of
from coordinator.refusal import Refusal
from schemas import jetstream, limits, streams, subjects
from schemas.api import Done
from schemas.bus import Subscription
from schemas.codec import encode
from schemas.errors import BadInput, FogError, Unreachable
from schemas.harvest import HarvestListRequest, HarvestRequest
from schemas.ledger import RATE, CorrectRequest, Entry, LedgerReply, LedgerRequest, opened
from schemas.logs import fields

log = logging.getLogger("fog.ledger")

OBSERVED_S = 30.0  # what was seen is in the book after this at the latest
CLAIMS_S = 1.0  # claims wait this long for company
CLAIMS_MAX = 500  # of one entry
CORRECTIONS_MAX = 100  # that wait to be booked
AGAIN_S = 1.0  # until a book that could not be appended to is read anew
STORE_S = 10.0  # for the broker to confirm an entry


class Ledger(Area):
    """Claims in, entries out."""

    name = "ledger"

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self.book = Book()
        self.watch = Watch()
        self._book_seq = 0  # of the last entry in FOG_BOOK
        self._ready = False
        self._told = True  # somebody may have claimed something that was not read yet
        self._due_at = 0.0
        self._observed_at = 0.0
        self._corrections: deque[tuple[CorrectRequest, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._appending = asyncio.Lock()  # while an entry is in force here, and not known to be stored
        self._task: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None

    def endpoints(self) -> Endpoints:
        """Balances, corrections, and what harvesting devices do."""
        return {
            "ledger.accounts": (LedgerRequest, self._accounts),
            "ledger.correct": (CorrectRequest, self._correct),
            "harvest.list": (HarvestListRequest, self._devices),
            "harvest.node": (HarvestRequest, self._device),
        }

    async def start(self) -> None:
        """Read the book, then listen for claims."""
        await self._read()
        self._subscription = await self.term.bus.subscribe(subjects.ledger("*"), self._on_claim)
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """What was seen lately is not written any more."""
        if self._task is not None:
            self._task.cancel()
        if self._subscription is not None:
            await self._subscription.close()
        for _, booked in self._corrections:
            booked.cancel()

    # What happens.

    def changed(self, nodes: Collection[str], now: float) -> None:
        """Forget what nobody knows any more."""
        for node in nodes:
            if node not in self.term.nodes:
                self.watch.forget(node)

    def tick(self, now: float) -> None:
        """Look at the nodes' latest beats; let the book be written when there is reason to."""
        for node in self.term.nodes.values():
            if node.harvest_state:
                self.watch.beat(node.id, beat_of(node))
        claims_due = self._told and now >= self._due_at
        if self._ready and (claims_due or now - self._observed_at >= OBSERVED_S):
            self._wake.set()

    def _on_claim(self, *_: Any) -> None:
        self._told = True

    # The book.

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if not self._ready:
                    await self._read()
                await self._append_all()
            except FogError as error:
                log.warning("the book is read anew", extra=fields(error=error.message))
                self._ready = False
                await asyncio.sleep(AGAIN_S)
                self._wake.set()

    async def _read(self) -> None:
        """All of it. Raises Unreachable when it is damaged, or not ours to go on with: nothing is appended then."""
        book, bus = Book(), self.term.bus
        claims: dict[int, Heard] = {}
        pages = jetstream.read_pages(bus, streams.LEDGER, subjects.ledger("*"))
        read_to, last = 0, 0
        async for page in jetstream.read_pages(bus, streams.BOOK, subjects.BOOK_ENTRY):
            for message in page:
                try:
                    entry = opened(message.data)
                    while read_to < entry.claims_seq and (more := await anext(pages, None)):
                        claims |= {one.seq: _heard(one) for one in more}
                        read_to = more[-1].seq
                    book.replay(entry, claims)
                except BadInput as error:
                    raise Unreachable(
                        f"the book is damaged: {error}", hint="nothing more is paid; `fog ledger verify` says where"
                    ) from None
                for taken in entry.taken:
                    claims.pop(taken.seq, None)
                last = message.seq
        await pages.aclose()
        if book.term > self.term.number:
            raise Unreachable(f"the book was written by the later term {book.term}")
        self.book, self._book_seq = book, last
        self._ready = self._told = True
        log.info("the book is read", extra=fields(entries=book.number, accounts=len(book.accounts)))

    async def _append_all(self) -> None:
        """Entries for everything that is there."""
        now = self.term.clock()
        self._told, self._due_at, self._observed_at = False, now + CLAIMS_S, now
        pages = jetstream.read_pages(self.term.bus, streams.LEDGER, subjects.ledger("*"), self.book.claims_seq + 1)
        async with contextlib.aclosing(pages):
            async for page in pages:
                for start in range(0, len(page), CLAIMS_MAX):
                    await self._append([_heard(message) for message in page[start : start + CLAIMS_MAX]])
        if self.watch:
            await self._append([])
        while self._corrections:
            request, booked = self._corrections[0]
            await self._append([], request)
            self._corrections.popleft()
            if not booked.done():
                booked.set_result(None)

    async def _append(self, claims: list[Heard], request: CorrectRequest | None = None) -> None:
        async with self._appending:
            await self._append_one(claims, request)

    async def _append_one(self, claims: list[Heard], request: CorrectRequest | None) -> None:
        seen = self.watch.take()
        entry = self.book.draft(
            claims, seen, at_ms=round(1000 * self.term.clock()), term=self.term.number,
            coordinator=self.term.coordinator, rate=RATE, correction=request.correction if request else None,
        )  # fmt: skip
        if entry is None:
            return
        try:
            await self._put(entry)
        except FogError:
            self._ready = False
            self.watch.put_back(seen)
            raise
        for one in entry.taken:
            if one.problem:
                self.term.bad.add("claim", subjects.ledger(one.node), one.problem)

    async def _put(self, entry: Entry) -> None:
        if not self.term.may():
            raise Unreachable("the lease is over")
        headers = b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % self._book_seq
        ack = await self.term.store.put(
            subjects.BOOK_ENTRY, encode(entry), msg_id=f"{entry.number}.{entry.digest}", headers=headers,
            timeout_s=STORE_S,
        )  # fmt: skip
        self._book_seq = ack.seq

    # Requests.

    async def _accounts(self, request: LedgerRequest) -> Struct:
        last = jetstream.last_seq(await jetstream.stream_info(self.term.bus, streams.LEDGER))
        async with self._appending:
            return self._told_now(request, last)

    def _told_now(self, request: LedgerRequest, last: int) -> LedgerReply:
        self.check_ready()
        book = self.book
        if request.node and request.node not in book.accounts:
            raise Refusal(
                "unknown-node", f"{request.node} has claimed nothing", "`fog ledger` lists the accounts", "node"
            )
        nodes = [request.node] if request.node else sorted(book.accounts)
        page = nodes[request.page * limits.PAGE : (request.page + 1) * limits.PAGE]
        micro, paid_ms = book.totals()
        return LedgerReply(
            tuple(map(book.row, page)), len(nodes), request.page, micro, paid_ms, book.number, book.head, RATE,
            max(0, last - book.claims_seq),
        )  # fmt: skip

    async def _correct(self, request: CorrectRequest) -> Struct:
        self.check_ready()
        correction = request.correction
        if correction.node not in self.book.accounts:
            raise Refusal(
                "unknown-node", f"{correction.node} has no account", "`fog ledger` lists the accounts", "node"
            )
        if correction.id in self.book.corrections:
            return Done("it was booked before")
        if len(self._corrections) >= CORRECTIONS_MAX:
            raise Refusal("busy", "too many corrections wait to be booked", "try again in a moment")
        booked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._corrections.append((request, booked))
        self._wake.set()
        await booked
        return Done("booked")

    async def _devices(self, request: HarvestListRequest) -> Struct:
        async with self._appending:
            self.check_ready()
            return figures.network(self.term.nodes, self.book, request.page)

    async def _device(self, request: HarvestRequest) -> Struct:
        self.check_ready()
        return await harvest.info(self.term, self.book, request.node)

    def check_ready(self) -> None:
        """Refuse while the book is being read."""
        if not self._ready:
            raise Refusal("not-ready", "the book is being read", "ask again in a second")


def _heard(message: jetstream.StoredMessage) -> Heard:
    return heard(message.seq, subjects.tail(message.subject, 1)[0], message.data)
