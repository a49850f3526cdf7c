"""Tokens for harvested time (SPEC 6.5): what a device claims, and the book in which the coordinator records what it pays.

A *claim* (FOG_LEDGER, ``ledger.<node>``) lists the time in which a device worked. The *book* (FOG_BOOK, ``book.entry``) is a
chain of entries, appended by the acting coordinator alone: which claims it took, in which time it saw the device harvest, and
what follows. Paid is the time that is both claimed and observed, each moment once. So claims may come twice, late and in any
order, cut in any way: the balance is the same. Amounts are whole micro-tokens; nothing is ever changed or removed, a
correction is an entry of its own. All times of devices are in whole milliseconds since 1970 by the device's own clock.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.names import Id, Named
from schemas.spans import Span

MICRO = 1_000_000  # micro-tokens of a token
RATE = 100 * MICRO  # micro-tokens for an hour
HOUR_MS = 3_600_000
CLAIM_SPANS_MAX = 600
CLAIM_MAX_MS = 24 * HOUR_MS  # that one claim may reach over
AT_MAX_MS = 1 << 52  # exact in every language's JSON
MINT = "mint"  # the account that tokens come from: minus all that there are
NO_DIGEST = "0" * 64

Millis = Annotated[int, Meta(ge=0, le=AT_MAX_MS)]
ClaimId = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,63}\.\d{1,9}(?!\n)$")]
Reason = Annotated[str, Meta(max_length=300)]


class Claim(Struct, frozen=True, omit_defaults=True):
    """Useful time of one session: work ran, and was not suspended. `id` is ``<session>.<n>``, made on the device and kept on
    its disk before it is sent. `since` is when the session began. `spans` are in order and do not overlap. `ended`: it is the
    session's last claim.
    """

    id: ClaimId
    node: Named
    session: Id
    since: Millis
    spans: Annotated[tuple[tuple[Millis, Millis], ...], Meta(max_length=CLAIM_SPANS_MAX)] = ()
    ended: bool = False


class Taken(Struct, frozen=True, array_like=True):
    """A claim that the book has: its place in FOG_LEDGER and the digest of its bytes. `problem`: why it counts for nothing."""

    seq: int
    node: str
    digest: str
    problem: str = ""


class Observed(Struct, frozen=True, array_like=True):
    """Time in which the coordinator saw the node harvest, by the clock of the node's own beats."""

    node: str
    spans: tuple[Span, ...]


class Paid(Struct, frozen=True, array_like=True):
    """Time of a node that is paid by this entry: claimed and observed, and not paid before."""

    node: str
    ms: int


class Correction(Struct, frozen=True):
    """What an operator put right, by `micro` tokens more or fewer. The same id is booked once."""

    id: Id
    node: Id
    micro: int
    reason: Reason


class Posting(Struct, frozen=True, array_like=True):
    """A change of one account. Those of an entry sum to zero."""

    account: str
    micro: int


class Entry(Struct, frozen=True, omit_defaults=True):
    """One entry of the book. `number` counts from 1; `previous` is the digest of the entry before; `claims_seq` the last
    message of FOG_LEDGER that is taken with it. `digest` is that of the entry itself, encoded without it.
    """

    number: int
    previous: str
    at_ms: int
    term: int
    coordinator: str
    claims_seq: int
    rate: int  # micro-tokens an hour
    taken: tuple[Taken, ...] = ()
    observed: tuple[Observed, ...] = ()
    paid: tuple[Paid, ...] = ()
    correction: Correction | None = None
    postings: tuple[Posting, ...] = ()
    digest: str = ""


claim_of: Decoder[Claim] = Decoder(Claim)
_entry: Decoder[Entry] = Decoder(Entry)


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sealed(entry: Entry) -> Entry:
    """The entry with its digest."""
    return replace(entry, digest=digest(encode(replace(entry, digest=""))))


def opened(data: bytes) -> Entry:
    """An entry from the book. Raises BadInput when any byte of it is not as it was written."""
    entry = _entry(data)
    if sealed(entry).digest != entry.digest:
        raise BadInput("digest", "the entry is not as it was written")
    if encode(entry) != data:
        raise BadInput("entry", "it is not spelled as it was written")
    return entry


def account_of(node: str) -> str:
    """The name of a node's account."""
    return f"node.{node}"


def check_claim(claim: Claim, node: str) -> None:
    """Raise BadInput unless the claim, which came on the subject of `node`, is sound in itself."""
    if claim.node != node:
        raise BadInput("node", "not the one that the subject names")
    if claim.id.rpartition(".")[0] != claim.session:
        raise BadInput("id", "it is not one of its session's")
    at = 0
    for start, end in claim.spans:
        if start < at or end <= start:
            raise BadInput("spans", "they are not in order")
        at = end
    if claim.spans and claim.spans[-1][1] - claim.spans[0][0] > CLAIM_MAX_MS:
        raise BadInput("spans", "they reach over more than a day")


def micro_of(owed: int) -> int:
    """Whole micro-tokens of so many millisecond-micro-tokens-an-hour: the sum of ``ms * rate``. The rest stays owed."""
    return owed // HOUR_MS


# What is asked and answered.


class LedgerRequest(Struct, frozen=True, omit_defaults=True):
    """A node's account; of none: a page of all of them, by node. `page` counts from 0."""

    node: Annotated[str, Meta(max_length=63)] = ""
    page: Annotated[int, Meta(ge=0)] = 0


class CorrectRequest(Struct, frozen=True):
    """Book a correction. Asking again with the same id books it once."""

    correction: Correction


class AccountRow(Struct, frozen=True, omit_defaults=True):
    """One account. `paid_ms` is useful time that is paid; `claimed_ms` and `observed_ms` what it is the common part of."""

    node: str
    micro: int = 0
    paid_ms: int = 0
    claimed_ms: int = 0
    observed_ms: int = 0
    sessions: int = 0
    claims: int = 0
    refused: int = 0
    corrected: int = 0  # micro-tokens by corrections, within `micro`


class LedgerReply(Struct, frozen=True, omit_defaults=True):
    """A page of accounts. `total` counts all of them; `micro` and `paid_ms` sum them up. `head` and `entries` name the end of
    the book: noted elsewhere, they show later that nothing before it was rewritten. `rate`: micro-tokens an hour."""

    accounts: tuple[AccountRow, ...]
    total: int
    page: int
    micro: int
    paid_ms: int
    entries: int
    head: str
    rate: int
    waiting: int = 0  # claims that are stored and not booked yet
