"""The ledger's area on a real broker: paid once, whoever appends, and never by two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from client.ledger import Ledger as Reader
from client.ledger import verify
from coordinator import ledger
from coordinator.areas import Term
from coordinator.core.nodeview import NodeView
from coordinator.inbound import Bad
from coordinator.ledger import Ledger
from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.codec import encode
from schemas.device import DeviceCapabilities
from schemas.errors import StoreRefused, Unreachable
from schemas.jetstream import ensure_streams
from schemas.ledger import AccountRow, Claim, Correction, CorrectRequest, LedgerReply, LedgerRequest
from schemas.membership import NodeRecord, Offer
from schemas.store import Store
from schemas.target import Target
from tests.until import eventually

T0 = 1_800_000_000.0


class Desk:
    """A broker, and areas as terms of coordinators make them. Time passes when a test says so."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.store, self.now = bus, Store(bus), T0
        self.bad = Bad()
        self.nodes: dict[str, NodeView] = {}
        self.areas: list[Ledger] = []

    async def area(self, number: int) -> Ledger:
        events, name = cast(Any, None), f"c{number}"
        term = Term(
            self.bus,
            self.store,
            events,
            self.bad,
            lambda: self.now,
            number,
            name,
            lambda: True,
            self.nodes,
            lambda event: None,
        )
        made = Ledger(term)
        await made.start()
        self.areas.append(made)
        return made

    def harvests(self, node: str, seconds: int) -> None:
        """The node is seen to harvest for so long."""
        view = self.nodes.get(node)
        if view is None:
            record = NodeRecord(node, "", "s", 1, DeviceCapabilities(), Offer(), T0, T0)
            view = self.nodes[node] = NodeView(record, 0, 5.0)
        view.harvest_state, view.clock_ahead_s = "harvesting", 0.0
        for _ in range(0, seconds + 1, 5):
            view.last_beat, view.next_due = self.now, self.now + 5.5
            for area in self.areas:
                area.tick(self.now)
            self.now += 5.0
        self.now -= 5.0

    async def claim(self, number: int, start: float, end: float, node: str = "n1") -> None:
        """Store a claim without an id, so that the broker lets it through however often it comes."""
        spans = ((round(1000 * (T0 + start)), round(1000 * (T0 + end))),)
        await self.store.put(subjects.ledger(node), encode(Claim(f"s1.{number}", node, "s1", 0, spans)))

    async def taken(self, area: Ledger, claims: int) -> None:
        """Let it write until so many claims are in the book, with all that was seen."""

        def enough() -> bool:
            self.now += 0.5
            area.tick(self.now)
            return area.book.claims_seq >= claims and not area.watch and not area._appending.locked()

        await eventually(enough, what=f"{claims} claims in the book")

    async def row(self, area: Ledger, node: str = "n1") -> AccountRow:
        answer = area.endpoints()["ledger.accounts"][1]
        return cast(LedgerReply, await answer(LedgerRequest(node))).accounts[0]

    def reader(self) -> Reader:
        return Reader(self.bus, cast(Any, None))


@pytest.fixture
async def desk(target: Target) -> AsyncIterator[Desk]:
    bus = await Bus.connect(target, name="ledger-test")
    await ensure_streams(bus)
    made = Desk(bus)
    yield made
    for area in made.areas:
        await area.stop()
    made.store.close()
    await bus.close()


async def test_a_claim_that_comes_again_a_night_later_is_paid_once_also_by_a_successor(desk: Desk) -> None:
    first = await desk.area(1)
    desk.harvests("n1", 100)
    await desk.claim(1, 0, 60)
    await desk.taken(first, 1)
    await desk.claim(1, 0, 60)
    await desk.taken(first, 2)
    assert (await desk.row(first)).paid_ms == 60_000
    await first.stop()
    successor = await desk.area(2)
    assert await desk.row(successor) == await desk.row(first)
    await desk.claim(1, 0, 60)
    await desk.taken(successor, 3)
    assert (await desk.row(successor)).paid_ms == 60_000
    verdict = await desk.reader().verify()
    assert (verdict.problems, verdict.paid_ms, verdict.claims) == ((), {"n1": 60_000}, 3)


async def test_time_that_a_coordinator_did_not_see_is_not_paid(desk: Desk) -> None:
    area = await desk.area(1)
    await desk.claim(1, 0, 3600)
    await desk.claim(2, 0, 3600, node="stranger")
    desk.harvests("n1", 20)
    await desk.taken(area, 2)
    assert (await desk.row(area)).paid_ms == 20_000
    assert (await desk.row(area, "stranger")).paid_ms == 0


