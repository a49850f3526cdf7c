"""Checking the ledger from its events alone: nothing that the coordinator says is believed.

Every entry must be as it was written, follow the one before, and take claims that are as they were; what it pays must be the
time that was both claimed and observed, each moment once, and its postings must sum to zero. Works on the streams of a fleet
and on an exported copy. A chain alone cannot show that it was rewritten as a whole, or cut short: for that, note the head
elsewhere and name it as `head`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from schemas.errors import BadInput
from schemas.ledger import (
    MINT,
    NO_DIGEST,
    Claim,
    Entry,
    Paid,
    Posting,
    account_of,
    check_claim,
    claim_of,
    digest,
    micro_of,
    opened,
)
from schemas.spans import Spans

PROBLEMS_MAX = 100  # that are told; the first says most


class StoredClaim(Struct, frozen=True):
    """A message of FOG_LEDGER: its place, the node of its subject, its bytes."""

    seq: int
    node: str
    data: bytes


class Verdict(Struct, frozen=True):
    """What came of it. `micro` is each account's balance, recomputed, `mint` minus their sum; `unbooked` counts claims that
    are stored and in no entry yet. All is well when there are no `problems`."""

    problems: tuple[str, ...]
    entries: int
    claims: int
    unbooked: int
    head: str
    micro: dict[str, int]
    paid_ms: dict[str, int]
    mint: int


class _Account(Struct):
    claimed: Spans = field(default_factory=Spans)
    observed: Spans = field(default_factory=Spans)
    ids: dict[str, str] = {}
    paid_ms: int = 0
    owed: int = 0
    paid_micro: int = 0
    corrected: int = 0


class Audit:
    """Give it the claims, then the entries in order, then ask for the verdict."""

    def __init__(self, claims: Iterable[StoredClaim]) -> None:
        self._claims = {claim.seq: claim for claim in claims}
        self._accounts: dict[str, _Account] = {}
        self._balances: dict[str, int] = {}  # by the postings, to be held against what follows from the events
        self._heads: dict[int, str] = {0: NO_DIGEST}
        self._corrections: set[str] = set()
        self._number, self._term, self._claims_seq = 0, 0, 0
        self._taken = 0
        self._problems: list[str] = []

    def entry(self, seq: int, data: bytes) -> None:
        """The next entry, as the book has it at that place."""
        try:
            entry = opened(data)
        except BadInput as error:
            self._problem(f"the entry after {self._number}: {error}")
            self._number += 1
            return
        if seq != entry.number:  # nothing else is ever stored there, and nothing is ever deleted
            self._problem(f"entry {entry.number} is at the place of entry {seq}")
        for problem in self._judge(entry):
            self._problem(f"entry {entry.number}: {problem}")
        self._number, self._term = entry.number, max(self._term, entry.term)
        self._claims_seq = max(self._claims_seq, entry.claims_seq)
        self._heads[entry.number] = entry.digest

    def _problem(self, text: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(text)

    def _judge(self, entry: Entry) -> Iterator[str]:
        if entry.number != self._number + 1:
            yield f"it comes after entry {self._number}"
        if entry.previous != self._heads.get(entry.number - 1):
            yield "it does not follow the entry before, as that is now"
        if entry.term < self._term:
            yield f"its term {entry.term} is older than {self._term}, which came before"
        touched = {one.node for one in entry.observed}
        for one in entry.observed:
            for span in one.spans:
                self._account(one.node).observed.add(span)
        for seq, node, mark, refused in ((t.seq, t.node, t.digest, t.problem) for t in entry.taken):
            if not self._claims_seq < seq <= entry.claims_seq:
                yield f"claim {seq} is not one of those that it takes"
            problem, claim = self._look_up(seq, node, mark, counted=not refused)
            if problem:
                yield problem
            if claim is not None and claim.id not in self._account(node).ids:
                touched.add(node)
                self._account(node).ids[claim.id] = mark
                for span in claim.spans:
                    self._account(node).claimed.add(span)
        yield from self._judge_amounts(entry, touched)

    def _look_up(self, seq: int, node: str, mark: str, *, counted: bool) -> tuple[str, Claim | None]:
        """The claim that an entry took, if it counts, or what is wrong with it."""
        self._taken += 1
        stored = self._claims.get(seq)
        if stored is None:
            return f"claim {seq}, which it takes, is gone", None
        if digest(stored.data) != mark or node not in ("", stored.node):
            return f"claim {seq}, which it takes, is not as it was", None
        if not counted:
            return "", None
        try:
            claim = claim_of(stored.data)
            check_claim(claim, node)
        except BadInput as error:
            return f"claim {seq}, which it counts, is not sound: {error}", None
        if self._account(node).ids.get(claim.id, mark) != mark:
            return f"claim {seq} was counted, although {claim.id} was known with another content", None
        return "", claim

    def _judge_amounts(self, entry: Entry, touched: set[str]) -> Iterator[str]:
        """What follows from the events up to here, against what the entry says."""
        paid, wanted = [], []
        for node in sorted(touched):
            account = self._account(node)
            both_ms = sum(account.observed.covered_ms(span) for span in account.claimed)
            ms, account.paid_ms = both_ms - account.paid_ms, both_ms
            if ms:
                account.owed += ms * entry.rate
                micro = micro_of(account.owed) - account.paid_micro
                account.paid_micro += micro
                paid.append(Paid(node, ms))
                wanted.append(Posting(account_of(node), micro))
        if (fix := entry.correction) is not None:
            if fix.id in self._corrections:
                yield f"the correction {fix.id} was booked before"
            self._corrections.add(fix.id)
            self._account(fix.node).corrected += fix.micro
            wanted.append(Posting(account_of(fix.node), fix.micro))
        if tuple(paid) != entry.paid:
            yield "it pays other time than was claimed and observed"
        if list(entry.postings[1:]) != wanted:
            yield "its postings are other than what follows from it"
        if sum(posting.micro for posting in entry.postings) != 0:
            yield "its postings do not sum to zero"
        for posting in entry.postings:
            self._balances[posting.account] = self._balances.get(posting.account, 0) + posting.micro

    def _account(self, node: str) -> _Account:
        return self._accounts.setdefault(node, _Account())

    def verdict(self, head: tuple[int, str] | None = None) -> Verdict:
        """`head`: the number and digest of an entry, as they were noted elsewhere."""
        micro = {node: account.paid_micro + account.corrected for node, account in sorted(self._accounts.items())}
        for node, amount in micro.items():
            if self._balances.get(account_of(node), 0) != amount:
                self._problem(f"the account of {node} is not what follows from the events")
        if self._balances.get(MINT, 0) != -sum(micro.values()):
            self._problem("there are other tokens than were minted")
        if head is not None and self._heads.get(head[0], "") != head[1]:
            gone = head[0] not in self._heads
            self._problem(f"entry {head[0]} is {'gone' if gone else 'not the one that was noted'}")
        unbooked = sum(seq > self._claims_seq for seq in self._claims)
        if len(self._claims) - unbooked != self._taken:
            self._problem(
                f"{len(self._claims) - unbooked} claims are stored up to the book's end, {self._taken} are in it"
            )
        return Verdict(
            tuple(self._problems), self._number, self._taken, unbooked, self._heads.get(self._number, NO_DIGEST), micro,
            {node: account.paid_ms for node, account in self._accounts.items()}, self._balances.get(MINT, 0),
        )  # fmt: skip
