"""The ledger: whatever is claimed, however often and in whatever order, is paid once, and never without having been seen."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.core.ledger.book import Book, Heard, heard
from coordinator.core.ledger.watch import Beat, Watch, beat_of
from coordinator.core.liveness import grace_s
from coordinator.core.nodeview import NodeView
from node.core.beats import JITTER, stretched_s
from schemas import limits
from schemas.advice import PowerMode
from schemas.codec import encode
from schemas.device import DeviceCapabilities
from schemas.errors import BadInput
from schemas.ledger import HOUR_MS, MICRO, RATE, Claim, Correction, Entry, opened
from schemas.membership import NodeRecord, Offer
from schemas.spans import Span, Spans

T0 = 1_800_000_000_000
SPAN = st.tuples(st.integers(0, 400), st.integers(1, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))
SPANS = st.lists(SPAN, max_size=8)


def moments(spans: list[Span] | Spans) -> set[int]:
    return {at for start, end in spans for at in range(start, end)}


@given(SPANS, SPAN)
def test_spans_are_sets_of_moments(spans: list[Span], more: Span) -> None:
    made = Spans(spans)
    assert moments(made) == moments(spans)
    assert made.total_ms == len(moments(spans))
    assert made.covered_ms(more) == len(moments([more]) & moments(spans))
    assert all(a_end < b_start for (_, a_end), (b_start, _) in pairwise(made))
    assert moments(made.add(more)) == moments([more]) - moments(spans)
    assert moments(made) == moments([*spans, more])


# The book.


class Teller:
    """Appends to a book as the coordinator does; `entries` and `claims` are what the broker would hold."""

    def __init__(self) -> None:
        self.book = Book()
        self.entries: list[Entry] = []
        self.claims: dict[int, Heard] = {}
        self.at_ms = T0

    def claim(self, claim_id: str, *spans: Span, node: str = "n1") -> Heard:
        claim = Claim(claim_id, node, claim_id.rpartition(".")[0], 0, spans)
        return self.message(encode(claim), node)

    def message(self, data: bytes, node: str = "n1") -> Heard:
        message = heard(len(self.claims) + 1, node, data)
        self.claims[message.seq] = message
        return message

    def append(self, *messages: Heard, correction: Correction | None = None, **seen: list[Span]) -> Entry | None:
        self.at_ms += 1000
        entry = self.book.draft(
            messages, {node: tuple(spans) for node, spans in seen.items()}, at_ms=self.at_ms, term=1, coordinator="c1",
            correction=correction,
        )  # fmt: skip
        if entry is not None:
            self.entries.append(entry)
        return entry

    def again(self) -> Book:
        """The book as a successor reads it."""
        book = Book()
        for entry in self.entries:
            book.replay(opened(encode(entry)), self.claims)
        return book


def test_an_hour_that_was_claimed_and_seen_is_a_hundred_tokens() -> None:
    teller = Teller()
    entry = teller.append(teller.claim("s1.1", (0, HOUR_MS)), n1=[(0, HOUR_MS)])
    assert entry is not None
    assert [(posting.account, posting.micro) for posting in entry.postings] == [
        ("mint", -100 * MICRO),
        ("node.n1", 100 * MICRO),
    ]
    assert teller.book.row("n1").micro == 100 * MICRO


def test_what_was_not_seen_earns_nothing_until_it_is_known_to_have_been_seen() -> None:
    teller = Teller()
    teller.append(teller.claim("s1.1", (0, 1000), (2000, 3000)))
    assert teller.book.row("n1").micro == 0
    teller.append(n1=[(500, 2500)])
    assert teller.book.row("n1").paid_ms == 1000
    assert teller.book.row("n1").micro == 1000 * RATE // HOUR_MS


def test_the_same_claim_again_and_again_is_paid_once_a_night_later_too() -> None:
    teller = Teller()
    for _ in range(3):
        teller.append(teller.claim("s1.1", (0, 1000)), n1=[(0, 5000)])
    successor = teller.again()
    teller.book = successor
    teller.append(teller.claim("s1.1", (0, 1000)))
    assert teller.book.row("n1").paid_ms == 1000
    assert teller.book.row("n1").refused == 0


def test_time_under_another_id_is_not_paid_twice() -> None:
    teller = Teller()
    teller.append(teller.claim("s1.1", (0, 1000)), teller.claim("s2.1", (500, 1500)), n1=[(0, 5000)])
    assert teller.book.row("n1").paid_ms == 1500


def test_one_id_with_two_contents_counts_once_and_is_told() -> None:
    teller = Teller()
    entry = teller.append(teller.claim("s1.1", (0, 1000)), teller.claim("s1.1", (2000, 3000)), n1=[(0, 5000)])
    assert entry is not None and "with another content" in entry.taken[1].problem
    assert (teller.book.row("n1").paid_ms, teller.book.row("n1").refused) == (1000, 1)
    assert teller.again().row("n1") == teller.book.row("n1")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"nonsense", "message"),
        (encode(Claim("s1.1", "n2", "s1", 0)), "node"),
        (encode(Claim("s1.1", "n1", "s2", 0)), "id"),
        (encode(Claim("s1.1", "n1", "s1", 0, ((10, 20), (15, 30)))), "spans"),
        (encode(Claim("s1.1", "n1", "s1", 0, ((20, 10),))), "spans"),
        (encode(Claim("s1.1", "n1", "s1", 0, ((0, 1), (25 * HOUR_MS, 25 * HOUR_MS + 1)))), "spans"),
        (b'{"id":"s1.1","node":"n1","session":"s1","since":0,"spans":[[-5,3]]}', "spans"),
    ],
)
def test_a_claim_that_is_not_sound_is_refused_by_its_field_and_stays_refused(data: bytes, field: str) -> None:
    teller = Teller()
    entry = teller.append(teller.message(data), n1=[(0, 30 * HOUR_MS)])
    assert entry is not None and field in entry.taken[0].problem
    assert teller.book.row("n1").paid_ms == 0
    assert teller.again().head == teller.book.head


def test_a_correction_is_an_entry_of_its_own_and_booked_once() -> None:
    teller = Teller()
    fix = Correction("fix-1", "n1", -500, "paid for a broken clock")
    assert teller.append(correction=fix) is not None
    assert teller.append(correction=fix) is None
    assert (teller.book.row("n1").micro, teller.book.row("n1").corrected) == (-500, -500)
    assert teller.again().row("n1") == teller.book.row("n1")


def test_another_rate_counts_from_then_on() -> None:
    teller = Teller()
    teller.append(teller.claim("s1.1", (0, HOUR_MS)), n1=[(0, 2 * HOUR_MS)])
    message = teller.claim("s1.2", (HOUR_MS, 2 * HOUR_MS))
    entry = teller.book.draft([message], {}, at_ms=T0, term=2, coordinator="c2", rate=3 * RATE)
    assert entry is not None
    teller.entries.append(entry)
    assert teller.book.row("n1").micro == 400 * MICRO
    assert teller.again().row("n1").micro == 400 * MICRO


def test_a_book_that_does_not_follow_from_its_events_is_not_gone_on_with() -> None:
    teller = Teller()
    for number in range(3):
        teller.append(
            teller.claim(f"s1.{number}", (1000 * number, 1000 * number + 900)), n1=[(0, 1000 * number + 1000)]
        )
    first, second, third = teller.entries
    for damaged in ([first, third], [second], [first, second, second], [first, replace(second, at_ms=7), third]):
        teller.entries = damaged
        with pytest.raises(BadInput):
            teller.again()
    teller.entries = [first, second, third]
    teller.claims[2] = replace(teller.claims[2], digest="0" * 64)
    with pytest.raises(BadInput) as refused:
        teller.again()
    assert "claim 2" in str(refused.value)


def pieces(span: Span, cuts: list[int]) -> list[Span]:
    """The span, cut."""
    at = sorted({span[0], span[1], *(cut for cut in cuts if span[0] < cut < span[1])})
    return list(pairwise(at))


@given(
    claimed=st.lists(st.tuples(st.sampled_from(["n1", "n2"]), SPAN), max_size=8),
    seen=st.lists(st.tuples(st.sampled_from(["n1", "n2"]), SPAN), max_size=8),
    cuts=st.lists(st.integers(0, 460), max_size=5),
    seed=st.integers(0, 1 << 32),
)
def test_replayed_reordered_repeated_and_cut_otherwise_the_balances_are_the_same(
    claimed: list[tuple[str, Span]], seen: list[tuple[str, Span]], cuts: list[int], seed: int
) -> None:
    """Of any history: each moment that was both claimed and seen is paid once, and nothing else is."""
    random = Random(seed)
    told = [(node, part) for node, span in claimed for part in pieces(span, cuts)]
    told += random.sample(told, len(told) // 2)
    random.shuffle(told)
    sights = [(node, part) for node, span in seen for part in pieces(span, cuts)] * 2
    random.shuffle(sights)
    teller = Teller()
    while told or sights:
        now, told = told[: (some := random.randint(0, 3))], told[some:]
        look, sights = sights[: (some := random.randint(0, 3))], sights[some:]
        messages = [teller.claim(f"{n}-{a}-{b}.1", (a, b), node=n) for n, (a, b) in now]
        by_node: dict[str, list[Span]] = {}
        for node, span in look:
            by_node.setdefault(node, []).append(span)
        entry = teller.append(*messages, **by_node)
        assert entry is None or sum(posting.micro for posting in entry.postings) == 0
    for node in ("n1", "n2"):
        both = moments([s for n, s in claimed if n == node]) & moments([s for n, s in seen if n == node])
        row = teller.book.row(node)
        assert row.paid_ms == len(both)
        assert row.micro == len(both) * RATE // HOUR_MS
    successor = teller.again()
    assert (successor.head, successor.totals()) == (teller.book.head, teller.book.totals())
    assert {node: successor.row(node) for node in successor.accounts} == {
        node: teller.book.row(node) for node in teller.book.accounts
    }


# Watching.

GAP_MS = 15_000


def beat(sent_ms: int, heard_ms: int | None = None, *, boot: int = 1, harvesting: bool = True) -> Beat:
    return Beat(T0 + sent_ms, T0 + (sent_ms if heard_ms is None else heard_ms), boot, harvesting, GAP_MS)


def seen_by(*beats: Beat) -> list[Span]:
    watch = Watch()
    for one in beats:
        watch.beat("n1", one)
    return [(start - T0, end - T0) for start, end in watch.take().get("n1", ())]


@pytest.mark.parametrize(
    ("beats", "seen"),
    [
        ([beat(0), beat(5000), beat(10_000)], [(0, 10_000)]),
        ([beat(0)], []),
        ([beat(0, harvesting=False), beat(5000), beat(10_000, harvesting=False), beat(15_000)], [(5000, 10_000)]),
        ([beat(0), beat(5000), beat(20_001), beat(25_000)], [(0, 5000), (20_001, 25_000)]),  # one came too late
        ([beat(0), beat(5000, boot=2), beat(9000, boot=2)], [(5000, 9000)]),  # another boot
        ([beat(0, 500_000), beat(5000, 505_000)], [(0, 5000)]),  # its clock is behind: no matter
        ([beat(0), beat(5000, 5030), beat(10_000, 10_000)], [(0, 10_000)]),  # one was long on its way
        ([beat(0), beat(3_600_000, 5000), beat(3_605_000, 10_000)], [(3_600_000, 3_605_000)]),  # its clock jumped
        ([beat(0), beat(5000), beat(5000)], [(0, 5000)]),  # told twice
        ([beat(0), beat(6500, 5000), beat(13_000, 10_000), beat(18_000, 15_000)], [(0, 5000), (13_000, 18_000)]),
    ],
)
def test_what_beats_show(beats: list[Beat], seen: list[Span]) -> None:
    assert seen_by(*beats) == seen


def seen_s(gap_s: float, *, asleep: bool = False, lost_beat: bool = False) -> float:
    """For how long a node is seen to harvest whose beats come, and are announced, `gap_s` apart; ten such gaps pass."""
    watch = Watch()
    node = NodeView(NodeRecord("n1", "", "s", 1, DeviceCapabilities(), Offer(), 0.0, 0.0), 0, limits.HEARTBEAT_S)
    node.harvest_state, node.asleep = "harvesting", asleep
    for number in range(11):
        if lost_beat and number == 5:
            continue
        node.last_beat = T0 / 1000 + number * gap_s
        node.next_due = node.last_beat + gap_s + grace_s(node, gap_s)
        watch.beat("n1", beat_of(node))
    return sum(end - start for start, end in watch.take().get("n1", ())) / 1000


@pytest.mark.parametrize("mode", PowerMode)
def test_a_device_is_seen_by_beats_as_rare_as_its_power_mode_makes_them(mode: PowerMode) -> None:
    gap_s = stretched_s(limits.HEARTBEAT_S, mode) * (1 + JITTER)
    assert seen_s(gap_s) == pytest.approx(10 * gap_s)


def test_a_lost_beat_ends_nothing_of_which_a_node_is_not_lost_and_a_sleep_is_not_seen() -> None:
    assert seen_s(limits.HEARTBEAT_S, lost_beat=True) == pytest.approx(10 * limits.HEARTBEAT_S)
    assert seen_s(60.0) == 0
    assert seen_s(60.0, asleep=True) == 0


@given(
    st.lists(
        st.tuples(st.integers(-20_000, 20_000), st.integers(1, 20_000), st.booleans(), st.integers(1, 2)), max_size=30
    )
)
def test_never_more_is_seen_than_passed_here_whatever_a_clock_says(steps: list[tuple[int, int, bool, int]]) -> None:
    watch, sent, heard_ms = Watch(), 0, 0
    for more_sent, more_heard, harvesting, boot in steps:
        sent, heard_ms = max(0, sent + more_sent), heard_ms + more_heard
        watch.beat("n1", beat(sent, heard_ms, boot=boot, harvesting=harvesting))
    assert sum(end - start for start, end in watch.take().get("n1", ())) <= heard_ms