async def test_of_two_that_both_believe_to_act_one_is_refused_and_nothing_is_paid_twice(desk: Desk) -> None:
    old = await desk.area(1)
    new = await desk.area(2)
    desk.harvests("n1", 60)
    await desk.claim(1, 0, 60)
    await desk.taken(new, 1)
    old._told = True
    desk.now += 5
    old.tick(desk.now)
    # Its entry was refused by the broker; the book that it reads then is of a later term, so it appends nothing more.
    await eventually(lambda: not old._ready)
    assert int((await jetstream.stream_info(desk.bus, streams.BOOK))["state"]["messages"]) == new.book.number
    assert (await desk.reader().verify()).problems == ()
    assert (await desk.row(new)).paid_ms == 60_000


async def test_two_of_one_term_go_on_from_each_others_entries(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "AGAIN_S", 0.0)
    both = [await desk.area(3), await desk.area(3)]
    desk.harvests("n1", 300)
    for number in range(6):
        await desk.claim(number, 50 * number, 50 * number + 40)
        desk.now += 5
        for area in both:
            area._told = True
            area.tick(desk.now)

    def all_there() -> bool:
        desk.now += 0.5
        for area in both:
            area.tick(desk.now)
        return all(area.book.claims_seq == 6 and area._ready for area in both)

    await eventually(all_there)
    verdict = await desk.reader().verify()
    assert (verdict.problems, verdict.paid_ms) == ((), {"n1": 240_000})


async def test_a_claim_that_makes_no_sense_is_booked_as_such_and_stops_nothing(desk: Desk) -> None:
    area = await desk.area(1)
    for data in (b"", b"\xff\x00", b"[]", encode(Claim("s1.1", "n2", "s1", 0))):
        await desk.store.put(subjects.ledger("n1"), data)
    await desk.store.put(subjects.ledger("No_Id"), b"{}")
    desk.harvests("n1", 60)
    await desk.claim(1, 0, 50)
    await desk.taken(area, 6)
    row = await desk.row(area)
    assert (row.paid_ms, row.refused) == (50_000, 4)
    assert desk.bad.counts["claim"] == 5
    assert (await desk.reader().verify()).problems == ()


async def test_a_correction_is_booked_once_however_often_it_is_asked(desk: Desk) -> None:
    area = await desk.area(1)
    desk.harvests("n1", 60)
    await desk.claim(1, 0, 60)
    await desk.taken(area, 1)
    ask = area.endpoints()["ledger.correct"][1]
    request = CorrectRequest(Correction("fix-1", "n1", -1_000_000, "a stuck clock"))
    for _ in range(3):
        await ask(request)
    row = await desk.row(area)
    assert row.corrected == -1_000_000
    assert (await desk.reader().verify()).micro["n1"] == row.micro


async def test_a_byte_that_was_changed_in_a_stream_is_found_and_the_book_is_not_gone_on_with(desk: Desk) -> None:
    area = await desk.area(1)
    desk.harvests("n1", 200)
    for number in range(3):
        await desk.claim(number, 50 * number, 50 * number + 40)
        await desk.taken(area, number + 1)
    await area.stop()
    for stream, place in ((streams.BOOK, 2), (streams.LEDGER, 2)):
        sound = [message async for page in jetstream.read_pages(desk.bus, stream, ">") for message in page]
        await rewrite(desk, stream, sound, damaged=place)
        assert (await desk.reader().verify()).problems
        with pytest.raises(Unreachable, match="damaged"):
            await desk.area(2)
        await rewrite(desk, stream, sound)
        assert (await desk.reader().verify()).problems == ()


async def rewrite(desk: Desk, stream: str, messages: list[jetstream.StoredMessage], damaged: int = 0) -> None:
    """Make the stream anew with the same messages, one of them with a byte that is not as it was."""
    await jetstream.call(desk.bus, f"STREAM.DELETE.{stream}")
    await ensure_streams(desk.bus)
    for message in messages:
        data = bytearray(message.data)
        if message.seq == damaged:
            data[len(data) // 2] ^= 1
        await desk.store.put(message.subject, bytes(data))


async def test_nobody_can_delete_what_the_ledger_keeps(desk: Desk) -> None:
    await desk.claim(1, 0, 60)
    with pytest.raises(StoreRefused):
        await jetstream.call(desk.bus, f"STREAM.MSG.DELETE.{streams.LEDGER}", {"seq": 1})
    with pytest.raises(StoreRefused):
        await jetstream.call(desk.bus, f"STREAM.PURGE.{streams.LEDGER}")
    assert verify([line async for line in desk.reader().events()]).unbooked == 1
