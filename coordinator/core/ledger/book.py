"""The book as the coordinator holds it: accounts folded from its entries, and the next entry from what came meanwhile.

The same fold serves for what is about to be appended and for what a predecessor appended, so that both always agree. An
entry that was drafted is in force here at once: should it not be stored, the whole book is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from schemas.errors import BadInput
from schemas.ledger import (
    MINT,
    NO_DIGEST,
    RATE,
    AccountRow,
    Claim,
    Correction,
    Entry,
    Observed,
    Paid,
    Posting,
    Taken,
    account_of,
    check_claim,
    claim_of,
    digest,
    micro_of,
    sealed,
)
from schemas.names import check_id
from schemas.spans import Span, Spans

PROBLEM_MAX = 200


class Account(Struct):
    """One node's: what it claimed, what was seen, what follows. `owed` is the sum of ``ms * rate`` over all that was paid, so
    that no rounding is ever lost or doubled."""

    claimed: Spans = field(default_factory=Spans)
    observed: Spans = field(default_factory=Spans)
    claims: dict[str, str] = {}  # the digests of those taken, by id
    sessions: set[str] = set()
    refused: int = 0
    paid_ms: int = 0
    owed: int = 0
    paid_micro: int = 0
    corrected: int = 0

    @property
    def micro(self) -> int:
        """Its balance."""
        return self.paid_micro + self.corrected


class Heard(Struct, frozen=True):
    """A message of FOG_LEDGER: its place, the node of its subject, the digest of its bytes, and the claim, or what is wrong."""

    seq: int
    node: str
    digest: str
    claim: Claim | None = None
    problem: str = ""


def heard(seq: int, node: str, data: bytes) -> Heard:
    """A message of FOG_LEDGER on the subject of `node`, judged by itself."""
    try:
        check_id("node", node)
    except BadInput as error:
        return Heard(seq, "", digest(data), None, str(error)[:PROBLEM_MAX])
    try:
        claim = claim_of(data)
        check_claim(claim, node)
    except BadInput as error:
        return Heard(seq, node, digest(data), None, str(error)[:PROBLEM_MAX])
    return Heard(seq, node, digest(data), claim)


class Book:
    """All accounts, up to entry `number`, whose digest is `head`. `claims_seq`: what of FOG_LEDGER is taken."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.corrections: set[str] = set()
        self.number = 0
        self.head = NO_DIGEST
        self.term = 0
        self.claims_seq = 0

    # The next entry.

    def draft(
        self,
        heard: Iterable[Heard],
        seen: Mapping[str, tuple[Span, ...]],
        *,
        at_ms: int,
        term: int,
        coordinator: str,
        rate: int = RATE,
        correction: Correction | None = None,
    ) -> Entry | None:
        """Take these in and return the entry that says so; None when it would say nothing. `heard` in the stream's order."""
        paid_ms: dict[str, int] = {}
        observed = tuple(Observed(node, spans) for node, spans in sorted(seen.items()))
        for one in observed:
            _add(paid_ms, one.node, self._observe(one))
        taken = tuple(self._take(one, paid_ms) for one in heard if one.seq > self.claims_seq)
        if correction is not None and correction.id in self.corrections:
            correction = None
        if not (taken or observed or correction):
            return None
        paid = tuple(Paid(node, ms) for node, ms in sorted(paid_ms.items()) if ms)
        postings = self._post(paid, rate, correction)
        self.claims_seq = max([self.claims_seq, *(one.seq for one in taken)])
        entry = sealed(
            Entry(
                self.number + 1, self.head, at_ms, term, coordinator, self.claims_seq, rate, taken, observed, paid,
                correction, postings,
            )
        )  # fmt: skip
        self.number, self.head, self.term = entry.number, entry.digest, term
        return entry

    def _observe(self, one: Observed) -> int:
        account = self._account(one.node)
        new = [part for span in one.spans for part in account.observed.add(span)]
        return sum(account.claimed.covered_ms(part) for part in new)

    def _take(self, one: Heard, paid_ms: dict[str, int]) -> Taken:
        problem = one.problem
        if one.claim is not None:
            account = self._account(one.node)
            known = account.claims.get(one.claim.id)
            if known is None:
                _add(paid_ms, one.node, self._claim(account, one.claim, one.digest))
            elif known != one.digest:
                problem = f"{one.claim.id} was claimed before, with another content"
        if problem and one.node:
            self._account(one.node).refused += 1
        return Taken(one.seq, one.node, one.digest, problem)

    def _claim(self, account: Account, claim: Claim, mark: str) -> int:
        account.claims[claim.id] = mark
        account.sessions.add(claim.session)
        new = [part for span in claim.spans for part in account.claimed.add(span)]
        return sum(account.observed.covered_ms(part) for part in new)

    def _post(self, paid: Iterable[Paid], rate: int, correction: Correction | None) -> tuple[Posting, ...]:
        postings = []
        for one in paid:
            account = self._account(one.node)
            account.paid_ms += one.ms
            account.owed += one.ms * rate
            micro = micro_of(account.owed) - account.paid_micro
            account.paid_micro += micro
            postings.append(Posting(account_of(one.node), micro))
        if correction is not None:
            self.corrections.add(correction.id)
            self._account(correction.node).corrected += correction.micro
            postings.append(Posting(account_of(correction.node), correction.micro))
        minted = sum(posting.micro for posting in postings)
        return (Posting(MINT, -minted), *postings) if postings else ()

    # What a predecessor appended.

    def replay(self, entry: Entry, claims: Mapping[int, Heard]) -> None:
        """Fold an entry of the book; `claims` are the messages that it took, by sequence. Raises BadInput where it does not
        follow from what came before: then nobody may append to this book."""
        if (entry.number, entry.previous) != (self.number + 1, self.head):
            raise BadInput("previous", f"entry {entry.number} does not follow entry {self.number}")
        heard = []
        for one in entry.taken:
            message = claims.get(one.seq)
            if message is None or message.digest != one.digest:
                raise BadInput("taken", f"claim {one.seq}, taken by entry {entry.number}, is not as it was")
            # What was refused then stays refused, whatever this version would say.
            heard.append(replace(message, claim=None, problem=one.problem) if one.problem else message)
        again = self.draft(
            heard, {one.node: one.spans for one in entry.observed}, at_ms=entry.at_ms, term=entry.term,
            coordinator=entry.coordinator, rate=entry.rate, correction=entry.correction,
        )  # fmt: skip
        if again != entry:
            raise BadInput("entry", f"entry {entry.number} says something else than what follows from its events")

    # Looking.

    def _account(self, node: str) -> Account:
        account = self.accounts.get(node)
        if account is None:
            account = self.accounts[node] = Account()
        return account

    def row(self, node: str) -> AccountRow:
        """One account as it is told."""
        account = self.accounts.get(node, Account())
        return AccountRow(
            node, account.micro, account.paid_ms, account.claimed.total_ms, account.observed.total_ms,
            len(account.sessions), len(account.claims), account.refused, account.corrected,
        )  # fmt: skip

    def totals(self) -> tuple[int, int]:
        """Micro-tokens that there are, and milliseconds that they were paid for."""
        accounts = self.accounts.values()
        return sum(account.micro for account in accounts), sum(account.paid_ms for account in accounts)


def _add(sums: dict[str, int], node: str, ms: int) -> None:
    sums[node] = sums.get(node, 0) + ms
