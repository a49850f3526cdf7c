"""`fleet.ledger`: balances, corrections, and the ledger's events to check or to keep a copy of."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from client.api import Api
from client.audit import Audit, StoredClaim, Verdict
from schemas import jetstream, streams, subjects
from schemas.api import Done
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.ledger import AccountRow, Correction, CorrectRequest, LedgerReply, LedgerRequest
from schemas.names import check_id, new_id


class Line(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of an export: a message of one of the two streams, its bytes as text, or in base64 where they are no text."""

    stream: str
    seq: Annotated[int, Meta(ge=1)]
    subject: str
    data: str | None = None
    base64: str | None = None


_line: Decoder[Line] = Decoder(Line)


class Ledger:
    """The ledger of one fleet."""

    def __init__(self, bus: Bus, api: Api) -> None:
        self._bus, self._api = bus, api

    async def accounts(self) -> tuple[list[AccountRow], LedgerReply]:
        """Every account by node, and the answer of the last page for its sums."""
        rows: list[AccountRow] = []
        while True:
            page = await self._api.call("ledger", "accounts", LedgerRequest(page=_page_of(rows)), LedgerReply)
            rows += page.accounts
            if not page.accounts or len(rows) >= page.total:
                return rows, page

    async def account(self, node: str) -> tuple[AccountRow, LedgerReply]:
        """One node's account. Raises Refused (``unknown-node``) for one that has claimed nothing."""
        reply = await self._api.call("ledger", "accounts", LedgerRequest(check_id("node", node)), LedgerReply)
        return reply.accounts[0], reply

    async def correct(self, node: str, micro: int, reason: str, correction: str = "") -> Done:
        """Add so many micro-tokens to an account, or take them away; under the same `correction` id only once."""
        if not reason.strip():
            raise BadInput("reason", "a correction needs one")
        fix = Correction(correction or new_id("fix"), check_id("node", node), micro, reason[:300])
        return await self._api.call("ledger", "correct", CorrectRequest(fix), Done, 20.0)

    async def events(self) -> AsyncIterator[Line]:
        """Every message of FOG_LEDGER and FOG_BOOK up to now. The book first: what comes meanwhile is not in it yet."""
        for stream, wanted in ((streams.BOOK, subjects.BOOK_ENTRY), (streams.LEDGER, subjects.ledger("*"))):
            async for page in jetstream.read_pages(self._bus, stream, wanted):
                for message in page:
                    yield _line_of(stream, message)

    async def verify(self, head: tuple[int, str] | None = None) -> Verdict:
        """Recompute everything from the streams."""
        return verify([line async for line in self.events()], head)


def _page_of(rows: list[AccountRow]) -> int:
    from schemas.limits import PAGE

    return len(rows) // PAGE


def _line_of(stream: str, message: jetstream.StoredMessage) -> Line:
    try:
        text = message.data.decode()
    except UnicodeDecodeError:
        return Line(stream, message.seq, message.subject, base64=base64.b64encode(message.data).decode())
    return Line(stream, message.seq, message.subject, text)


def verify(lines: Iterable[Line], head: tuple[int, str] | None = None) -> Verdict:
    """Judge the events of a ledger."""
    entries, claims = [], []
    for line in lines:
        if line.stream == streams.BOOK and line.subject == subjects.BOOK_ENTRY:
            entries.append((line.seq, _data(line)))
        elif line.stream == streams.LEDGER and line.subject.startswith(subjects.ledger("")):
            claims.append(StoredClaim(line.seq, line.subject[len(subjects.ledger("")) :], _data(line)))
        else:
            raise BadInput("stream", f"{line.stream:.40} {line.subject:.80} is no part of a ledger")
    audit = Audit(claims)
    for seq, data in sorted(entries):
        audit.entry(seq, data)
    return audit.verdict(head)


def _data(line: Line) -> bytes:
    if (line.data is None) is (line.base64 is None):
        raise BadInput("data", f"message {line.seq} has no content, or two")
    if line.data is not None:
        return line.data.encode()
    try:
        return base64.b64decode(line.base64 or "", validate=True)
    except ValueError:
        raise BadInput("base64", f"message {line.seq} is not base64") from None


def exported(line: Line) -> bytes:
    """A line as it is kept in a file."""
    return encode(line) + b"\n"


def imported(text: bytes) -> list[Line]:
    """The lines of an exported copy. Raises BadInput that names the line."""
    found: list[Line] = []
    *lines, rest = text.split(b"\n")
    if rest:
        raise BadInput(f"line {len(lines) + 1}", "it does not end: the copy is cut short")
    for number, line in enumerate(lines, 1):
        try:
            found.append(_line(line))
        except BadInput as error:
            raise BadInput(f"line {number}", str(error)) from None
        if msgspec.json.encode(found[-1]) != line:
            raise BadInput(f"line {number}", "it is not spelled as it was written")
    return found
