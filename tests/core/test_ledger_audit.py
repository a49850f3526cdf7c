"""An audit believes nothing but the events: any byte that is not as it was is found, wherever it is."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from client.ledger import Line, exported, imported, verify
from coordinator.core.ledger.book import Book, heard
from schemas import streams, subjects
from schemas.codec import encode
from schemas.errors import BadInput
from schemas.ledger import Claim, Correction, Entry, Paid, Posting, opened, sealed


@cache
def history() -> tuple[Line, ...]:
    """Two nodes over some entries: claims seen and unseen, one that is refused, one that comes twice, a correction."""
    book, lines = Book(), []
    at = 1_800_000_000_000

    def line(stream: str, subject: str, data: bytes) -> Line:
        made = Line(stream, sum(other.stream == stream for other in lines) + 1, subject, data.decode())
        lines.append(made)
        return made

    def claim(node: str, data: bytes) -> int:
        return line(streams.LEDGER, subjects.ledger(node), data).seq

    def append(*claims: tuple[str, bytes], correction: Correction | None = None, **seen: tuple[int, int]) -> None:
        messages = [heard(claim(node, data), node, data) for node, data in claims]
        spans = {node: ((at + start, at + end),) for node, (start, end) in seen.items()}
        entry = book.draft(messages, spans, at_ms=at, term=1, coordinator="c1", correction=correction)
        assert entry is not None
        line(streams.BOOK, subjects.BOOK_ENTRY, encode(entry))

    def work(node: str, number: int, start: int, end: int) -> tuple[str, bytes]:
        return node, encode(Claim(f"s-{node}.{number}", node, f"s-{node}", at, ((at + start, at + end),)))

    append(n1=(0, 60_000))
    append(work("n1", 1, 0, 50_000), work("n2", 1, 1000, 9000), n1=(60_000, 90_000))
    append(work("n1", 1, 0, 50_000), ("n1", b'{"id":"broken"}'), n2=(0, 30_000))
    append(correction=Correction("fix-1", "n2", -100, "it ran twice"))
    append(work("n1", 2, 50_000, 95_000), n1=(90_000, 120_000))
    return tuple(lines)


def test_a_sound_ledger_is_sound_also_after_a_journey_through_a_file() -> None:
    verdict = verify(imported(b"".join(map(exported, history()))))
    assert verdict.problems == ()
    assert (verdict.entries, verdict.claims, verdict.unbooked) == (5, 5, 0)
    assert verdict.paid_ms == {"n1": 95_000, "n2": 8000}
    assert verdict.micro == {"n1": 95_000 * 10**8 // 3_600_000, "n2": 8000 * 10**8 // 3_600_000 - 100}
    assert verdict.mint == -sum(verdict.micro.values())


FILE = b"".join(map(exported, history()))


@given(at=st.integers(0, len(FILE) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_in_an_exported_copy_is_found(at: int, bit: int) -> None:
    damaged = bytearray(FILE)
    damaged[at] ^= 1 << bit
    try:
        problems = verify(imported(bytes(damaged))).problems
    except BadInput:
        return
    assert problems


@pytest.mark.parametrize("gone", range(len(history())))
def test_a_message_that_was_taken_out_is_missed(gone: int) -> None:
    lines = list(history())
    del lines[gone]
    if gone == len(lines):  # the end of a chain is missed by who noted its head
        whole = verify(history())
        assert verify(lines, head=(whole.entries, whole.head)).problems
    else:
        assert verify(lines).problems


def forged(number: int, **changes: object) -> list[Line]:
    """The history with one entry changed by somebody who can seal it, and everything after it sealed anew."""
    lines, previous = [], ""
    for line in history():
        if line.stream == streams.BOOK and line.data is not None:
            entry: Entry = opened(line.data.encode())
            if entry.number == number:
                entry = sealed(replace(entry, **changes))
            elif entry.number > number:
                entry = sealed(replace(entry, previous=previous))
            previous = entry.digest
            lines.append(replace(line, data=encode(entry).decode()))
        else:
            lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"paid": (Paid("n1", 60_000),)}, "other time"),
        ({"postings": (Posting("mint", -7), Posting("node.n1", 7))}, "other than what follows"),
        ({"postings": ()}, "other than what follows"),
        ({"observed": ()}, "other time"),
        ({"taken": ()}, "are in it"),
        ({"rate": 10**9}, "other than what follows"),
        ({"term": 0}, "older"),
        ({"correction": Correction("fix-1", "n1", 10**6, "for me")}, "other than what follows"),
    ],
)
def test_an_entry_that_does_not_follow_from_the_events_is_found_even_in_a_sealed_chain(
    changes: dict[str, object], problem: str
) -> None:
    assert any(problem in found for found in verify(forged(2, **changes)).problems)


def test_a_chain_that_was_rewritten_as_a_whole_is_found_by_who_noted_its_head() -> None:
    noted = verify(history())
    rewritten = forged(2, at_ms=1)
    assert verify(rewritten).problems == ()
    assert verify(rewritten, head=(noted.entries, noted.head)).problems
    assert verify(history(), head=(noted.entries, noted.head)).problems == ()
